"""The records of a comparison, as they are computed and as ``comparison.json`` holds them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.metric_tables import find_metric
from grpo_mmpc.statistics.verdicts import VERDICTS, Interval, interval_key
from grpo_mmpc.utils.files import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One metric on one group of items, before against after."""

    before: float | None
    """None = nothing was scored."""
    after: float | None
    delta: float | None
    interval: Interval | None
    """Confidence interval of the difference; None = too few items for one, or no values per
    item."""
    corrected: Interval | None
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
    """One of ``statistics.verdicts.VERDICTS``."""


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
    unpaired_metrics: tuple[str, ...] = ()
    """Metrics that only one of the evaluations holds; left out."""
    flips: int = 0
    """Random flips of the permutation test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best checkpoint of a run, as ``best.json`` holds it."""

    checkpoint: str
    metric: str
    """``TASK.METRIC``."""
    values: dict[str, float]
    """Of every candidate, on the deciding items."""
    num_items: int
    items: float
    """Share of the evaluated items that decide, see ``best.decides``."""


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
    best: Best | None
    """How ``after`` was chosen among the checkpoints; None where it was not."""
    suite: str = "cqbench"
    version: str = ""
    mode: str = "corrected"
    seed: int = 0
    rewards: Mapping[str, list[str]] = field(default_factory=dict)
    """By task, names of the rewards that were trained on."""

    @property
    def percent(self) -> str:
        """``95%``."""
        return f"{100 * self.confidence:g}%"

    def to_json(self) -> dict[str, Any]:
        """Return the object of ``comparison.json``."""
        key = interval_key(self.confidence)
        names = ("before", "after", "before_folder", "after_folder", "suite", "version", "mode")
        return {
            **{name: getattr(self, name) for name in (*names, "resamples", "confidence", "seed")},
            "rewards": {task: list(names) for task, names in self.rewards.items()},
            "tasks": _tasks_to_json(self.tasks, key, self.mode),
            "controls": {name: _tasks_to_json(tasks, key, self.mode) for name, tasks in self.controls.items()},
            **({} if self.best is None else {"best": asdict(self.best)}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Comparison":
        """Read what ``to_json`` gives.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is not such an object.
        """
        confidence = float(content.get("confidence", 0.95))
        key = interval_key(confidence)
        best = content.get("best")
        return cls(
            before=str(content["before"]),
            after=str(content["after"]),
            before_folder=str(content.get("before_folder", "")),
            after_folder=str(content.get("after_folder", "")),
            suite=str(content.get("suite", "cqbench")),
            version=str(content.get("version", "")),
            mode=str(content.get("mode", "corrected")),
            confidence=confidence,
            resamples=int(content["resamples"]),
            seed=int(content.get("seed", 0)),
            rewards={str(task): list(map(str, names)) for task, names in content.get("rewards", {}).items()},
            tasks=_tasks_from_json(content["tasks"], key),
            controls={
                str(control): _tasks_from_json(tasks, key) for control, tasks in content.get("controls", {}).items()
            },
            best=Best(**best) if best else None,
        )


def write_comparisons(path: Path, comparisons: Iterable[Comparison]) -> None:
    """Write one comparison as an object, several as ``{"comparisons": [...]}``."""
    contents = [comparison.to_json() for comparison in comparisons]
    content = contents[0] if len(contents) == 1 else {"comparisons": contents}
    write_json(path, content)


def _tasks_to_json(tasks: Iterable[TaskComparison], key: str, mode: str) -> dict[str, Any]:
    return {task.task: _task_to_json(task, key, mode) for task in tasks}


def _task_to_json(task: TaskComparison, key: str, mode: str) -> dict[str, Any]:
    def category(cells: Mapping[str, Cell]) -> dict[str, Any]:
        several = len(task.categories) > 1
        # Metrics of whole sets have no interval that could be corrected.
        return {
            name: _cell_to_json(cell, key, corrected=several and not _of_set(name, mode))
            for name, cell in cells.items()
        }

    return {
        "n": task.n,
        "unpaired": {"before_only": task.before_only, "after_only": task.after_only},
        "held_back": task.held_back,
        "unpaired_metrics": list(task.unpaired_metrics),
        "flips": task.flips,
        "metrics": {name: _cell_to_json(cell, key) for name, cell in task.metrics.items()},
        "macro": {name: _cell_to_json(cell, key, counts=("categories",)) for name, cell in task.macro.items()},
        "categories": {name: category(cells) for name, cells in task.categories.items()},
        "families": dict(task.families),
    }


def _cell_to_json(
    cell: Cell, key: str, *, corrected: bool = False, counts: tuple[str, ...] = ("n", "n_scored")
) -> dict[str, Any]:
    return {
        **{name: getattr(cell, name) for name in ("before", "after", "delta")},
        key: cell.interval and list(cell.interval),
        **{name: getattr(cell, name) for name in ("p", "p_holm", "effect_size", "verdict")},
        **({f"{key}_corrected": cell.corrected and list(cell.corrected)} if corrected else {}),
        **dict(zip(counts, (cell.n, cell.n_scored), strict=False)),
        "was_reward": cell.was_reward,
        "higher_is_better": cell.higher_is_better,
    }


def _of_set(name: str, mode: str) -> bool:
    metric = find_metric(name, mode=mode)
    return metric is not None and metric.of_set is not None


def _tasks_from_json(tasks: Mapping[str, Any], key: str) -> list[TaskComparison]:
    return [_task_from_json(str(name), task, key) for name, task in tasks.items()]


def _task_from_json(name: str, task: Mapping[str, Any], key: str) -> TaskComparison:
    def read(cells: Mapping[str, Any]) -> dict[str, Cell]:
        return {str(metric): _cell_from_json(cell, key) for metric, cell in cells.items()}

    metrics, unpaired = read(task["metrics"]), task.get("unpaired", {})
    return TaskComparison(
        task=name,
        n=int(task.get("n", max((cell.n for cell in metrics.values()), default=0))),
        before_only=int(unpaired.get("before_only", 0)),
        after_only=int(unpaired.get("after_only", 0)),
        held_back=int(task.get("held_back", 0)),
        unpaired_metrics=tuple(map(str, task.get("unpaired_metrics", ()))),
        flips=int(task.get("flips", 0)),
        families={str(kind): int(count) for kind, count in task.get("families", {}).items()},
        metrics=metrics,
        macro=read(task.get("macro", {})),
        categories={str(category): read(cells) for category, cells in task["categories"].items()},
    )


def _cell_from_json(cell: Mapping[str, Any], key: str) -> Cell:
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


def _interval(value: Any) -> Interval | None:
    if value is None:
        return None
    low, high = value
    return Interval(float(low), float(high))
