"""The rollouts of a run: read batch by batch, and written again under another mix."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.utils.files import replace_atomically
from grpo_mmpc.utils.parquet import open_parquet

COLUMNS = ("prompt_id", "item_id", "category", "task", "generation", "completion", "prediction", "format")
ROLLOUTS = "rollouts.parquet"
_REWARD = "reward/"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """A generation batch over all ranks, group after group."""

    file: Path
    step: int
    """1-based optimiser step that the rollouts were first used in."""
    columns: dict[str, list[Any]]
    """Those of ``COLUMNS``."""
    raw: dict[str, list[float | None]]
    """Recorded raw values by reward; None = unscored."""
    advantages: list[float]
    """The advantages that the trainer used."""

    def __len__(self) -> int:
        return len(self.advantages)


WriteRollouts = Callable[
    [RolloutBatch, Sequence[str | None], Mapping[str, Sequence[float | None]], Sequence[float | None]], None
]
"""Adds a batch with its references, new raw rewards and new advantages, all as long as it."""


def read_batches(files: list[Path]) -> Iterator[RolloutBatch]:
    """Yield the batches, one in memory at a time.

    Raises:
        EvaluationError: A file that cannot be read, or lacks a column.
    """
    # heavy: imported on use
    import pyarrow as pa

    for file in files:
        try:
            table = open_parquet(file, folder=file.parent.parent).read()
        except (OSError, pa.ArrowException) as error:
            raise EvaluationError(
                f"{file} cannot be read as Parquet ({error}); move it away to leave it out"
            ) from error
        missing = [name for name in ("step", *COLUMNS, "advantage") if name not in table.column_names]
        if missing or not table.num_rows:
            what = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
            raise EvaluationError(f"{file} {what}; expected rollouts as `grpo-mmpc train` records them")
        yield RolloutBatch(
            file=file,
            step=table["step"][0].as_py(),
            columns={name: table[name].to_pylist() for name in COLUMNS},
            raw={
                name.removeprefix(_REWARD): table[name].to_pylist()
                for name in table.column_names
                if name.startswith(_REWARD)
            },
            advantages=table["advantage"].to_pylist(),
        )


@contextmanager
def writing_rollouts(folder: Path, *, rewards: Sequence[str]) -> Iterator[WriteRollouts]:
    """Yield a writer of ``rollouts.parquet``, batch by batch; the file appears when the block ends.

    Columns: ``step, prompt_id, item_id, category, task, generation, completion, prediction,
    format`` as recorded, ``reference``, ``reward/NAME`` of the new mix, ``old_reward/NAME`` as
    recorded, ``advantage``, ``old_advantage``. Null new values mean unscored; a null ``advantage``
    means that the catalogue no longer has the item, or that its task is not trained.
    """
    # heavy: imported on use
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None

    def write(
        batch: RolloutBatch,
        references: Sequence[str | None],
        raw: Mapping[str, Sequence[float | None]],
        advantages: Sequence[float | None],
    ) -> None:
        nonlocal writer
        table = pa.table(
            {
                "step": pa.array([batch.step] * len(batch), pa.int64()),
                **{
                    name: pa.array(values, pa.int64() if name == "generation" else pa.string())
                    for name, values in batch.columns.items()
                },
                "reference": pa.array(references, pa.string()),
                **{f"{_REWARD}{name}": pa.array(raw[name], pa.float64()) for name in rewards},
                **{f"old_{_REWARD}{name}": pa.array(values, pa.float64()) for name, values in batch.raw.items()},
                "advantage": pa.array(advantages, pa.float64()),
                "old_advantage": pa.array(batch.advantages, pa.float64()),
            }
        )
        if writer is None:
            writer = stack.enter_context(pq.ParquetWriter(path, table.schema))
        writer.write_table(table)

    with replace_atomically(folder / ROLLOUTS) as path, ExitStack() as stack:
        yield write
