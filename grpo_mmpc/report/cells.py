"""``comparison.json`` as records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.evaluation.statistics import verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One metric on one group of items, before against after."""

    before: float | None
    """None = nothing was scored."""
    after: float | None
    delta: float | None
    interval: tuple[float, float] | None
    """Confidence interval of the difference; None = too few items for one."""
    corrected: tuple[float, float] | None
    """The wider interval that holds for all categories at once; None for other groups."""
    n: int
    n_scored: int
    was_reward: bool
    higher_is_better: bool
    verdict: str
    """``better``, ``worse``, ``no evidence``, ``too few items`` or ``unscored``."""

    @property
    def is_certain(self) -> bool:
        """Whether the change also holds after correction for the number of categories."""
        return self.corrected is not None and (self.corrected[0] > 0 or self.corrected[1] < 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """One task, before against after."""

    task: str
    n: int
    """Paired items."""
    before_only: int
    after_only: int
    metrics: Mapping[str, Cell]
    macro: Mapping[str, Cell]
    """Unweighted means over categories; ``n`` counts categories."""
    categories: Mapping[str, Mapping[str, Cell]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two evaluated checkpoints, compared."""

    before: str
    after: str
    confidence: float
    resamples: int
    tasks: list[TaskComparison]

    @property
    def percent(self) -> str:
        """``95%``."""
        return f"{100 * self.confidence:g}%"


def read_comparison(content: Mapping[str, Any]) -> Comparison:
    """Turn the JSON object into records.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is not such an object.
    """
    confidence = float(content.get("confidence", 0.95))
    key = f"ci{100 * confidence:g}"
    return Comparison(
        before=str(content["before"]),
        after=str(content["after"]),
        confidence=confidence,
        resamples=int(content["resamples"]),
        tasks=[_read_task(str(name), task, key) for name, task in content["tasks"].items()],
    )


def _read_task(name: str, task: Mapping[str, Any], key: str) -> TaskComparison:
    metrics = {str(metric): _read_cell(cell, key) for metric, cell in task["metrics"].items()}
    upward = {metric: cell.higher_is_better for metric, cell in metrics.items()}

    def read(cells: Mapping[str, Any]) -> dict[str, Cell]:
        return {
            str(metric): _read_cell(cell, key, higher_is_better=upward.get(str(metric), True))
            for metric, cell in cells.items()
        }

    unpaired = task.get("unpaired", {})
    return TaskComparison(
        task=name,
        n=int(task.get("n", max((cell.n for cell in metrics.values()), default=0))),
        before_only=int(unpaired.get("before_only", 0)),
        after_only=int(unpaired.get("after_only", 0)),
        metrics=metrics,
        macro=read(task.get("macro", {})),
        categories={str(category): read(cells) for category, cells in task["categories"].items()},
    )


def _read_cell(cell: Mapping[str, Any], key: str, *, higher_is_better: bool = True) -> Cell:
    delta, interval = _number(cell["delta"]), _interval(cell.get(key))
    higher_is_better = bool(cell.get("higher_is_better", higher_is_better))
    n = int(cell.get("n", cell.get("categories", 0)))
    return Cell(
        before=_number(cell["before"]),
        after=_number(cell["after"]),
        delta=delta,
        interval=interval,
        corrected=_interval(cell.get(f"{key}_corrected")),
        n=n,
        n_scored=int(cell.get("n_scored", n)),
        was_reward=bool(cell.get("was_reward", False)),
        higher_is_better=higher_is_better,
        verdict=verdict(delta, interval, higher_is_better=higher_is_better),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _interval(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = value
    return float(low), float(high)
