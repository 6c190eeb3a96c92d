"""The numbers of one task: the table of key numbers, and panels by attribute and by category."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from grpo_mmpc.evaluation.metric_tables import range_of
from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.common.difference import difference_of
from grpo_mmpc.reports.common.figures import Scale
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, partly_scored, words
from grpo_mmpc.reports.common.panels import Line, Panel, difference_scale, difference_track, panel

_OPEN_PANELS = 3
"""Panels by category that are shown at once; the others unfold."""
_MANY_CATEGORIES = 15
"""With more categories than this only the first panel is shown at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumbersTable:
    """The key numbers of a task: every metric but the attribute kinds, on one scale of change."""

    scale: Scale
    groups: dict[str, dict[str, Cell]]
    """Cells by metric, those that were trained on first."""
    macro: dict[str, Cell]
    """Unweighted means over categories."""
    unscored: list[str]
    """Labels of metrics that could not be scored."""


def key_numbers(task: TaskComparison) -> NumbersTable:
    """Return the key numbers; metrics in other units (decibels, FID) do not stretch the scale."""
    cells = {name: cell for name, cell in task.metrics.items() if attribute_kind(name) is None}
    scored = {name: cell for name, cell in cells.items() if cell.n_scored}
    titles = {True: "Trained on", False: "Not trained on"}
    return NumbersTable(
        scale=difference_scale([difference_of(cell) for cell in scored.values() if _is_share(cell)], max_ticks=5),
        groups={
            title: {name: cell for name, cell in scored.items() if cell.was_reward is was_reward}
            for was_reward, title in titles.items()
        },
        macro={name: cell for name, cell in task.macro.items() if name in scored and cell.delta is not None},
        unscored=[metric_label(name) for name in cells if name not in scored],
    )


def change_figure(cell: Cell, scale: Scale) -> Markup:
    """Draw the change and its interval; empty for metrics in other units."""
    return difference_track(difference_of(cell), scale=scale) if _is_share(cell) else Markup("")


def _is_share(cell: Cell) -> bool:
    return all(value is None or abs(value) <= 1 for value in (cell.before, cell.after))


def attribute_panel(task: TaskComparison) -> Panel | None:
    """Return recall by kind of attribute; None where the catalogue knows no attributes."""
    kinds = {attribute_kind(name): cell for name, cell in task.metrics.items() if cell.n_scored}
    lines = [_line(kind, cell) for kind, cell in kinds.items() if kind is not None]
    return panel(lines, bounds=(0.0, 1.0)) if lines else None


def category_panels(task: TaskComparison, *, lead: str | None, mode: str) -> tuple[list[Panel], list[Panel]]:
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
            bounds=range_of(name, mode=mode),
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
        note=partly_scored(cell),
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
