"""The Pareto front: mixes that no other mix beats in two metrics at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from grpo_mmpc.ablation.comparison import AblationComparison, MetricRow
from grpo_mmpc.statistics.crossed import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One mix in the plane of two metrics."""

    mix: str
    x: Estimate
    y: Estimate
    on_front: bool
    """True if no other mix is at least as good in both means and better in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pareto:
    """All mixes in the plane of two metrics."""

    x: MetricRow
    y: MetricRow
    points: list[Point]

    @property
    def front(self) -> list[str]:
        """Names of the mixes on the front."""
        return [point.mix for point in self.points if point.on_front]


def pareto(comparison: AblationComparison, names: Sequence[str] | None) -> Pareto | None:
    """Place all mixes in the plane of two ``TASK.METRIC``; None without names or scores."""
    rows = {row.name: row for row in comparison.rows}
    if names is None or any(name not in rows for name in names):
        return None
    x, y = (rows[name] for name in names)
    levels = {
        left.mix: (left.level, right.level)
        for left, right in zip(x.cells, y.cells, strict=True)
        if left.level is not None and right.level is not None
    }
    signs = [1 if row.higher_is_better else -1 for row in (x, y)]
    heights = {mix: (signs[0] * pair[0].value, signs[1] * pair[1].value) for mix, pair in levels.items()}
    points = [
        Point(
            mix=mix, x=pair[0], y=pair[1], on_front=not any(_beats(other, heights[mix]) for other in heights.values())
        )
        for mix, pair in levels.items()
    ]
    return Pareto(x=x, y=y, points=points) if points else None


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one != other
