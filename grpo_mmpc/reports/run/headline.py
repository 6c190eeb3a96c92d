"""The first thing on a run's page: what happened to each task, and what got worse."""

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.evaluation.trained import trained_metrics
from grpo_mmpc.reports.common.difference import difference_of, tone
from grpo_mmpc.reports.common.findings import Finding
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, number, plural, task_label, words
from grpo_mmpc.reports.run.findings import no_evidence, no_verdict, power, rewards_caution
from grpo_mmpc.statistics.verdicts import BETTER, NO_INTERVAL, TOO_FEW, TOO_FEW_CHANGED, UNSCORED, WORSE

_FORMAT_METRICS = ("parse_rate", "render_rate")
"""They say that an answer could be read, not that it was good: never the headline while there is
another metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One task in words."""

    lead: str | None
    """Metric that the sentence is about; None when nothing was scored."""
    finding: Finding
    warnings: list[Finding]
    """Metrics that fell beyond noise; empty when none did."""
    details: list[Finding]


def headline(task: TaskComparison, *, weights: Mapping[str, float], percent: str) -> Headline:
    """Put one task into words, led by the metric that the mix weighs most.

    ``percent`` is the confidence of the intervals, such as ``95%``.
    """
    lead = lead_metric(task, weights=weights)
    if lead is None:
        text = f"{task_label(task.task)}: nothing could be scored on {plural(task.n, 'item')}."
        return Headline(lead=None, finding=Finding(text=text, kind="no verdict"), warnings=[], details=[])
    trained = [
        name for name, cell in task.metrics.items() if cell.was_reward and cell.verdict == BETTER and name != lead
    ]
    return Headline(
        lead=lead,
        finding=change(metric_label(lead), task.metrics[lead], percent=percent),
        warnings=_warnings(task, lead=lead, percent=percent),
        details=[
            *(change(f"{metric_label(name)}*", task.metrics[name], percent=percent) for name in trained),
            *rewards_caution(task.metrics),
            *no_evidence(task, label=metric_label),
            *no_verdict(task.metrics, label=metric_label),
            *power(task, label=metric_label),
            *_by_category(task, lead=lead),
        ],
    )


def lead_metric(task: TaskComparison, *, weights: Mapping[str, float]) -> str | None:
    """Return the metric of the heaviest reward, else the first trained on, else the first."""
    scored = [name for name, cell in task.metrics.items() if cell.n_scored]
    telling = [name for name in scored if name not in _FORMAT_METRICS] or scored
    for reward in sorted((name for name, weight in weights.items() if weight > 0), key=lambda name: -weights[name]):
        trained = trained_metrics([reward], metrics=telling)
        for name in telling:
            if name in trained and task.metrics[name].was_reward:
                return name
    trained_on = [name for name in telling if task.metrics[name].was_reward]
    return next(iter(trained_on + telling), None)


def change(label: str, cell: Cell, *, percent: str) -> Finding:
    """Put one metric into a sentence that claims no more than its interval allows.

    ``BLEU rose from 0.310 to 0.622 (+0.312, 95% interval +0.284 to +0.341, corrected p <0.001, 360
    items).``
    """
    if cell.verdict == UNSCORED:
        return Finding(text=f"{label} could not be scored on any of {plural(cell.n, 'item')}.", kind="no verdict")
    evidence = f"{difference_of(cell).evidence(percent)}, {plural(cell.n_scored, 'item')}"
    moved = f"from {number(cell.before)} to {number(cell.after)}"
    if cell.verdict in (TOO_FEW, NO_INTERVAL):
        is_single = cell.verdict == NO_INTERVAL
        why = "one value for all of them, so no interval" if is_single else "too few for an interval"
        return Finding(text=f"{label} went {moved} ({evidence}: {why}).", kind="no verdict")
    direction = "rose" if (cell.delta or 0) > 0 else "fell" if (cell.delta or 0) < 0 else "stayed"
    if cell.verdict == WORSE:
        text = f"{label} got worse: it {direction} {moved} ({evidence})."
    elif cell.verdict == BETTER:
        text = f"{label} {direction} {moved}{'' if cell.higher_is_better else ', which is better'} ({evidence})."
    else:
        sides = f"{number(cell.before)} before and {number(cell.after)} after"
        if cell.verdict == TOO_FEW_CHANGED:
            return Finding(text=f"{label}: too few items changed to tell, {sides} ({evidence}).", kind="no verdict")
        return Finding(text=f"{label}: no evidence of a change, {sides} ({evidence}).", kind="not supported")
    return Finding(text=text, tone=tone(cell.verdict))


def _by_category(task: TaskComparison, *, lead: str) -> list[Finding]:
    cells = [metrics[lead] for metrics in task.categories.values() if lead in metrics]
    if len(cells) < 2:
        return []
    better, worse, few = (sum(cell.verdict == verdict for cell in cells) for verdict in (BETTER, WORSE, TOO_FEW))
    if few == len(cells):
        return [Finding(text="By category nothing can be told: each has too few items.")]
    text = f"By category, {metric_label(lead)} got better in {better} of {len(cells)} and worse in {worse}"
    unknown = f"; {plural(few, 'category')} {'has' if few == 1 else 'have'} too few items to tell" if few else ""
    family = plural(task.families.get("categories", len(cells)), "comparison")
    return [Finding(text=f"{text}, counting changes that hold after correction for {family}{unknown}.")]


def _warnings(task: TaskComparison, *, lead: str, percent: str) -> list[Finding]:
    warnings = []
    for name, cell in task.metrics.items():
        if cell.verdict == WORSE and name != lead:
            kind = attribute_kind(name)
            label = f"Recall of the {kind}" if kind else metric_label(name)
            warnings.append(change(label, cell, percent=percent))
    if task.metrics[lead].verdict != WORSE:
        warnings += [
            change(f"{metric_label(lead)} in {words(category)}", metrics[lead], percent=percent)
            for category, metrics in task.categories.items()
            if lead in metrics and metrics[lead].verdict == WORSE
        ]
    return warnings
