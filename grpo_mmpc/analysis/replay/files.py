"""What a rescoring leaves on disk: every completion under both mixes, and the summary."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from grpo_mmpc.analysis.replay.rollouts import RolloutBatch
from grpo_mmpc.utils.files import write_text

ROLLOUTS, SUMMARY = "rollouts.parquet", "summary.json"


class RolloutWriter:
    """Writes ``rollouts.parquet`` batch by batch; the file appears when all of them are there.

    Columns: ``step, prompt_id, item_id, category, task, generation, completion, prediction,
        format`` as recorded,
    ``reference``, ``reward/NAME`` of the new mix, ``old_reward/NAME`` as recorded, ``advantage``,
    ``old_advantage``. Null new values mean unscored; a null ``advantage`` means that the catalogue
    no longer has the item.
    """

    def __init__(self, folder: Path, *, rewards: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / ROLLOUTS
        self._partial = self._path.with_name(f"{ROLLOUTS}.part")
        self._rewards = rewards
        self._writer: Any = None

    def __enter__(self) -> "RolloutWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def write(
        self,
        batch: RolloutBatch,
        *,
        references: Sequence[str | None],
        raw: Mapping[str, Sequence[float | None]],
        advantages: Sequence[float | None],
    ) -> None:
        """Add a batch; all sequences are as long as it."""
        # heavy: imported on use
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "step": pa.array([batch.step] * len(batch), pa.int64()),
                **{
                    name: pa.array(values, pa.int64() if name == "generation" else pa.string())
                    for name, values in batch.columns.items()
                },
                "reference": pa.array(references, pa.string()),
                **{f"reward/{name}": pa.array(raw[name], pa.float64()) for name in self._rewards},
                **{f"old_reward/{name}": pa.array(values, pa.float64()) for name, values in batch.raw.items()},
                "advantage": pa.array(advantages, pa.float64()),
                "old_advantage": pa.array(batch.advantages, pa.float64()),
            }
        )
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._partial, table.schema)
        self._writer.write_table(table)


def write_summary(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write ``summary.json``, replacing the file in one step."""
    path = folder / SUMMARY
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path
