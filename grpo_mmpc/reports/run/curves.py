"""Which curves the page shows: training signals from ``metrics.jsonl``, held-out metrics from every evaluation."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from grpo_mmpc.reports.common.figures import Point, curve
from grpo_mmpc.reports.common.labels import attribute_kind, logged_name, metric_label, task_label
from grpo_mmpc.reports.run.run_files import RunFiles, finite, section

_REWARD = re.compile(r"rewards/(.+)/mean")
_HELD_OUT_LIMIT = 9
"""Curves per task; the tables hold every metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveView:
    """One small picture."""

    title: str
    note: str
    """What it is, in a few words."""
    was_reward: bool
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveGroup:
    """Pictures under one heading."""

    title: str
    note: str
    curves: list[CurveView]


def curve_groups(run: RunFiles) -> list[CurveGroup]:
    """Every group that has at least one curve."""
    groups = [
        CurveGroup(
            title="While training",
            note="Thin: every logged step. Thick: running mean. Sampled completions on training items.",
            curves=_training_curves(run.steps, weights=_weights(run.config)),
        )
    ]
    for task in dict.fromkeys(task for summary in run.summaries.values() for task in section(summary, "tasks")):
        groups.append(
            CurveGroup(
                title=f"On held-out items: {task_label(str(task)).lower()}",
                note="Greedy answers of the base model (step 0) and of every evaluated checkpoint.",
                curves=_held_out_curves(run, task),
            )
        )
    return [group for group in groups if group.curves]


def _weights(config: Mapping[str, Any]) -> dict[str, float]:
    """Weight of every reward of the mix by the name it is logged under, as far as the configuration can be read."""
    mix = section(config, "rewards").get("mix")
    specs = [spec for spec in mix if isinstance(spec, Mapping)] if isinstance(mix, list) else []
    weights = {logged_name(str(spec.get("name"))): finite(spec.get("weight")) for spec in specs}
    return {name: weight for name, weight in weights.items() if weight is not None}


def _reward_note(name: str, weights: Mapping[str, float]) -> str:
    if name not in weights:
        return "raw reward, mean of the batch"
    return f"reward, weight {weights[name]:g}" if weights[name] else "monitor, not trained on"


def _training_curves(steps: Sequence[Mapping[str, Any]], *, weights: Mapping[str, float]) -> list[CurveView]:
    keys = dict.fromkeys(key for row in steps for key in row)
    rewards = {key: match[1] for key in keys if (match := _REWARD.fullmatch(key))}
    dead = "dead_group_share" if "dead_group_share" in keys else "frac_reward_zero_std"
    wanted: list[tuple[str, str, str, float | None]] = [("reward", "Reward", "weighted sum of the mix", None)]
    wanted += [(key, name, _reward_note(name, weights), None) for key, name in rewards.items()]
    wanted += [
        (dead, "Dead groups", "share of groups whose rewards are all equal: nothing to learn from", 0.0),
        ("malformed_share", "Malformed completions", "share that could not be parsed", 0.0),
        ("completions/mean_length", "Completion length", "tokens", None),
        ("entropy", "Entropy", "of the next token, nats: near 0 nothing new is tried", 0.0),
        ("kl", "KL", "divergence from the base model", 0.0),
    ]
    views = []
    for key, title, note, floor in wanted:
        points: list[Point] = [(float(row["step"]), finite(row.get(key))) for row in steps]
        svg = curve(points, label=title, smooth=True, floor=floor)
        if svg:
            views.append(CurveView(title=title, note=note, was_reward=False, svg=svg))
    return views


def _held_out_curves(run: RunFiles, task: str) -> list[CurveView]:
    steps = _checkpoint_steps(run)
    compared = next((t.metrics for t in run.comparison.tasks if t.task == task), {}) if run.comparison else {}
    metrics = {checkpoint: _task_metrics(run, checkpoint, task) for checkpoint in run.summaries}
    views = []
    for name in dict.fromkeys(name for cells in metrics.values() for name in cells):
        points: list[Point] = []
        for checkpoint, step in steps.items():
            cell = section(metrics[checkpoint], name)
            points.append((step, finite(cell.get("mean")) if cell.get("n_scored") else None))
        if attribute_kind(name) is None and sum(value is not None for _, value in points) > 1:
            rewarded = name in compared and compared[name].was_reward
            svg = curve(points, label=metric_label(name), smooth=False)
            views.append(CurveView(title=metric_label(name), note="", was_reward=rewarded, svg=svg))
    return views[:_HELD_OUT_LIMIT]


def _task_metrics(run: RunFiles, checkpoint: str, task: str) -> Mapping[str, Any]:
    return section(section(section(run.summaries[checkpoint], "tasks"), task), "metrics")


def _checkpoint_steps(run: RunFiles) -> dict[str, float]:
    """Step of every evaluated checkpoint, in order; the final adapter stands at the last step.

    Checkpoints whose step is unknown are left out, and so is a numbered one at the same step as the
    final adapter.
    """
    numbered = {name: float(name.removeprefix("checkpoint-")) for name in run.summaries if _is_numbered(name)}
    last_logged = float(run.steps[-1]["step"]) if run.steps else 0.0
    steps = {"base": 0.0} if "base" in run.summaries else {}
    if "final" not in run.summaries:
        return steps | numbered
    final = max([last_logged, *numbered.values()])
    if final == 0:
        return steps
    return steps | {name: step for name, step in numbered.items() if step < final} | {"final": final}


def _is_numbered(name: str) -> bool:
    return re.fullmatch(r"checkpoint-\d+", name) is not None
