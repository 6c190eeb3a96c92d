"""A metric against the missing rate, a line for each method, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from grpo_mmpc.report.figures import Estimated, Scale, scale_for
from grpo_mmpc.report.labels import number

_PLOT, _HEIGHT = 458, 380
"""Width between the axes, height of everything."""
_LEFT, _TOP, _BOTTOM = 52, 14, 46
_CHARACTER = 7.8
"""Width of one in a name."""
_LABEL = 17
"""Least vertical distance of two labels."""
_TICK = 46
"""Least horizontal distance of two rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One method."""

    label: str
    kind: str
    """Class of its colour: ``completion``, ``ceiling`` or ``fill``."""
    points: Sequence[tuple[float, Estimated]]
    """(rate, level), rates ascending."""


def rate_label(rate: float) -> str:
    """``50%``, ``12.5%``: rates that differ are told apart."""
    return f"{100 * rate:g}%"


def rate_lines(lines: Sequence[Line], *, label: str) -> Markup:
    """All methods in one picture, each named at its right end; intervals of completions are drawn as bars.

    Args:
        lines: With at least one point each.
        label: What a screen reader says.
    """
    rates = sorted({rate for line in lines for rate, _ in line.points})
    shown = [end for line in lines for _, found in line.points for end in _ends(line, found)]
    vertical = scale_for(shown, max_ticks=6)
    horizontal = Scale(low=rates[0], high=rates[-1], ticks=tuple(rates), digits=0)
    parts = [_axes(horizontal, vertical)]
    # Completions last: they are what the picture is about, and must lie on top.
    for line in sorted(lines, key=lambda line: line.kind == "completion"):
        for (rate, found), (other_rate, other) in pairwise(line.points):
            parts.append(
                Markup('<line class="method {}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
                    line.kind,
                    _x(rate, horizontal),
                    _y(found.value, vertical),
                    _x(other_rate, horizontal),
                    _y(other.value, vertical),
                )
            )
        for rate, found in line.points:
            x = _x(rate, horizontal)
            if line.kind == "completion" and found.interval is not None:
                low, high = (_y(end, vertical) for end in found.interval)
                parts.append(Markup('<line class="reach" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, low, high))
            parts.append(
                Markup('<circle class="{}" cx="{}" cy="{}" r="4"/>').format(line.kind, x, _y(found.value, vertical))
            )
    parts += _labels(lines, horizontal, vertical)
    width = _LEFT + _PLOT + 22 + _CHARACTER * max(24, *(len(line.label) for line in lines))
    return Markup('<svg class="rates" viewBox="0 0 {:.0f} {}" role="img" aria-label="{}">{}</svg>').format(
        width, _HEIGHT, label, Markup("").join(parts)
    )


def _ends(line: Line, found: Estimated) -> list[float]:
    return [found.value, *(found.interval or ())] if line.kind == "completion" else [found.value]


def _labels(lines: Sequence[Line], horizontal: Scale, vertical: Scale) -> list[Markup]:
    """At the right, moved apart downwards; where that leaves the picture, all move up."""
    ends = sorted((float(_y(line.points[-1][1].value, vertical)), line.label, line) for line in lines)
    heights: list[float] = []
    for height, _, _ in ends:
        heights.append(max(height, heights[-1] + _LABEL) if heights else height)
    beyond = max(0.0, heights[-1] - (_HEIGHT - _BOTTOM)) if heights else 0.0
    placed = []
    for height, (end, _, line) in zip(heights, ends, strict=True):
        y = height - beyond
        start = _x(line.points[-1][0], horizontal)
        placed.append(
            Markup(
                '<line class="leader" x1="{}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
                '<text class="name {}" x="{:.1f}" y="{:.1f}">{}</text>'
            ).format(start, end, float(start) + 14, y, line.kind, float(start) + 18, y + 4, line.label)
        )
    return placed


def _axes(horizontal: Scale, vertical: Scale) -> Markup:
    parts = []
    for tick in vertical.ticks:
        y = _y(tick, vertical)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, _LEFT + _PLOT, y, y))
        parts.append(_tick(str(_LEFT - 8), f"{float(y) + 4:.1f}", number(tick, digits=vertical.digits), anchor="end"))
    end = -float(_TICK)
    for tick in horizontal.ticks:
        x = _x(tick, horizontal)
        # The points are drawn all the same: what is left out is a label that would lie over its neighbour.
        if float(x) - end >= _TICK:
            parts.append(_tick(x, str(_HEIGHT - _BOTTOM + 18), rate_label(tick), anchor="middle"))
            end = float(x)
    middle = str(_LEFT + _PLOT / 2)
    parts.append(_tick(middle, str(_HEIGHT - 8), "missing", anchor="middle"))
    return Markup("").join(parts)


def _tick(x: str, y: str, text: str, *, anchor: str) -> Markup:
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _x(value: float, scale: Scale) -> str:
    return f"{_LEFT + _PLOT * scale.share(value):.1f}"


def _y(value: float, scale: Scale) -> str:
    return f"{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * scale.share(value):.1f}"
