"""``comparison.json`` as records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.statistics.verdicts import VERDICTS, interval_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One metric on one group of items, before against after."""

    before: float | None
    """None = nothing was scored."""
    after: float | None
    delta: float | None
    interval: tuple[float, float] | None
    """Confidence interval of the difference; None = too few items for one, or no values per
    item."""
    corrected: tuple[float, float] | None
    """The wider interval that holds for all categories of one metric at once; None for other
    groups."""
    p: float | None
    """Of this difference alone."""
    p_holm: float | None
    """Corrected for everything of its kind that is shown together; the verdict goes by it."""
    effect_size: float | None
    """Mean of the paired differences over their standard deviation; None for corpus-level metrics
    and means of means."""
    n: int
    n_scored: int
    was_reward: bool
    higher_is_better: bool
    verdict: str
    """One of ``statistics.VERDICTS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """One task, before against after."""

    task: str
    n: int
    """Paired items."""
    before_only: int
    after_only: int
    held_back: int
    """Items that chose the checkpoint and are left out for it."""
    families: Mapping[str, int]
    """How many comparisons p-values were corrected for: over all items (``metrics``), ``macro``,
    ``categories``."""
    metrics: Mapping[str, Cell]
    macro: Mapping[str, Cell]
    """Unweighted means over categories; ``n`` counts categories."""
    categories: Mapping[str, Mapping[str, Cell]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two evaluated checkpoints, compared."""

    before: str
    after: str
    before_folder: str
    """Empty where it is not known."""
    after_folder: str
    confidence: float
    resamples: int
    tasks: list[TaskComparison]
    controls: Mapping[str, list[TaskComparison]]
    """By control, its tasks: ``before`` is the policy of ``after``, ``after`` is the control."""
    best: Mapping[str, Any]
    """How ``after`` was chosen among the checkpoints; empty where it was not."""

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
    key = interval_key(confidence)
    return Comparison(
        before=str(content["before"]),
        after=str(content["after"]),
        before_folder=str(content.get("before_folder", "")),
        after_folder=str(content.get("after_folder", "")),
        confidence=confidence,
        resamples=int(content["resamples"]),
        tasks=[_read_task(str(name), task, key) for name, task in content["tasks"].items()],
        controls={
            str(control): [_read_task(str(name), task, key) for name, task in tasks.items()]
            for control, tasks in content.get("controls", {}).items()
        },
        best=content.get("best") or {},
    )


def _read_task(name: str, task: Mapping[str, Any], key: str) -> TaskComparison:
    def read(cells: Mapping[str, Any]) -> dict[str, Cell]:
        return {str(metric): _read_cell(cell, key) for metric, cell in cells.items()}

    metrics, unpaired = read(task["metrics"]), task.get("unpaired", {})
    return TaskComparison(
        task=name,
        n=int(task.get("n", max((cell.n for cell in metrics.values()), default=0))),
        before_only=int(unpaired.get("before_only", 0)),
        after_only=int(unpaired.get("after_only", 0)),
        held_back=int(task.get("held_back", 0)),
        families={str(kind): int(count) for kind, count in task.get("families", {}).items()},
        metrics=metrics,
        macro=read(task.get("macro", {})),
        categories={str(category): read(cells) for category, cells in task["categories"].items()},
    )


def _read_cell(cell: Mapping[str, Any], key: str) -> Cell:
    n = int(cell.get("n", cell.get("categories", 0)))
    if cell["verdict"] not in VERDICTS:
        raise ValueError(f"verdict is {cell['verdict']!r}, expected one of {', '.join(VERDICTS)}")
    return Cell(
        before=_number(cell["before"]),
        after=_number(cell["after"]),
        delta=_number(cell["delta"]),
        interval=_interval(cell.get(key)),
        corrected=_interval(cell.get(f"{key}_corrected")),
        p=_number(cell.get("p")),
        p_holm=_number(cell.get("p_holm")),
        effect_size=_number(cell.get("effect_size")),
        n=n,
        n_scored=int(cell.get("n_scored", n)),
        was_reward=bool(cell.get("was_reward", False)),
        higher_is_better=bool(cell.get("higher_is_better", True)),
        verdict=str(cell["verdict"]),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _interval(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = value
    return float(low), float(high)
