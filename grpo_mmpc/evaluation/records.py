"""The records of a comparison, as they are computed and as ``comparison.json`` holds them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

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
    interval: Interval | None = None
    """Confidence interval of the difference; None = too few items for one, or no values per
    item."""
    corrected: Interval | None = None
    """The wider interval that holds for all categories of one metric at once; None for other
    groups."""
    p: float | None = None
    """The p-value of this difference alone."""
    p_holm: float | None = None
    """Corrected for everything of its kind that is shown together; the verdict goes by it."""
    effect_size: float | None = None
    """Mean of the paired differences over their standard deviation; None for corpus-level metrics
    and means of means."""
    design_effect: float | None = None
    """How many times the variance is that of unrelated items; None where no items hang together."""
    detectable: float | None = None
    """The difference that these items show with a chance of 80 %, corrected for all metrics of the
    task; None for other groups and corpus-level metrics."""
    n: int
    n_scored: int
    was_reward: bool = False
    higher_is_better: bool = True
    verdict: str
    """One of ``statistics.verdicts.VERDICTS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """One task, before against after."""

    task: str
    n: int
    """Paired items."""
    groups: int | None = None
    """The number of groups of items that hang together, which were resampled as wholes; None where
    every item stands alone."""
    before_only: int = 0
    after_only: int = 0
    held_back: int = 0
    """Items that chose the checkpoint and are left out for it."""
    families: Mapping[str, int] = field(default_factory=dict)
    """The number of comparisons that p-values were corrected for: over all items (``metrics``),
    ``macro``, ``categories``."""
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
    """The value of every candidate, on the deciding items."""
    num_items: int
    items: float
    """Share of the evaluated items that decide, see ``best.decides``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two evaluated checkpoints, compared."""

    before: str
    after: str
    before_folder: str = ""
    """Empty where it is not known."""
    after_folder: str = ""
    confidence: float = 0.95
    resamples: int
    tasks: list[TaskComparison]
    controls: Mapping[str, list[TaskComparison]] = field(default_factory=dict)
    """By control, its tasks: ``before`` is the policy of ``after``, ``after`` is the control."""
    best: Best | None = None
    """The choice of ``after`` among the checkpoints; None where there was none."""
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
        key = interval_key(float(content.get("confidence", 0.95)))
        controls = content.get("controls", {})
        fields = {
            **content,
            "tasks": _tasks_from_json(content["tasks"], key),
            "controls": {name: _tasks_from_json(tasks, key) for name, tasks in controls.items()},
        }
        try:
            return TypeAdapter(cls).validate_python(fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


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
        **({} if task.groups is None else {"groups": task.groups}),
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
        **({} if cell.design_effect is None else {"design_effect": cell.design_effect}),
        **({} if cell.detectable is None else {"detectable": cell.detectable}),
        **({f"{key}_corrected": cell.corrected and list(cell.corrected)} if corrected else {}),
        **dict(zip(counts, (cell.n, cell.n_scored), strict=False)),
        "was_reward": cell.was_reward,
        "higher_is_better": cell.higher_is_better,
    }


def _of_set(name: str, mode: str) -> bool:
    metric = find_metric(name, mode=mode)
    return metric is not None and metric.of_set is not None


def _tasks_from_json(tasks: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the fields of ``TaskComparison``, yet to be validated."""

    def read(cells: Mapping[str, Any]) -> dict[str, Any]:
        return {metric: _cell_from_json(cell, key) for metric, cell in cells.items()}

    return [
        {
            "n": max((cell.get("n", 0) for cell in task["metrics"].values()), default=0),
            **task,
            **task.get("unpaired", {}),
            "task": name,
            "metrics": read(task["metrics"]),
            "macro": read(task.get("macro", {})),
            "categories": {category: read(cells) for category, cells in task["categories"].items()},
        }
        for name, task in tasks.items()
    ]


def _cell_from_json(cell: Mapping[str, Any], key: str) -> dict[str, Any]:
    if cell["verdict"] not in VERDICTS:
        raise ValueError(f"verdict is {cell['verdict']!r}, expected one of {', '.join(VERDICTS)}")
    n = cell.get("n", cell.get("categories", 0))
    return {"n": n, "n_scored": n, **cell, "interval": cell.get(key), "corrected": cell.get(f"{key}_corrected")}
