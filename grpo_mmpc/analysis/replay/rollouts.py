"""Reads the rollouts that a run has saved, generation batch by generation batch, in the order they were made."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.run_folder import RunFolder

COLUMNS = ("prompt_id", "item_id", "category", "task", "generation", "completion", "prediction", "format")
_REWARD = "reward/"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """One generation batch over all ranks, group after group."""

    file: Path
    step: int
    """1-based optimiser step that the rollouts were first used in."""
    columns: dict[str, list[Any]]
    """Those of ``COLUMNS``."""
    raw: dict[str, list[float | None]]
    """Recorded raw values by reward; None = unscored."""
    advantages: list[float]
    """As the trainer used them."""

    def __len__(self) -> int:
        return len(self.advantages)

    def groups(self) -> list[slice]:
        """Where each prompt's completions stand."""
        prompts = self.columns["prompt_id"]
        starts = [i for i, prompt in enumerate(prompts) if i == 0 or prompt != prompts[i - 1]]
        return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(prompts)], strict=True)]


def rollout_files(run: Path) -> list[Path]:
    """The files of a run in the order of their steps and, within a step, of their batches.

    Raises:
        EvaluationError: No run folder, or no rollouts in it.
    """
    if not (run / "config.yaml").is_file():
        raise EvaluationError(f"{run} holds no config.yaml; expected a run folder as `grpo-mmpc train` writes it")
    files = RunFolder(run).rollout_files
    if not files:
        raise EvaluationError(
            f"{run / 'rollouts'} holds no step-*.parquet: the run has not finished its first step, or its rollouts were "
            "deleted; there is nothing to score again"
        )
    return files


def read_batches(files: list[Path]) -> Iterator[RolloutBatch]:
    """The batches, one in memory at a time.

    Raises:
        EvaluationError: A file that cannot be read, or lacks a column.
    """
    # heavy: imported on use
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
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
