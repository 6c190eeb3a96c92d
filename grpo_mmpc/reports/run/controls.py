"""The policy beside its controls: what it must beat, and whether it looks at the image."""

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_mmpc.evaluation.controls import CONTROLS
from grpo_mmpc.evaluation.records import Cell, Comparison, TaskComparison
from grpo_mmpc.reports.common.findings import Finding
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, number
from grpo_mmpc.statistics.verdicts import BETTER, NO_INTERVAL, TOO_FEW, WORSE


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlsTable:
    """One task's policy and controls by metric."""

    policy: dict[str, Cell]
    """Before and after training."""
    columns: dict[str, Mapping[str, Cell]]
    """By the control's label: before is the policy, after the control."""
    findings: list[Finding]
    title_as_prompt: str | None
    """A sentence on what the title itself does as an image prompt; None where it was not tried."""


def controls_table(task: TaskComparison, comparison: Comparison, *, lead: str | None) -> ControlsTable | None:
    """Return the controls of a task; None where none was evaluated.

    The findings are about the ``lead`` metric.
    """
    controls = {
        name: entry.metrics
        for name, tasks in comparison.controls.items()
        for entry in tasks
        if name in CONTROLS and entry.task == task.task
    }
    if not controls:
        return None
    return ControlsTable(
        policy={name: cell for name, cell in task.metrics.items() if cell.n_scored and attribute_kind(name) is None},
        columns={CONTROLS[name].label: cells for name, cells in controls.items()},
        findings=_findings(controls, lead) if lead else [],
        title_as_prompt=_on_the_title(controls.get("raw_title", {}).get(lead), metric_label(lead)) if lead else None,
    )


def _on_the_title(cell: Cell | None, label: str) -> str | None:
    """Say whether writing a prompt is worth it: a title costs no policy."""
    if cell is None or not cell.n_scored:
        return None
    beside = {
        WORSE: "the trained policy's prompts are better",
        BETTER: "better than the trained policy's prompts",
        TOO_FEW: "too few items to compare it with the trained policy's prompts",
        NO_INTERVAL: "too few items to compare it with the trained policy's prompts",
    }.get(cell.verdict, "no evidence of a difference to the trained policy's prompts")
    return f"The title itself, used as prompt, reaches {label} {number(cell.after)}: {beside} ({number(cell.before)})."


def _findings(controls: Mapping[str, Mapping[str, Cell]], lead: str) -> list[Finding]:
    label = metric_label(lead)
    cells = {name: metrics[lead] for name, metrics in controls.items() if lead in metrics and metrics[lead].n_scored}
    answered = [_on_looking(name, cell, label) for name, cell in cells.items() if CONTROLS[name].asks_policy]
    others = {name: cell for name, cell in cells.items() if not CONTROLS[name].asks_policy}
    return [*answered, _on_the_strongest(others, label)] if others else answered


def _on_looking(name: str, cell: Cell, label: str) -> Finding:
    shown = "Shown a blank image" if name == "blank_image" else "Shown the image of another item"
    values = f"{label} is {number(cell.after)} instead of {number(cell.before)}"
    if cell.verdict == WORSE:
        return Finding(text=f"{shown}, the policy does worse ({values}): it looks at the image.", tone="better")
    if cell.verdict in (TOO_FEW, NO_INTERVAL):
        text = f"{shown}: too few items to tell whether the policy looks at the image ({values})."
        return Finding(text=text, kind="no verdict")
    text = f"{shown}, the policy does not do measurably worse ({values}): no evidence that it looks at the image."
    return Finding(text=text, kind="not supported")


def _on_the_strongest(controls: Mapping[str, Cell], label: str) -> Finding:
    sign = 1 if next(iter(controls.values())).higher_is_better else -1
    name = max(controls, key=lambda name: sign * (controls[name].after or 0.0))
    cell = controls[name]
    policy = number(cell.before)
    start = f"The strongest answer without a policy is “{CONTROLS[name].label}”, {label} {number(cell.after)}"
    if cell.verdict == WORSE:
        return Finding(text=f"{start}: the policy, at {policy}, is better.", tone="better")
    if cell.verdict == BETTER:
        text = f"{start}: better than the policy at {policy}. Until the policy beats that, it is the answer to use."
        return Finding(text=text, tone="worse")
    if cell.verdict in (TOO_FEW, NO_INTERVAL):
        return Finding(text=f"{start}: too few items to compare it with the policy at {policy}.", kind="no verdict")
    return Finding(text=f"{start}: no evidence of a difference to the policy at {policy}.", kind="not supported")
