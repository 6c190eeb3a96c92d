"""Learning curves of a run: training signals, and held-out metrics of every evaluation."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.controls import CONTROLS
from grpo_mmpc.evaluation.evaluation_folder import read_evaluation
from grpo_mmpc.evaluation.metric_tables import range_of
from grpo_mmpc.evaluation.records import Cell
from grpo_mmpc.evaluation.run_folder import RunFolder, finite
from grpo_mmpc.reports.common.curves import Point, curve
from grpo_mmpc.reports.common.figures import Bounds
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, number, task_label
from grpo_mmpc.rewards.signals import BETTER_BY
from grpo_mmpc.statistics.clustered import mean_interval
from grpo_mmpc.statistics.verdicts import Interval
from grpo_mmpc.utils.sections import section

_REWARD = re.compile(r"rewards/(.+)/mean")
_HELD_OUT_LIMIT = 9
"""Curves per task; the tables hold every metric."""
_SHARE: Bounds = (0.0, 1.0)
_POSITIVE: Bounds = (0.0, None)


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
    curves: list[CurveFigure] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    """Values that never changed, in words."""

    def add(self, points: Sequence[Point], *, title: str, **caption: Any) -> None:
        """Add a curve, or a line of text where it would be flat; nothing without a value.

        ``smooth``, ``floor``, ``bounds``, ``ends`` and ``reference`` are those of ``curve``.
        """
        known = [value for _, value in points if value is not None]
        if len(set(known)) == 1 and len(known) > 1:
            self.constant.append(f"{title} {number(known[0])}")
        elif known:
            figure = {name: caption.pop(name) for name in ("note", "is_trained_on") if name in caption}
            self.curves.append(CurveFigure(title=title, svg=curve(points, title=title, **caption), **figure))


def curve_groups(run: RunFolder, *, weights: Mapping[str, float]) -> list[CurveGroup]:
    """Return every group that has something to show.

    ``weights`` are those of the mix, by the name that rewards are logged under.
    """
    last_step = float(run.steps[-1]["step"]) if run.steps else 0.0
    groups = [training_curves(run.steps, weights=weights), *held_out_curves(run, last_step=last_step)]
    return [group for group in groups if group.curves or group.constant]


def training_curves(steps: Sequence[Mapping[str, Any]], *, weights: Mapping[str, float]) -> CurveGroup:
    """Return the curves of the training signals; ``steps`` are rows of ``metrics.jsonl``."""
    keys = dict.fromkeys(key for row in steps for key in row)
    is_sft = "mean_token_accuracy" in keys
    shown = "The catalogue's own answers" if is_sft else "Sampled completions"
    group = CurveGroup(
        title="While training", note=f"Thin: every logged step. Thick: running mean. {shown} on training items."
    )
    zero_variance = "dead_group_share" if "dead_group_share" in keys else "frac_reward_zero_std"
    flat = "share of groups whose rewards are all equal: nothing to learn from"
    better = f"share whose best sample is over {BETTER_BY:g} above the median: where sampling finds something to learn"
    near_zero = "of the next token, nats: near 0 nothing new is tried"
    wanted: list[tuple[str, str, str, Bounds | None]] = [
        ("reward", "Reward", "weighted sum of the mix", None),
        *((key, match[1], _reward_note(match[1], weights), None) for key in keys if (match := _REWARD.fullmatch(key))),
        (zero_variance, "Zero-variance groups", flat, _SHARE),
        *(
            (f"signal/{name}/{key}", f"{name}: {title}", note, bounds)
            for name, weight in weights.items()
            if weight > 0
            for key, title, note, bounds in (
                ("within_group_std", "spread within groups", "mean standard deviation", _POSITIVE),
                ("better_groups", "groups with a better sample", better, _SHARE),
            )
        ),
        ("malformed_share", "Malformed completions", "share that could not be parsed", _SHARE),
        ("completions/mean_length", "Completion length", "tokens", _POSITIVE),
        ("entropy", "Entropy", near_zero, _POSITIVE),
        ("kl", "KL", "divergence from the policy before training", _POSITIVE),
    ]
    if is_sft:
        wanted[:0] = [
            ("loss", "Loss", "mean of -log p over the answers' tokens", _POSITIVE),
            ("mean_token_accuracy", "Token accuracy", "share of the answers' tokens that are the likeliest", _SHARE),
        ]
    for key, title, note, bounds in wanted:
        points: list[Point] = [(float(row["step"]), finite(row.get(key))) for row in steps]
        floor = 0.0 if key in (zero_variance, "malformed_share", "entropy", "kl") else None
        group.add(points, title=title, note=note, smooth=True, floor=floor, bounds=bounds or (None, None))
    return group


def _reward_note(name: str, weights: Mapping[str, float]) -> str:
    if name not in weights:
        return "raw reward, mean of the batch"
    return f"reward, weight {weights[name]:g}" if weights[name] else "monitor, not trained on"


def held_out_curves(run: RunFolder, *, last_step: float) -> list[CurveGroup]:
    """Return the curves of every task's metrics; the final policy is that of ``last_step``."""
    tasks = dict.fromkeys(str(task) for summary in run.summaries.values() for task in section(summary, "tasks"))
    return [_held_out(run, task, last_step) for task in tasks]


