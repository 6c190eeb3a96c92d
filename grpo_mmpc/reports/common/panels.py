"""Panels: lines that share a scale of levels and a scale of differences."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from grpo_mmpc.reports.common.difference import Difference
from grpo_mmpc.reports.common.figures import Bounds, Scale, axis, scale_for, track


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel: a level, and how it differs from what it is compared with."""

    name: str
    value: float | None
    interval: Sequence[float] | None = None
    """The interval of the value."""
    before: float | None = None
    """The earlier value, where a line shows a change."""
    difference: Difference
    is_trained_on: bool = False
    is_emphasised: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Lines with their figures, ready for the ``panel`` macro of parts.html."""

    title: str
    note: str
    """Beside the title."""
    base: float | None
    """The level that a dashed line marks."""
    levels_axis: Markup
    changes_axis: Markup
    rows: list[tuple[Line, Markup, Markup]]
    """Each line with its level and its change, drawn."""


def panel(
    lines: Sequence[Line], *, bounds: Bounds, title: str = "", note: str = "", base: float | None = None
) -> Panel:
    """Draw lines on two shared scales, around all their values and intervals.

    The levels' scale keeps to ``bounds``, the values that are possible.
    """
    values: list[float | None] = [base]
    for line in lines:
        values += [line.value, line.before, *(line.interval or ())]
    levels, changes = scale_for(values, bounds=bounds), difference_scale([line.difference for line in lines])
    return Panel(
        title=title,
        note=note,
        base=base,
        levels_axis=axis(levels),
        changes_axis=axis(changes, signs=True),
        rows=[
            (line, _level(line, scale=levels, base=base), difference_track(line.difference, scale=changes))
            for line in lines
        ],
    )


def _level(line: Line, *, scale: Scale, base: float | None) -> Markup:
    tone = "unclear" if line.before is None else line.difference.tone
    return track(line.value, scale=scale, tone=tone, interval=line.interval, before=line.before, base=base)


def difference_scale(differences: Sequence[Difference], *, max_ticks: int = 4) -> Scale:
    """Return a scale around 0 and all differences with their widest intervals."""
    ends: list[float | None] = []
    for one in differences:
        ends += [one.value, *(one.wider or one.interval or ())]
    return scale_for(ends, include=(0.0,), max_ticks=max_ticks)


def difference_track(difference: Difference, *, scale: Scale) -> Markup:
    """Draw a difference as a dot with its intervals; the reference has an empty line."""
    return track(
        difference.value,
        scale=scale,
        tone=difference.tone,
        interval=difference.interval,
        wider=difference.wider,
        signs=True,
    )
