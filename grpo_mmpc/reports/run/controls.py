"""The policy beside its controls: what it must beat, and whether it looks at the picture."""

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_mmpc.evaluation.controls import CONTROLS
from grpo_mmpc.evaluation.records import Cell, Comparison, TaskComparison
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, number
from grpo_mmpc.statistics.verdicts import BETTER, NO_INTERVAL, TOO_FEW, WORSE

_MARKS = {BETTER: "▲", WORSE: "▼"}
_TONES = {BETTER: "worse", WORSE: "better"}
"""A control that is better than the policy is bad news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCell:
    """One metric of one control."""

    value: str
    mark: str
    """▼ worse than the policy, ▲ better, · no evidence of a difference; empty without a verdict."""
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRow:
    """One metric: before, after, and every control."""

    name: str
    was_reward: bool
    before: str
    after: str
    cells: list[ControlCell]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlsView:
    """One task's controls, ready for the template."""

    columns: list[str]
    rows: list[ControlRow]
    sentences: list[str]


def controls_view(task: TaskComparison, comparison: Comparison, *, lead: str | None) -> ControlsView | None:
    """The controls of a task; None where none was evaluated.

    Args:
        task: Base against policy.
        comparison: Where the controls are.
        lead: Metric that the sentences are about.
    """
    found = {
        name: entry.metrics
        for name, tasks in comparison.controls.items()
        for entry in tasks
        if name in CONTROLS and entry.task == task.task
    }
    if not found:
        return None
    scored = [name for name, cell in task.metrics.items() if cell.n_scored and attribute_kind(name) is None]
    return ControlsView(
        columns=[CONTROLS[name].label for name in found],
        rows=[
            ControlRow(
                name=metric_label(metric),
                was_reward=task.metrics[metric].was_reward,
                before=number(task.metrics[metric].before),
                after=number(task.metrics[metric].after),
                cells=[_cell(cells.get(metric)) for cells in found.values()],
            )
            for metric in scored
        ],
        sentences=_sentences(found, lead) if lead else [],
    )


def _cell(cell: Cell | None) -> ControlCell:
    if cell is None:
        return ControlCell(value=number(None), mark="", tone="unclear")
    mark = _MARKS.get(cell.verdict, "·" if cell.interval else "")
    return ControlCell(value=number(cell.after), mark=mark, tone=_TONES.get(cell.verdict, "unclear"))


def _sentences(controls: Mapping[str, Mapping[str, Cell]], lead: str) -> list[str]:
    """What the lead metric says about each question that controls answer."""
    label = metric_label(lead)
    cells = {name: metrics[lead] for name, metrics in controls.items() if lead in metrics and metrics[lead].n_scored}
    sentences = [_about_the_picture(name, cell, label) for name, cell in cells.items() if CONTROLS[name].asks_policy]
    others = {name: cell for name, cell in cells.items() if not CONTROLS[name].asks_policy}
    if others:
        sentences.append(_about_the_strongest(others, label))
    return sentences


def _about_the_picture(name: str, cell: Cell, label: str) -> str:
    shown = "a blank picture" if name == "blank_image" else "the picture of another item"
    values = f"{label} is {number(cell.after)} instead of {number(cell.before)}"
    if cell.verdict == WORSE:
        return f"Shown {shown}, the policy does worse ({values}): it looks at the picture."
    if cell.verdict in (TOO_FEW, NO_INTERVAL):
        return f"Shown {shown}: too few items to tell whether the policy looks at the picture ({values})."
    return (
        f"Shown {shown}, the policy does not do measurably worse ({values}): no evidence that it looks at the picture."
    )


def _about_the_strongest(controls: Mapping[str, Cell], label: str) -> str:
    sign = 1 if next(iter(controls.values())).higher_is_better else -1
    name = max(controls, key=lambda name: sign * (controls[name].after or 0.0))
    cell = controls[name]
    start = f"The strongest answer without a policy is “{CONTROLS[name].label}”, {label} {number(cell.after)}"
    if cell.verdict == WORSE:
        return f"{start}: the policy, at {number(cell.before)}, is better."
    if cell.verdict == BETTER:
        return f"{start}: better than the policy at {number(cell.before)}. This job does not need the policy yet."
    if cell.verdict in (TOO_FEW, NO_INTERVAL):
        return f"{start}: too few items to compare it with the policy at {number(cell.before)}."
    return f"{start}: no evidence of a difference to the policy at {number(cell.before)}."
