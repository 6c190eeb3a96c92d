"""Pictures as inline SVG, drawn so that they follow the page's width and colour scheme.

Tracks (dots and intervals on a line) place everything by percentages and have no view box: they
stretch with their column while text and dots keep their size. Curves have a fixed view box and are
laid out as small multiples instead. Colours come from the page's style sheet through class names.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from markupsafe import Markup

from grpo_mmpc.evaluation.records import Cell
from grpo_mmpc.reports.common.labels import MINUS, number, signed
from grpo_mmpc.statistics.verdicts import Interval

_WIDTH, _HEIGHT = 340, 178
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 50, 10, 24
_MAX_POINTS = 300
"""Longer curves are averaged in bins: more points than this cannot be seen, and would bloat the
page."""
_MARGIN = 0.04
"""Share of its length by which a scale goes beyond the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A linear axis and its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int
    """Decimals that tell the ticks apart."""

    def share(self, value: float) -> float:
        """Position of a value on the axis, 0 to 1, ends included; values outside are put at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def percent(self, value: float) -> str:
        """Position of a value on a track."""
        return f"{100 * self.share(value):.2f}%"


def scale_for(values: Iterable[float | None], *, include: Sequence[float] = (), max_ticks: int = 4) -> Scale:
    """A scale around all finite values, with the most round ticks that are not too many."""
    finite = [value for value in [*values, *include] if value is not None and math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low < 1e-9:
        pad = abs(high) * 0.1 or 0.5
        low, high = low - pad, high + pad
    margin = (high - low) * _MARGIN
    low, high = low - margin, high + margin
    power = math.floor(math.log10((high - low) / max_ticks))
    for factor, shift in ((1, 0), (2, 0), (5, 0), (1, 1), (2, 1)):
        step = factor * 10.0 ** (power + shift)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < max_ticks:
            break
    return Scale(
        low=low,
        high=high,
        ticks=tuple(round(step * position, 10) + 0.0 for position in range(first, last + 1)),
        digits=max(0, -(power + shift)),
    )


def axis(scale: Scale, *, signs: bool = False) -> Markup:
    """Tick labels above a column of tracks; ``signs`` writes a plus before positive ones."""
    labels = []
    for value in scale.ticks:
        text = signed(value, digits=scale.digits) if signs else number(value, digits=scale.digits)
        labels.append(_text(scale.percent(value), "14", text if value else "0", kind="tick", anchor="middle"))
    return Markup('<svg class="track axis" height="20" aria-hidden="true">{}</svg>').format(Markup("").join(labels))


def before_after(cell: Cell, *, scale: Scale) -> Markup:
    """A hollow dot for before, a filled one for after, and the way between."""
    if cell.before is None or cell.after is None:
        return _track(scale, Markup(""), label="not scored")
    before, after = scale.percent(cell.before), scale.percent(cell.after)
    marks = Markup(
        '<line class="way {v}" x1="{b}" x2="{a}" y1="50%" y2="50%"/>'
        '<circle class="before" cx="{b}" cy="50%" r="4.5"/><circle class="after {v}" cx="{a}" cy="50%" r="5"/>'
    ).format(v=tone(cell), b=before, a=after)
    return _track(scale, marks, label=f"before {number(cell.before)}, after {number(cell.after)}")


def interval(cell: Cell, *, scale: Scale) -> Markup:
    """The change as a dot with its interval as a bar; a thin line carries on to the corrected interval."""
    if cell.delta is None:
        return _track(scale, Markup(""), label="not scored", zero=True)
    parts = []
    for ends, kind in ((cell.corrected, "whisker"), (cell.interval, "bar")):
        if ends is not None:
            parts.append(
                Markup('<line class="{k} {v}" x1="{low}" x2="{high}" y1="50%" y2="50%"/>').format(
                    k=kind, v=tone(cell), low=scale.percent(ends[0]), high=scale.percent(ends[1])
                )
            )
    hollow = "" if cell.interval else " hollow"
    parts.append(
        Markup('<circle class="delta {v}{h}" cx="{x}" cy="50%" r="4.5"/>').format(
            v=tone(cell), h=hollow, x=scale.percent(cell.delta)
        )
    )
    within = f", interval {signed(cell.interval[0])} to {signed(cell.interval[1])}" if cell.interval else ""
    return _track(scale, Markup("").join(parts), label=f"change {signed(cell.delta)}{within}", zero=True)


class Estimated(Protocol):
    """A value with its interval."""

    @property
    def value(self) -> float:
        """The estimate."""
        ...

    @property
    def interval(self) -> Interval | None:
        """None where there is none."""
        ...


def track(found: Estimated | None, *, scale: Scale, tone: str, base: float | None = None, difference: bool) -> Markup:
    """A dot with its interval as a bar on a stretching line.

    Args:
        found: What is drawn; None leaves the line empty.
        scale: Shared by all lines of a panel.
        tone: Class of the colour: ``better``, ``worse``, ``unclear``.
        base: Where something to compare with stands, as a dashed line.
        difference: Values are differences: 0 is marked, signs are written.
    """
    parts = [
        _vertical(scale.percent(tick), kind="zero" if difference and tick == 0 else "grid") for tick in scale.ticks
    ]
    if base is not None:
        parts.append(_vertical(scale.percent(base), kind="base"))
    label = "not scored"
    if found is not None:
        write = signed if difference else number
        label = write(found.value)
        if found.interval is not None:
            label += f", interval {write(found.interval.low)} to {write(found.interval.high)}"
            parts.append(
                Markup('<line class="bar {}" x1="{}" x2="{}" y1="50%" y2="50%"/>').format(
                    tone, scale.percent(found.interval.low), scale.percent(found.interval.high)
                )
            )
        parts.append(Markup('<circle class="{}" cx="{}" cy="50%" r="4.5"/>').format(tone, scale.percent(found.value)))
    return Markup('<svg class="track" height="26" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("").join(parts)
    )


def scale_of(found: Sequence[Estimated | None], *, include: Sequence[float] = ()) -> Scale:
    """A scale around estimates and their intervals."""
    values: list[float | None] = []
    for one in found:
        if one is not None:
            values += [one.value, *(one.interval or ())]
    return scale_for(values, include=include, max_ticks=4)


def tone(cell: Cell) -> str:
    """Class name of the verdict's colour."""
    return {"better": "better", "worse": "worse"}.get(cell.verdict, "unclear")


