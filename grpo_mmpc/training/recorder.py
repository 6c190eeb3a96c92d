"""Rollouts on disk: one Parquet file per optimiser step, readable without this toolkit."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.rewards import completion_text
from grpo_mmpc.utils.files import replace_atomically
from grpo_mmpc.utils.hashing import file_digest

if TYPE_CHECKING:
    from grpo_mmpc.training.trl_seams import GatheredBatch


@dataclass
class RolloutRecorder:
    """Writes ``step-000001.parquet``; further batches of a step go to ``step-000001-2.parquet``."""

    folder: Path
    _step: int = 0
    _batch: int = 0

    def write(self, *, step: int, batch: "GatheredBatch", weights: Mapping[str, float], num_generations: int) -> Path:
        """Write one generation batch over all ranks: B*G completions, group after group.

        ``step`` is the 1-based optimiser step that they are first used in, ``num_generations`` is
        G.
        """
        # heavy: imported on use
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._batch = self._batch + 1 if step == self._step else 1
        self._step = step
        logs, raw, count = batch.logs, batch.raw, len(batch.prompt_ids)
        weighted = {
            name: [None if value is None else weights[name] * value for value in values] for name, values in raw.items()
        }
        table: dict[str, Any] = {
            "step": pa.array([step] * count, pa.int64()),
            **{name: pa.array(logs[name], pa.string()) for name in ("prompt_id", "item_id", "category", "task")},
            "generation": pa.array([i % num_generations for i in range(count)], pa.int64()),
            "prompt": pa.array(logs["prompt_text"], pa.string()),
            "completion": pa.array([completion_text(completion) for completion in logs["completion"]], pa.string()),
            "prediction": pa.array(logs["prediction"], pa.string()),
            "format": pa.array(logs["format"], pa.string()),
            **{f"reward/{name}": pa.array(values, pa.float64()) for name, values in raw.items()},
            **{f"weighted/{name}": pa.array(values, pa.float64()) for name, values in weighted.items()},
            "advantage": pa.array(logs["advantages"], pa.float64()),
            "image_path": pa.array(logs["image_path"], pa.string()),
            "image_hash": pa.array([_file_hash(path) for path in logs["image_path"]], pa.string()),
        }
        suffix = "" if self._batch == 1 else f"-{self._batch}"
        path = self.folder / f"step-{step:06d}{suffix}.parquet"
        with replace_atomically(path) as partial:
            pq.write_table(pa.table(table), partial)
        return path

    def drop_after(self, step: int) -> None:
        """Delete rollouts after a step: a run that continues from it records them again."""
        for path in self.folder.glob("step-*.parquet"):
            if int(path.stem.split("-")[1]) > step:
                path.unlink()


@cache
def _file_hash(path: str | None) -> str | None:
    try:
        return None if path is None else file_digest(Path(path))
    except OSError:  # it was deleted since it was shown
        return None
