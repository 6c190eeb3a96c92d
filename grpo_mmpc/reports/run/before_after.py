"""The numbers of one task: the table of key numbers, and panels by attribute and by category."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.common.difference import Difference
from grpo_mmpc.reports.common.figures import Scale, axis
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, words
from grpo_mmpc.reports.common.panels import Line, Panel, difference_scale, difference_track, panel

_OPEN_PANELS = 3
"""Panels by category that are shown at once; the others unfold."""
_MANY_CATEGORIES = 15
"""With more categories than this only the first panel is shown at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersRow:
    """One metric of the table."""

    name: str
    cell: Cell
    difference: Difference
    note: str
    figure: Markup
    """The change and its interval; empty for metrics in other units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersTable:
    """The key numbers of a task."""

    axis: Markup
    trained: list[NumbersRow]
    untrained: list[NumbersRow]
    macro: list[NumbersRow]
    """Unweighted means over categories."""
    unscored: list[str]
    """Labels of metrics that could not be scored."""


def difference_of(cell: Cell) -> Difference:
    """Return the change of a cell with what is known of it."""
    return Difference(
        value=cell.delta, interval=cell.interval, verdict=cell.verdict, p=cell.p_holm, wider=cell.corrected
    )


def key_numbers(task: TaskComparison) -> NumbersTable:
    """Return every metric of the task but the attribute kinds, on one scale of change.

    Metrics in other units (decibels, FID) have numbers but no figure: on their scale all others
    would be a point.
    """
    cells = {name: cell for name, cell in task.metrics.items() if attribute_kind(name) is None}
    scored = {name: cell for name, cell in cells.items() if cell.n_scored}
    scale = difference_scale([difference_of(cell) for cell in scored.values() if _is_share(cell)], max_ticks=5)
    rows = [_row(name, cell, scale) for name, cell in scored.items()]
    return NumbersTable(
        axis=axis(scale, signs=True),
        trained=[row for row in rows if row.cell.was_reward],
        untrained=[row for row in rows if not row.cell.was_reward],
        macro=[
            _row(name, cell, scale) for name, cell in task.macro.items() if name in scored and cell.delta is not None
        ],
        unscored=[metric_label(name) for name in cells if name not in scored],
    )


def _row(name: str, cell: Cell, scale: Scale) -> NumbersRow:
    difference = difference_of(cell)
    return NumbersRow(
        name=metric_label(name),
        cell=cell,
        difference=difference,
        note=_partly_scored(cell),
        figure=difference_track(difference, scale=scale) if _is_share(cell) else Markup(""),
    )


def _is_share(cell: Cell) -> bool:
    return all(value is None or abs(value) <= 1 for value in (cell.before, cell.after))


def _partly_scored(cell: Cell) -> str:
    return f"{cell.n_scored:,} of {cell.n:,} items scored" if cell.n_scored < cell.n else ""


def attribute_panel(task: TaskComparison) -> Panel | None:
    """Return recall by kind of attribute; None where the catalogue knows no attributes."""
    kinds = {attribute_kind(name): cell for name, cell in task.metrics.items() if cell.n_scored}
    lines = [_line(kind, cell) for kind, cell in kinds.items() if kind is not None]
    return panel(lines) if lines else None


def category_panels(task: TaskComparison, *, lead: str | None) -> tuple[list[Panel], list[Panel]]:
    """Return panels by category: those shown at once, and the others.

    The lead metric comes first, then one that was not trained on, then the order of the table.
    Categories are sorted by the change of the lead metric in every panel, so that a category keeps
    its line.
    """
    if len(task.categories) < 2:
        return [], []
    names = [name for name, cell in task.metrics.items() if cell.n_scored and attribute_kind(name) is None]
    names.sort(key=lambda name: _prominence(name, task, lead=lead))
    order = sorted(task.categories, key=lambda category: _lead_change(task.categories[category], lead))
    panels = [
        panel(
            [_line(words(c), task.categories[c][name]) for c in order if name in task.categories[c]],
            title=f"{metric_label(name)}{'*' if task.metrics[name].was_reward else ''}",
        )
        for name in names
    ]
    shown = 1 if len(task.categories) > _MANY_CATEGORIES else _OPEN_PANELS
    return panels[:shown], panels[shown:]


def _line(name: str, cell: Cell) -> Line:
    is_scored = cell.before is not None and cell.after is not None
    return Line(
        name=name,
        before=cell.before,
        value=cell.after if is_scored else None,
        difference=difference_of(cell),
        note=_partly_scored(cell),
    )


def _prominence(name: str, task: TaskComparison, *, lead: str | None) -> int:
    if name == lead:
        return 0
    if name == "attribute_recall":
        return 1
    if name in ("parse_rate", "render_rate"):
        return 4
    return 3 if task.metrics[name].was_reward else 2


def _lead_change(metrics: Mapping[str, Cell], lead: str | None) -> float:
    cell = metrics.get(lead) if lead else None
    return 0.0 if cell is None or cell.delta is None else -cell.delta
