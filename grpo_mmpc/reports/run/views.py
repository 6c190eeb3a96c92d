"""Rows and panels of one task, ready for the template: every number already written, every picture already drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.common.figures import Scale, axis, before_after, interval, scale_for, tone
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, number, p_value, signed, words

_OPEN_PANELS = 3
"""Panels by category that are shown at once; the others unfold."""
_MANY_CATEGORIES = 15
"""With more categories than this only the first panel is shown at once."""

_GLYPHS = {"better": "▲", "worse": "▼", "no evidence": "·", "too few items": "?", "no interval": "?", "unscored": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One line of a table or panel."""

    name: str
    was_reward: bool
    before: str
    after: str
    change: str
    interval: str
    """In words; empty without one."""
    verdict: str
    glyph: str
    tone: str
    note: str
    """Items, where not all were scored."""
    p: str
    """Corrected p-value."""
    effect: str
    """Effect size; a dash without one."""
    levels: Markup
    """Picture of before and after."""
    forest: Markup
    """Picture of the change and its interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelView:
    """Rows that share two scales."""

    title: str
    was_reward: bool
    levels_axis: Markup
    forest_axis: Markup
    rows: list[RowView]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """The key numbers of a task."""

    forest_axis: Markup
    trained: list[RowView]
    untrained: list[RowView]
    unscored: list[str]
    """Labels of metrics that could not be scored."""
    macro: list[RowView]


def key_numbers(task: TaskComparison) -> TableView:
    """Every metric of the task but the attribute kinds, on one scale of change.

    Metrics in other units (decibels, FID) have numbers but no picture: on their scale all others
    would be a point.
    """
    cells = {name: cell for name, cell in task.metrics.items() if attribute_kind(name) is None}
    scored = {name: cell for name, cell in cells.items() if cell.n_scored}
    changes = _change_scale(filter(_is_share, scored.values()), max_ticks=5)
    rows = {name: _key_row(name, cell, changes) for name, cell in scored.items()}
    macro = {name: cell for name, cell in task.macro.items() if name in scored and cell.delta is not None}
    return TableView(
        forest_axis=axis(changes, signs=True),
        trained=[row for row in rows.values() if row.was_reward],
        untrained=[row for row in rows.values() if not row.was_reward],
        unscored=[metric_label(name) for name in cells if name not in scored],
        macro=[_key_row(name, cell, changes) for name, cell in macro.items()],
    )


def _key_row(name: str, cell: Cell, changes: Scale) -> RowView:
    row = _row(metric_label(name), cell, levels=scale_for([]), changes=changes)
    return row if _is_share(cell) else replace(row, forest=Markup(""))


def attribute_panel(task: TaskComparison) -> PanelView | None:
    """Recall by kind of attribute; None where the catalogue knows no attributes."""
    kinds = [(attribute_kind(name), cell) for name, cell in task.metrics.items() if cell.n_scored]
    cells = [(kind, cell) for kind, cell in kinds if kind is not None]
    if not cells:
        return None
    return _panel("Attribute recall", cells, was_reward=any(cell.was_reward for _, cell in cells))


def category_panels(task: TaskComparison, *, lead: str | None) -> tuple[list[PanelView], list[PanelView]]:
    """Panels by category: those shown at once, and the others.

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
        _panel(
            metric_label(name),
            [(words(c), task.categories[c][name]) for c in order if name in task.categories[c]],
            was_reward=task.metrics[name].was_reward,
        )
        for name in names
    ]
    shown = 1 if len(task.categories) > _MANY_CATEGORIES else _OPEN_PANELS
    return panels[:shown], panels[shown:]


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


def _panel(title: str, cells: Sequence[tuple[str, Cell]], *, was_reward: bool) -> PanelView:
    levels = scale_for([value for _, cell in cells for value in (cell.before, cell.after)])
    changes = _change_scale(cell for _, cell in cells)
    return PanelView(
        title=title,
        was_reward=was_reward,
        levels_axis=axis(levels),
        forest_axis=axis(changes, signs=True),
        rows=[_row(name, cell, levels=levels, changes=changes) for name, cell in cells],
    )


def _change_scale(cells: Iterable[Cell], *, max_ticks: int = 4) -> Scale:
    ends: list[float | None] = []
    for cell in cells:
        ends += [cell.delta, *(cell.corrected or cell.interval or ())]
    return scale_for(ends, include=(0.0,), max_ticks=max_ticks)


def _is_share(cell: Cell) -> bool:
    return all(value is None or abs(value) <= 1 for value in (cell.before, cell.after))


def _row(name: str, cell: Cell, *, levels: Scale, changes: Scale) -> RowView:
    partly = f"{cell.n_scored:,} of {cell.n:,} items scored" if cell.n_scored < cell.n else ""
    return RowView(
        name=name,
        was_reward=cell.was_reward,
        before=number(cell.before),
        after=number(cell.after),
        change=signed(cell.delta),
        interval=f"{signed(cell.interval[0])} to {signed(cell.interval[1])}" if cell.interval else "",
        verdict=cell.verdict,
        glyph=_GLYPHS[cell.verdict],
        tone=tone(cell),
        note=partly,
        p=p_value(cell.p_holm),
        effect=signed(cell.effect_size, digits=2),
        levels=before_after(cell, scale=levels),
        forest=interval(cell, scale=changes),
    )