def _held_out(run: RunFolder, task: str, last_step: float) -> CurveGroup:
    group = CurveGroup(
        title=f"On held-out items: {task_label(task).lower()}",
        note="Greedy answers of the base model (step 0) and of every evaluated checkpoint. Bars: 95% intervals of the "
        "mean over items; that of a change, paired by item, is narrower. Dashed: the best answer without a policy.",
    )
    steps, mode = _checkpoint_steps(run, last_step), run.comparison.mode if run.comparison else "corrected"
    compared = next((t.metrics for t in run.comparison.tasks if t.task == task), {}) if run.comparison else {}
    metrics = {checkpoint: _task_metrics(run, checkpoint, task) for checkpoint in run.summaries}
    names = [name for name in dict.fromkeys(n for cells in metrics.values() for n in cells) if not attribute_kind(name)]
    intervals = {checkpoint: mean_intervals(run.samples(checkpoint), task, names, mode=mode) for checkpoint in steps}
    for name in names:
        points: list[Point] = []
        ends = []
        for checkpoint, step in steps.items():
            cell = section(metrics[checkpoint], name)
            mean = finite(cell.get("mean")) if cell.get("n_scored") else None
            points.append((step, mean))
            interval = intervals[checkpoint].get(name)
            if mean is not None and interval is not None:
                ends.append((step, *interval))
        if sum(value is not None for _, value in points) < 2 or len(group.curves) == _HELD_OUT_LIMIT:
            continue
        control = _best_control(run, task, name)
        group.add(
            points,
            title=metric_label(name),
            note=f"dashed: {control[0]}" if control else "",
            is_trained_on=name in compared and compared[name].was_reward,
            smooth=False,
            bounds=range_of(name, mode=mode),
            ends=ends,
            reference=control[1] if control else None,
        )
    return group


def mean_intervals(samples: Path, task: str, names: Sequence[str], *, mode: str) -> dict[str, Interval]:
    """Return the interval of each metric's mean over items; empty where scores are gone.

    The mean of a corpus-level metric's items is not its value.
    """
    try:
        scores = read_evaluation(samples.parent).tasks[task]
    except (EvaluationError, KeyError):  # the page says so beside the items it cannot show
        return {}
    groups = scores.item_ids if scores.groups is None else scores.groups.tolist()
    intervals = {
        name: mean_interval(scores.scores[name].tolist(), groups, bounds=range_of(name, mode=mode))
        for name in names
        if name in scores.scores
    }
    return {name: interval for name, interval in intervals.items() if interval and interval.low < interval.high}


def _best_control(run: RunFolder, task: str, metric: str) -> tuple[str, float] | None:
    """Return the label and value of the best control that needs no policy."""
    cells: dict[str, Cell] = {
        CONTROLS[name].label: entry.metrics[metric]
        for name, tasks in (run.comparison.controls.items() if run.comparison else ())
        for entry in tasks
        if name in CONTROLS and not CONTROLS[name].asks_policy and entry.task == task and metric in entry.metrics
    }
    values = {label: cell.after for label, cell in cells.items() if cell.after is not None}
    if not values:
        return None
    sign = 1 if next(iter(cells.values())).higher_is_better else -1
    best = max(values, key=lambda label: sign * values[label])
    return best, values[best]


def _task_metrics(run: RunFolder, checkpoint: str, task: str) -> Mapping[str, Any]:
    return section(section(section(run.summaries[checkpoint], "tasks"), task), "metrics")


def _checkpoint_steps(run: RunFolder, last_step: float) -> dict[str, float]:
    """Return the step of every evaluated checkpoint, in order; final is at the last step.

    Checkpoints whose step is unknown are left out, and so is a numbered one at the same step as the
    final adapter.
    """
    numbered = {
        name: float(name.removeprefix("checkpoint-")) for name in run.summaries if re.fullmatch(r"checkpoint-\d+", name)
    }
    steps = {"base": 0.0} if "base" in run.summaries else {}
    if "final" not in run.summaries:
        return steps | numbered
    final = max([last_step, *numbered.values()])
    if final == 0:
        return steps
    return steps | {name: step for name, step in numbered.items() if step < final} | {"final": final}
