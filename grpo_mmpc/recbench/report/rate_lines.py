"""A metric against the missing rate, a line for each method, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from grpo_mmpc.recbench.report.labels import rate_label
from grpo_mmpc.reports.common.figures import Estimated, Scale, scale_for
from grpo_mmpc.reports.common.labels import number

_WIDE, _NARROW = 458, 270
"""Width between the axes, on a screen and on a phone."""
_HEIGHT = 380
_LEFT, _TOP, _BOTTOM = 52, 14, 46
_LEADER = 18
"""From the end of a line to its name."""
_CHARACTER = 7.8
"""Width of one in a name."""
_SHORT = 24
"""Characters for which there is room on a screen in any case: pictures with short names have the
same scale."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLines:
    """The picture twice, of which the style shows one: beside a plot, a phone has no room for names."""

    wide: Markup
    """Each line is named at its right end."""
    narrow: Markup
    """Each line is numbered at its right end, from the top."""
    key: list[Line]
    """What the numbers stand for, the first being 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Where things are drawn."""

    plot: int
    """Width between the axes."""
    characters: int
    """Of the longest name."""
    rates: Scale
    levels: Scale

    def x(self, rate: float) -> float:
        return _LEFT + self.plot * self.rates.share(rate)

    def y(self, level: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * self.levels.share(level)


def rate_lines(lines: Sequence[Line], *, label: str) -> RateLines:
    """All methods in one picture; intervals of completions are drawn as bars.

    Args:
        lines: With at least one point each.
        label: What a screen reader says.
    """
    rates = sorted({rate for line in lines for rate, _ in line.points})
    horizontal = Scale(low=rates[0], high=rates[-1], ticks=tuple(rates), digits=0)
    vertical = scale_for([end for line in lines for _, found in line.points for end in _ends(line, found)], max_ticks=6)
    key = sorted(lines, key=lambda line: (-line.points[-1][1].value, line.label))
    names, numbers = [line.label for line in key], [str(i) for i in range(1, len(key) + 1)]
    longest = max(_SHORT, *(len(name) for name in names))
    wide = _Frame(plot=_WIDE, characters=longest, rates=horizontal, levels=vertical)
    narrow = _Frame(plot=_NARROW, characters=len(numbers[-1]), rates=horizontal, levels=vertical)
    return RateLines(
        wide=_picture(wide, key, names, kind="wide", label=label),
        narrow=_picture(narrow, key, numbers, kind="narrow", label=label),
        key=key,
    )


def _ends(line: Line, found: Estimated) -> list[float]:
    return [found.value, *(found.interval or ())] if line.kind == "completion" else [found.value]


def _picture(frame: _Frame, lines: Sequence[Line], names: Sequence[str], *, kind: str, label: str) -> Markup:
    """Of lines in the order of their right ends, the highest first."""
    # Completions last: they are what the picture is about, and must lie on top.
    drawn = [_line(frame, line) for line in sorted(lines, key=lambda line: line.kind == "completion")]
    return Markup('<svg class="rates {}" viewBox="0 0 {:.0f} {}" role="img" aria-label="{}">{}</svg>').format(
        kind,
        _LEFT + frame.plot + _LEADER + _CHARACTER * frame.characters,
        _HEIGHT,
        label,
        Markup("").join([_axes(frame), *drawn, *_names(frame, lines, names)]),
    )


def _line(frame: _Frame, line: Line) -> Markup:
    parts = [
        Markup('<line class="method {}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
            line.kind, frame.x(rate), frame.y(found.value), frame.x(other_rate), frame.y(other.value)
        )
        for (rate, found), (other_rate, other) in pairwise(line.points)
    ]
    for rate, found in line.points:
        x = frame.x(rate)
        if line.kind == "completion" and found.interval is not None:
            low, high = (frame.y(end) for end in found.interval)
            parts.append(
                Markup('<line class="reach" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(x, x, low, high)
            )
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(line.kind, x, frame.y(found.value))
        )
    return Markup("").join(parts)


def _names(frame: _Frame, lines: Sequence[Line], names: Sequence[str]) -> list[Markup]:
    """At the right ends, moved apart downwards; where that leaves the picture, all move up."""
    ends = [frame.y(line.points[-1][1].value) for line in lines]
    heights: list[float] = []
    for end in ends:
        heights.append(max(end, heights[-1] + _LABEL) if heights else end)
    beyond = max(0.0, heights[-1] - (_HEIGHT - _BOTTOM))
    placed = []
    for line, name, end, height in zip(lines, names, ends, heights, strict=True):
        x, y = frame.x(line.points[-1][0]), height - beyond
        placed.append(
            Markup(
                '<line class="leader" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
                '<text class="name {}" x="{:.1f}" y="{:.1f}">{}</text>'
            ).format(x, end, x + _LEADER - 4, y, line.kind, x + _LEADER, y + 4, name)
        )
    return placed


def _axes(frame: _Frame) -> Markup:
    parts = []
    for tick in frame.levels.ticks:
        y = frame.y(tick)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                _LEFT, _LEFT + frame.plot, y, y
            )
        )
        parts.append(_tick(_LEFT - 10, y + 4, number(tick, digits=frame.levels.digits), anchor="end"))
    end = -float(_TICK)
    for tick in frame.rates.ticks:
        x = frame.x(tick)
        # The points are drawn all the same: what is left out is a label that would lie over its
        # neighbour.
        if x - end >= _TICK:
            parts.append(_tick(x, _HEIGHT - _BOTTOM + 18, rate_label(tick), anchor="middle"))
            end = x
    parts.append(_tick(_LEFT + frame.plot / 2, _HEIGHT - 8, "missing", anchor="middle"))
    return Markup("").join(parts)


def _tick(x: float, y: float, text: str, *, anchor: str) -> Markup:
    return Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
