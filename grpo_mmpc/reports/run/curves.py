"""Learning curves of a run: training signals, and held-out metrics of every evaluation."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from grpo_mmpc.evaluation.run_folder import RunFolder, finite, section
from grpo_mmpc.reports.common.curves import Point, curve
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, task_label

_REWARD = re.compile(r"rewards/(.+)/mean")
_HELD_OUT_LIMIT = 9
"""Curves per task; the tables hold every metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveFigure:
    """One curve with its caption."""

    title: str
    note: str = ""
    """A few words on what it shows."""
    is_trained_on: bool = False
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveGroup:
    """Curves under one heading."""

    title: str
    note: str
    curves: list[CurveFigure]


def curve_groups(run: RunFolder, *, weights: Mapping[str, float]) -> list[CurveGroup]:
    """Return every group that has at least one curve.

    ``weights`` are those of the mix, by the name that rewards are logged under.
    """
    groups = [
        CurveGroup(
            title="While training",
            note="Thin: every logged step. Thick: running mean. Sampled completions on training items.",
            curves=_training_curves(run, weights),
        )
    ]
    for task in dict.fromkeys(task for summary in run.summaries.values() for task in section(summary, "tasks")):
        groups.append(
            CurveGroup(
                title=f"On held-out items: {task_label(str(task)).lower()}",
                note="Greedy answers of the base model (step 0) and of every evaluated checkpoint.",
                curves=_held_out_curves(run, task)[:_HELD_OUT_LIMIT],
            )
        )
    return [group for group in groups if group.curves]


def _training_curves(run: RunFolder, weights: Mapping[str, float]) -> list[CurveFigure]:
    keys = dict.fromkeys(key for row in run.steps for key in row)
    zero_variance = "dead_group_share" if "dead_group_share" in keys else "frac_reward_zero_std"
    wanted: list[tuple[str, str, str, float | None]] = [
        ("reward", "Reward", "weighted sum of the mix", None),
        *((key, match[1], _reward_note(match[1], weights), None) for key in keys if (match := _REWARD.fullmatch(key))),
        (
            zero_variance,
            "Zero-variance groups",
            "share of groups whose rewards are all equal: nothing to learn from",
            0.0,
        ),
        ("malformed_share", "Malformed completions", "share that could not be parsed", 0.0),
        ("completions/mean_length", "Completion length", "tokens", None),
        ("entropy", "Entropy", "of the next token, nats: near 0 nothing new is tried", 0.0),
        ("kl", "KL", "divergence from the base model", 0.0),
    ]
    figures = []
    for key, title, note, floor in wanted:
        points: list[Point] = [(float(row["step"]), finite(row.get(key))) for row in run.steps]
        svg = curve(points, title=title, smooth=True, floor=floor)
        figures.append(CurveFigure(title=title, note=note, svg=svg))
    return [figure for figure in figures if figure.svg]


def _reward_note(name: str, weights: Mapping[str, float]) -> str:
    if name not in weights:
        return "raw reward, mean of the batch"
    return f"reward, weight {weights[name]:g}" if weights[name] else "monitor, not trained on"


def _held_out_curves(run: RunFolder, task: str) -> list[CurveFigure]:
    steps = _checkpoint_steps(run)
    compared = next((t.metrics for t in run.comparison.tasks if t.task == task), {}) if run.comparison else {}
    metrics = {checkpoint: _task_metrics(run, checkpoint, task) for checkpoint in run.summaries}
    figures = []
    for name in dict.fromkeys(name for cells in metrics.values() for name in cells):
        points: list[Point] = []
        for checkpoint, step in steps.items():
            cell = section(metrics[checkpoint], name)
            points.append((step, finite(cell.get("mean")) if cell.get("n_scored") else None))
        if attribute_kind(name) is None and sum(value is not None for _, value in points) > 1:
            label = metric_label(name)
            is_trained_on = name in compared and compared[name].was_reward
            svg = curve(points, title=label, smooth=False)
            figures.append(CurveFigure(title=label, is_trained_on=is_trained_on, svg=svg))
    return figures


def _task_metrics(run: RunFolder, checkpoint: str, task: str) -> Mapping[str, Any]:
    return section(section(section(run.summaries[checkpoint], "tasks"), task), "metrics")


def _checkpoint_steps(run: RunFolder) -> dict[str, float]:
    """Return the step of every evaluated checkpoint, in order; final is at the last step.

    Checkpoints whose step is unknown are left out, and so is a numbered one at the same step as the
    final adapter.
    """
    numbered = {
        name: float(name.removeprefix("checkpoint-")) for name in run.summaries if re.fullmatch(r"checkpoint-\d+", name)
    }
    last_logged = float(run.steps[-1]["step"]) if run.steps else 0.0
    steps = {"base": 0.0} if "base" in run.summaries else {}
    if "final" not in run.summaries:
        return steps | numbered
    final = max([last_logged, *numbered.values()])
    if final == 0:
        return steps
    return steps | {name: step for name, step in numbered.items() if step < final} | {"final": final}
