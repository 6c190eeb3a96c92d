"""The figure of the lead metric against the missing rate, a line for each method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from grpo_mmpc.recbench.completions import COMPLETED
from grpo_mmpc.recbench.plan import NO_MISSING
from grpo_mmpc.recbench.report.labels import LEAD, MISSING, RECOMMENDERS, method_label, rate_label, subject
from grpo_mmpc.reports.common import figures
from grpo_mmpc.reports.common.figures import Frame, Scale, dot, join, scale_for

_WIDE, _NARROW = 458, 270
"""Width between the axes, on a screen and on a phone."""
_LEADER = 18
"""From the end of a line to its name."""
_CHARACTER = 7.8
"""Width of one in a name."""
_SHORT = 24
"""Characters for which there is room on a screen in any case: figures with short names have the
same scale."""
_APART = 17
"""Least vertical distance of two names."""
_TICK = 46
"""Least horizontal distance of two rates that are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The line of one method."""

    label: str
    kind: str
    """Class of its colour: ``completion``, ``ceiling`` or ``fill``."""
    points: Sequence[tuple[float, float, Sequence[float] | None]]
    """(rate, level, its interval), rates ascending."""

    @property
    def end(self) -> tuple[float, float]:
        """The last rate and its level."""
        rate, value, _ = self.points[-1]
        return rate, value


@dataclass(frozen=True, slots=True, kw_only=True)
class RateFigure:
    """The figure twice; the style shows one: beside a plot, a phone has no room for names."""

    title: str
    wide: Markup
    """Each line is named at its right end."""
    narrow: Markup
    """Each line is numbered at its right end, from the top."""
    key: list[Line]
    """The lines that the numbers stand for, the first being 1."""


def rate_figures(groups: Sequence[Mapping[str, Any]]) -> list[RateFigure]:
    """Draw one figure for every recommender and missing modality with several rates."""
    by_subject: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for group in sorted(groups, key=lambda group: float(group["rate"])):
        by_subject.setdefault(subject(group), []).append(group)
    return [
        _figure_of(alike, recommender=recommender, what=MISSING[missing])
        for (recommender, missing), alike in by_subject.items()
        if len({group["rate"] for group in alike}) > 1
    ]


def _figure_of(groups: Sequence[Mapping[str, Any]], *, recommender: str, what: str) -> RateFigure:
    points: dict[str, list[tuple[float, float, Sequence[float] | None]]] = {}
    for group in groups:
        for method, values in group["metrics"][LEAD]["methods"].items():
            points.setdefault(method, []).append((group["rate"], values["value"], values["ci95"]))
    lines = [
        Line(label=method_label(method, what=what), kind=_kind(method), points=levels)
        for method, levels in points.items()
    ]
    return rate_figure(lines, title=f"{RECOMMENDERS[recommender]}, Recall@20 by share of missing {what}")


def _kind(method: str) -> str:
    if method.startswith(COMPLETED):
        return "completion"
    return "ceiling" if method == NO_MISSING else "fill"


def rate_figure(lines: Sequence[Line], *, title: str) -> RateFigure:
    """Draw all methods in one figure; intervals of completions are bars."""
    rates = sorted({rate for line in lines for rate, _, _ in line.points})
    horizontal = Scale(low=rates[0], high=rates[-1], ticks=tuple(rates), digits=0)
    levels = [value for line in lines for _, value, _ in line.points]
    bars = [
        end for line in lines if line.kind == "completion" for _, _, interval in line.points for end in interval or ()
    ]
    vertical = scale_for(levels + bars, max_ticks=6)
    key = sorted(lines, key=lambda line: (-line.end[1], line.label))

    def drawn(kind: str, plot: float, names: Sequence[str], characters: int) -> Markup:
        right = _LEADER + _CHARACTER * characters
        frame = Frame(
            width=52 + plot + right,
            height=380,
            left=52,
            right=right,
            top=14,
            bottom=46,
            horizontal=horizontal,
            vertical=vertical,
        )
        # Completions last: they are what the figure is about, and must lie on top.
        ordered = sorted(key, key=lambda line: line.kind == "completion")
        parts = [_axes(frame), *(_line(frame, line) for line in ordered), *_names(frame, key, names)]
        return frame.svg(f"rates {kind}", parts, spoken=title)

    labels, numbers = [line.label for line in key], [str(place) for place in range(1, len(key) + 1)]
    return RateFigure(
        title=title,
        wide=drawn("wide", _WIDE, labels, max(_SHORT, *map(len, labels))),
        narrow=drawn("narrow", _NARROW, numbers, len(numbers[-1])),
        key=key,
    )


def _line(frame: Frame, line: Line) -> Markup:
    places = [(frame.x(rate), frame.y(value)) for rate, value, _ in line.points]
    parts = [figures.line(f"method {line.kind}", *one, *other) for one, other in pairwise(places)]
    for (x, y), (_, _, interval) in zip(places, line.points, strict=True):
        if line.kind == "completion" and interval:
            low, high = interval
            parts.append(figures.line("reach", x, frame.y(low), x, frame.y(high)))
        parts.append(dot(line.kind, x, y, radius=4))
    return join(parts)


def _names(frame: Frame, lines: Sequence[Line], names: Sequence[str]) -> list[Markup]:
    """Write names at the right ends, moved apart downwards; those beyond the figure move up."""
    ends = [frame.y(line.end[1]) for line in lines]
    heights: list[float] = []
    for end in ends:
        heights.append(max(end, heights[-1] + _APART) if heights else end)
    beyond = max(0.0, heights[-1] - (frame.height - frame.bottom))
    parts = []
    for line, name, end, height in zip(lines, names, ends, heights, strict=True):
        x, y = frame.x(line.end[0]), height - beyond
        parts.append(figures.line("leader", x, end, x + _LEADER - 4, y))
        parts.append(figures.label(f"name {line.kind}", x + _LEADER, y + 4, name))
    return parts


def _axes(frame: Frame) -> Markup:
    end = -float(_TICK)

    def write(rate: float) -> str:
        # The points are drawn all the same: what is left out is a label that would lie over its
        # neighbour.
        nonlocal end
        if frame.x(rate) - end < _TICK:
            return ""
        end = frame.x(rate)
        return rate_label(rate)

    return join([frame.value_axis(), frame.step_axis(write), frame.titles(below="missing")])
