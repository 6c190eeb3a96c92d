"""Mixes in the plane of two metrics, as inline SVG."""

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from grpo_mmpc.ablation.pareto import Pareto, Point
from grpo_mmpc.evaluation.metric_tables import range_of
from grpo_mmpc.reports.common.figures import Frame, Scale, dot, join, label, line, scale_for
from grpo_mmpc.reports.common.labels import metric_label, number
from grpo_mmpc.statistics.crossed import Estimate

_APART = 17
"""Least vertical distance of two labels that would lie over each other."""


def pareto_figure(front: Pareto, *, mode: str) -> Markup:
    """Draw mixes with their intervals; those of the front filled and joined by a line.

    Args:
        front: The mixes and the two metrics.
        mode: That of the evaluations, which says what values are possible.
    """

    def scale(metric: str, ends: list[float]) -> Scale:
        return scale_for(ends, max_ticks=6, bounds=range_of(metric, mode=mode))

    frame = Frame(
        width=640,
        height=420,
        left=64,
        right=24,
        top=16,
        bottom=52,
        horizontal=scale(front.x.metric, _ends([point.x for point in front.points])),
        vertical=scale(front.y.metric, _ends([point.y for point in front.points])),
    )
    on_front = sorted((point for point in front.points if point.on_front), key=lambda point: point.x.value)
    x, y = front.x, front.y
    return frame.svg(
        "pareto",
        [
            frame.value_axis(),
            frame.step_axis(lambda tick: number(tick, digits=frame.horizontal.digits), grid=True),
            frame.titles(below=_title(x.metric, x.higher_is_better), beside=_title(y.metric, y.higher_is_better)),
            *(line("front", *_place(one, frame), *_place(other, frame)) for one, other in pairwise(on_front)),
            *(_cross(point, frame) for point in front.points),
            *_names(front.points, frame),
        ],
        spoken=f"{metric_label(x.metric)} against {metric_label(y.metric)}; front: {', '.join(front.front)}",
    )


def _place(point: Point, frame: Frame) -> tuple[float, float]:
    return frame.x(point.x.value), frame.y(point.y.value)


def _cross(point: Point, frame: Frame) -> Markup:
    x, y = _place(point, frame)
    lines = []
    if point.x.interval is not None:
        lines.append(line("reach", frame.x(point.x.interval.low), y, frame.x(point.x.interval.high), y))
    if point.y.interval is not None:
        lines.append(line("reach", x, frame.y(point.y.interval.low), x, frame.y(point.y.interval.high)))
    return join([*lines, dot("on-front" if point.on_front else "behind", x, y, radius=6)])


def _names(points: Sequence[Point], frame: Frame) -> list[Markup]:
    """Write names beside their dots, moved apart where they would lie over each other."""
    placed: list[tuple[float, float]] = []
    names = []
    for point in sorted(points, key=lambda point: -point.y.value):
        x, y = _place(point, frame)
        y -= 8
        while any(abs(y - other) < _APART and abs(x - beside) < 170 for beside, other in placed):
            y += _APART
        placed.append((x, y))
        anchor, shift = ("end", -10) if x > 0.7 * frame.width else ("start", 10)
        names.append(label("name front-name" if point.on_front else "name", x + shift, y, point.mix, anchor=anchor))
    return names


def _title(metric: str, higher: bool) -> str:
    return f"{metric_label(metric)} ({'more' if higher else 'less'} is better)"


def _ends(estimates: Sequence[Estimate]) -> list[float]:
    return [value for one in estimates for value in (one.value, *(one.interval or ()))]