def _track(scale: Scale, marks: Markup, *, label: str, zero: bool = False) -> Markup:
    grid = [
        Markup('<line class="{k}" x1="{x}" x2="{x}" y1="0" y2="100%"/>').format(
            k="zero" if zero and value == 0 else "grid", x=scale.percent(value)
        )
        for value in scale.ticks
    ]
    return Markup('<svg class="track" height="26" role="img" aria-label="{label}">{grid}{marks}</svg>').format(
        label=label, grid=Markup("").join(grid), marks=marks
    )


def _vertical(x: str, *, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="100%"/>').format(kind, x, x)


Point = tuple[float, float | None]
"""Step and value; None leaves a gap."""


def curve(points: Sequence[Point], *, label: str, smooth: bool, floor: float | None = None) -> Markup:
    """A curve over steps, its last value written at its end.

    Args:
        points: In order of the step.
        label: What a screen reader says.
        smooth: Draws a running mean over a tenth of the curve, the points themselves as a thin line
            behind it; otherwise dots joined by a line.
        floor: A value that the axis must reach down to.
    """
    shown = _binned(points)
    known = [(step, value) for step, value in shown if value is not None]
    if not known:
        return Markup("")
    trend = _running_mean(known) if smooth else known
    values = [value for _, value in known]
    # An axis of at least a twentieth of the values' size: a change in the third digit must not look
    # like a leap.
    middle, reach = (max(values) + min(values)) / 2, max(map(abs, values)) / 40
    vertical = scale_for(values, include=(middle - reach, middle + reach) if floor is None else (floor,))
    last_step = max(shown[-1][0], 1.0)
    ticks = tuple(tick for tick in scale_for([0.0, last_step]).ticks if 0 <= tick <= last_step and tick == int(tick))
    steps = Scale(low=0.0, high=last_step, ticks=ticks, digits=0)
    parts = [_value_axis(vertical), _step_axis(steps)]
    if smooth:
        parts += [_line(run, steps, vertical, kind="raw") for run in _runs(shown)]
    parts.append(_line(trend, steps, vertical, kind="trend"))
    if not smooth:
        parts += [
            Markup('<circle class="dot" cx="{}" cy="{}" r="3.5"/>').format(_x(step, steps), _y(value, vertical))
            for step, value in known
        ]
    end_step, end = trend[-1]
    height = min(max(float(_y(end, vertical)) + 4, _TOP + 6), _HEIGHT - _BOTTOM)
    parts.append(_text(f"{float(_x(end_step, steps)) + 7:.1f}", f"{height:.1f}", _short(end), kind="value"))
    return Markup('<svg class="curve" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, f"{label}: {_short(known[0][1])} to {_short(end)}", Markup("").join(parts)
    )


def _x(step: float, scale: Scale) -> str:
    return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * scale.share(step):.1f}"


def _y(value: float, scale: Scale) -> str:
    return f"{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * scale.share(value):.1f}"


def _value_axis(scale: Scale) -> Markup:
    marks = []
    for value in scale.ticks:
        y = _y(value, scale)
        marks.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, _WIDTH - _RIGHT, y, y)
        )
        label = f"{value:,.{scale.digits}f}".replace("-", MINUS)
        marks.append(_text(str(_LEFT - 6), f"{float(y) + 4:.1f}", label, kind="tick", anchor="end"))
    return Markup("").join(marks)


def _step_axis(scale: Scale) -> Markup:
    return Markup("").join(
        _text(_x(value, scale), str(_HEIGHT - 6), f"{value:,.0f}", kind="tick", anchor="middle")
        for value in scale.ticks
    )


def _line(points: Sequence[tuple[float, float]], horizontal: Scale, vertical: Scale, *, kind: str) -> Markup:
    path = " ".join(f"{_x(step, horizontal)},{_y(value, vertical)}" for step, value in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, path)


def _text(x: str, y: str, text: str, *, kind: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _short(value: float) -> str:
    """Three significant digits or so."""
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", MINUS)


def _runs(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """Unbroken stretches of known points."""
    runs: list[list[tuple[float, float]]] = [[]]
    for step, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((step, value))
    return [run for run in runs if len(run) > 1]


def _running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean over a tenth of the points around each.

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
    if len(points) <= _MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / _MAX_POINTS)
    binned: list[Point] = []
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        known = [value for _, value in chunk if value is not None]
        binned.append((chunk[-1][0], sum(known) / len(known) if known else None))
    return binned
