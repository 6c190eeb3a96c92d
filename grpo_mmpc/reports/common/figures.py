"""Figures as inline SVG in the page's colours: scales, tracks, and frames with two axes.

Tracks (dots and intervals on a line) place everything by percentages and have no view box: they
stretch with their column while text and dots keep their size. Frames have a fixed view box. Colours
come from the style sheet through class names, the first argument of every element.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from grpo_mmpc.reports.common.difference import Tone, interval_text
from grpo_mmpc.reports.common.labels import number, signed

_MARGIN = 0.04
"""Share of its length by which a scale goes beyond the values."""
_END = 0.08
"""Share of a column's length at its ends where a label in the middle of its tick would leave it."""
_NARROW = 16
"""Characters of tick labels that fit side by side on a telephone."""
_MOST_DECIMALS = 4
"""Of a value beside a vertical axis."""
Coordinate = float | str
"""A number in the view box, or a percentage of a track."""

Bounds = tuple[float | None, float | None]
"""The least and the greatest value that are possible; None where there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A linear axis and its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int
    """Decimals that tell the ticks apart."""

    def share(self, value: float) -> float:
        """Position of a value on the axis, 0 to 1; values outside are put at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def percent(self, value: float) -> str:
        """Position of a value on a track."""
        return f"{100 * self.share(value):.2f}%"


def scale_for(
    values: Iterable[float | None],
    *,
    include: Sequence[float] = (),
    max_ticks: int = 4,
    bounds: Bounds = (None, None),
) -> Scale:
    """Return a scale around all finite values, with the most round ticks that are not too many.

    It reaches a little beyond the values, but not beyond the bounds, which ``include`` may exceed.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    finite = [*known, *include]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low < 1e-9:
        pad = abs(high) * 0.1 or 0.5
        low, high = low - pad, high + pad
    margin = (high - low) * _MARGIN
    low, high = low - margin, high + margin
    if bounds[0] is not None and bounds[0] <= min(known, default=low):
        low = max(low, bounds[0])
    if bounds[1] is not None and bounds[1] >= max(known, default=high):
        high = min(high, bounds[1])
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


def line(kind: str, x1: Coordinate, y1: Coordinate, x2: Coordinate, y2: Coordinate) -> Markup:
    """Draw a straight line."""
    ends = (_place(end) for end in (x1, y1, x2, y2))
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, *ends)


def dot(kind: str, x: Coordinate, y: Coordinate, *, radius: float) -> Markup:
    """Draw a dot."""
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{:g}"/>').format(kind, _place(x), _place(y), radius)


def label(kind: str, x: Coordinate, y: Coordinate, text: str, *, anchor: str = "start") -> Markup:
    """Write a text; ``anchor`` says which end of it is at x: start, middle or end."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _place(x), _place(y), anchor, text
    )


def join(parts: Iterable[Markup]) -> Markup:
    """Put elements one after the other."""
    return Markup("").join(parts)


def _place(value: Coordinate) -> str:
    return value if isinstance(value, str) else f"{value:.1f}"


def axis(scale: Scale, *, signs: bool = False) -> Markup:
    """Draw tick labels above a column of tracks; ``signs`` writes a plus before positive ones.

    Labels stay within the column. Where they are long, a narrow screen shows every second one.
    """
    write = signed if signs else number
    texts = [write(tick, digits=scale.digits) if tick else "0" for tick in scale.ticks]
    labels = []
    for tick, text in zip(scale.ticks, texts, strict=True):
        share = scale.share(tick)
        anchor = "start" if share < _END else "end" if share > 1 - _END else "middle"
        labels.append(label("tick", scale.percent(tick), 14, text, anchor=anchor))
    kind = "track axis dense" if sum(map(len, texts)) > _NARROW else "track axis"
    return Markup('<svg class="{}" height="20" aria-hidden="true">{}</svg>').format(kind, join(labels))


