"""Curves over training steps as small multiples."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from grpo_mmpc.reports.common.figures import Bounds, Frame, Scale, dot, label, line, scale_for
from grpo_mmpc.reports.common.labels import MINUS

_MAX_POINTS = 300
"""Longer curves are averaged in bins: more points than this cannot be seen, and would bloat the
page."""

Point = tuple[float, float | None]
"""Step and value; None leaves a gap."""
_Known = tuple[float, float]


def curve(
    points: Sequence[Point],
    *,
    title: str,
    smooth: bool,
    floor: float | None = None,
    bounds: Bounds = (None, None),
    ends: Sequence[tuple[float, float, float]] = (),
    reference: float | None = None,
) -> Markup:
    """Draw a curve over steps, its last value written at its end; empty without any value.

    Args:
        points: In order of the step.
        title: What a screen reader says, followed by the first and the last value.
        smooth: Draw a running mean over a tenth of the curve, the points themselves as a thin line
            behind it; otherwise dots joined by a line.
        floor: A value that the axis must reach down to.
        bounds: Values beyond which the axis never reaches.
        ends: Intervals by step: step, low, high.
        reference: A level that a dashed line marks.
    """
    shown = _binned(points)
    known = [(step, value) for step, value in shown if value is not None]
    if not known:
        return Markup("")
    frame = _frame(
        known,
        last_step=max(shown[-1][0], 1.0),
        floor=floor,
        bounds=bounds,
        also=[value for _, low, high in ends for value in (low, high)] + ([] if reference is None else [reference]),
    )
    trend = _running_mean(known) if smooth else known
    parts = [frame.value_axis(grouped=True), frame.step_axis("{:,.0f}".format)]
    if reference is not None:
        parts.append(line("base", frame.left, frame.y(reference), frame.width - frame.right, frame.y(reference)))
    parts += [line("reach", frame.x(step), frame.y(low), frame.x(step), frame.y(high)) for step, low, high in ends]
    if smooth:
        parts += [_line("raw", run, frame) for run in _runs(shown)]
    parts.append(_line("trend", trend, frame))
    if not smooth:
        parts += [dot("dot", frame.x(step), frame.y(value), radius=3.5) for step, value in known]
    end_step, end = trend[-1]
    height = min(max(frame.y(end) + 4, frame.top + 6), frame.height - frame.bottom)
    parts.append(label("value", frame.x(end_step) + 7, height, short(end)))
    return frame.svg("curve", parts, spoken=f"{title}: {short(known[0][1])} to {short(end)}")


def _frame(
    known: Sequence[_Known], *, last_step: float, floor: float | None, bounds: Bounds, also: Sequence[float]
) -> Frame:
    values = [value for _, value in known] + list(also)
    # An axis of at least a twentieth of the values' size: a change in the third digit must not look
    # like a leap.
    middle, reach = (max(values) + min(values)) / 2, max(map(abs, values)) / 40
    ticks = tuple(tick for tick in scale_for([0.0, last_step]).ticks if 0 <= tick <= last_step and tick == int(tick))
    return Frame(
        width=340,
        height=178,
        left=40,
        right=50,
        top=10,
        bottom=24,
        horizontal=Scale(low=0.0, high=last_step, ticks=ticks, digits=0),
        vertical=scale_for(
            values, include=(middle - reach, middle + reach) if floor is None else (floor,), bounds=bounds
        ),
    )


def _line(kind: str, points: Sequence[_Known], frame: Frame) -> Markup:
    path = " ".join(f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, path)


def short(value: float) -> str:
    """``1,234``, ``11.5``, ``1.05``, ``0.312``: digits that a curve's last value needs."""
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", MINUS)


def _runs(points: Sequence[Point]) -> list[list[_Known]]:
    runs: list[list[_Known]] = [[]]
    for step, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((step, value))
    return [run for run in runs if len(run) > 1]


def _running_mean(points: Sequence[_Known]) -> list[_Known]:
    """Average a tenth of the points around each.

    At the ends over those that exist, so that one outlier at the very end does not become the last
    value.
    """
    reach = max(1, round(len(points) / 20))
    means = []
    for position, (step, _) in enumerate(points):
        window = [value for _, value in points[max(0, position - reach) : position + reach + 1]]
        means.append((step, sum(window) / len(window)))
    return means


def _binned(points: Sequence[Point]) -> list[Point]:
    size = math.ceil(len(points) / _MAX_POINTS)
    if size <= 1:
        return list(points)
    binned: list[Point] = []
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        known = [value for _, value in chunk if value is not None]
        binned.append((chunk[-1][0], sum(known) / len(known) if known else None))
    return binned