def track(
    value: float | None,
    *,
    scale: Scale,
    tone: Tone = "unclear",
    interval: Sequence[float] | None = None,
    wider: Sequence[float] | None = None,
    before: float | None = None,
    base: float | None = None,
    signs: bool = False,
) -> Markup:
    """Draw one value as a dot on a stretching line.

    Args:
        value: Where the dot stands; None leaves the line empty.
        scale: Shared by all lines of a panel.
        tone: Colour of dot and bars.
        interval: A bar around the value; a difference without one gets a hollow dot.
        wider: A thin line around that, for an interval that holds for all lines at once.
        before: A hollow dot for what the value was, and the way from there.
        base: A dashed line at what all lines of the panel are compared with.
        signs: Values are differences: 0 is marked, signs are written.
    """
    parts = [_upright("zero" if signs and tick == 0 else "grid", scale.percent(tick)) for tick in scale.ticks]
    if base is not None:
        parts.append(_upright("base", scale.percent(base)))
    if before is not None and value is not None:
        parts.append(_level(f"way {tone}", (before, value), scale))
        parts.append(dot("before", scale.percent(before), "50%", radius=4.5))
    for ends, kind in ((wider, "whisker"), (interval, "bar")):
        if ends is not None:
            parts.append(_level(f"{kind} {tone}", ends, scale))
    if value is not None:
        kind = f"{tone} hollow" if signs and interval is None else tone
        parts.append(dot(kind, scale.percent(value), "50%", radius=4.5 if before is None else 5))
    return Markup('<svg class="track" height="26" role="img" aria-label="{}">{}</svg>').format(
        _spoken(value, interval=interval, before=before, write=signed if signs else number), join(parts)
    )


def _spoken(
    value: float | None,
    *,
    interval: Sequence[float] | None,
    before: float | None,
    write: Callable[[float], str],
) -> str:
    if value is None:
        return "not scored"
    text = write(value) if before is None else f"before {write(before)}, after {write(value)}"
    return f"{text}, interval {interval_text(interval, write=write)}" if interval is not None else text


def _upright(kind: str, x: str) -> Markup:
    return line(kind, x, "0", x, "100%")


def _level(kind: str, ends: Sequence[float], scale: Scale) -> Markup:
    return line(kind, scale.percent(ends[0]), "50%", scale.percent(ends[1]), "50%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A plot with a horizontal and a vertical axis in a fixed view box."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    horizontal: Scale
    vertical: Scale

    def x(self, value: float) -> float:
        """Horizontal position of a value."""
        return self.left + (self.width - self.left - self.right) * self.horizontal.share(value)

    def y(self, value: float) -> float:
        """Vertical position of a value."""
        return self.height - self.bottom - (self.height - self.top - self.bottom) * self.vertical.share(value)

    def value_axis(self, *, grouped: bool = False) -> Markup:
        """Draw horizontal grid lines and their values; ``grouped`` writes ``1,200``."""
        parts = []
        for tick in self.vertical.ticks:
            y = self.y(tick)
            parts.append(line("grid", self.left, y, self.width - self.right, y))
            if self.vertical.digits > _MOST_DECIMALS:  # would begin left of the picture
                text = f"{tick:g}".replace("e-0", "e-")
            else:
                text = number(tick, digits=self.vertical.digits, grouped=grouped)
            parts.append(label("tick", self.left - 7, y + 4, text, anchor="end"))
        return join(parts)

    def step_axis(self, write: Callable[[float], str], *, grid: bool = False) -> Markup:
        """Write the ticks of the horizontal axis, with vertical lines if ``grid``."""
        parts = []
        for tick in self.horizontal.ticks:
            x = self.x(tick)
            if grid:
                parts.append(line("grid", x, self.top, x, self.height - self.bottom))
            if text := write(tick):
                parts.append(label("tick", x, self.height - self.bottom + 18, text, anchor="middle"))
        return join(parts)

    def titles(self, *, below: str, beside: str = "") -> Markup:
        """Write what the axes show."""
        parts = [label("tick", (self.left + self.width - self.right) / 2, self.height - 8, below, anchor="middle")]
        if beside:
            turned = Markup(
                '<text class="tick" transform="translate(14 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
            )
            parts.append(turned.format((self.top + self.height - self.bottom) / 2, beside))
        return join(parts)

    def svg(self, kind: str, parts: Iterable[Markup], *, spoken: str) -> Markup:
        """Put parts into an image of the class ``kind``; a screen reader says ``spoken``."""
        return Markup('<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
            kind, self.width, self.height, spoken, join(parts)
        )
