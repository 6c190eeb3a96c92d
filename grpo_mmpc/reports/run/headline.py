"""What happened, in sentences: the first thing on the page, and warnings where something got worse."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.evaluation.records import Cell, Comparison, TaskComparison
from grpo_mmpc.evaluation.trained import trained_metrics
from grpo_mmpc.reports.common.labels import (
    attribute_kind,
    metric_label,
    number,
    p_value,
    plural,
    signed,
    task_label,
    words,
)
from grpo_mmpc.reports.run.run_files import section
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, NO_INTERVAL, TOO_FEW, UNSCORED, WORSE

_FORMAT_METRICS = ("parse_rate", "render_rate")
"""They say that an answer could be read, not that it was good: never the headline while there is
another metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One task in words."""

    task: str
    lead: str | None
    """Metric that the sentence is about; None when nothing was scored."""
    sentence: str
    verdict: str
    details: list[str]
    warnings: list[str]
    """What fell beyond noise; empty when nothing did."""


def headline(task: TaskComparison, *, comparison: Comparison, config: Mapping[str, Any]) -> Headline:
    """Put one task into words, led by the metric that the mix weighs most."""
    lead = lead_metric(task, config=config)
    cell = task.metrics[lead] if lead else None
    if lead is None or cell is None:
        sentence = f"{task_label(task.task)}: nothing could be scored on {plural(task.n, 'item')}."
        return Headline(task=task.task, lead=None, sentence=sentence, verdict=UNSCORED, details=[], warnings=[])
    return Headline(
        task=task.task,
        lead=lead,
        sentence=f"{change_sentence(metric_label(lead), cell, percent=comparison.percent)}.",
        verdict=cell.verdict,
        details=_details(task, lead=lead, percent=comparison.percent),
        warnings=_warnings(task, lead=lead, percent=comparison.percent),
    )


def lead_metric(task: TaskComparison, *, config: Mapping[str, Any]) -> str | None:
    """The scored metric of the heaviest reward, else the first one that was trained on, else the first one."""
    scored = [name for name, cell in task.metrics.items() if cell.n_scored]
    telling = [name for name in scored if name not in _FORMAT_METRICS] or scored
    for reward in _rewards_by_weight(config):
        trained = trained_metrics([reward], metrics=telling)
        for name in telling:
            if name in trained and task.metrics[name].was_reward:
                return name
    trained_on = [name for name in telling if task.metrics[name].was_reward]
    return next(iter(trained_on + telling), None)


def change_sentence(label: str, cell: Cell, *, percent: str) -> str:
    """``BLEU rose from 0.310 to 0.622 (+0.312, 95% interval +0.284 to +0.341, corrected p <0.001, 360 items)``.

    Without a full stop.
    """
    if cell.verdict == UNSCORED:
        return f"{label} could not be scored on any of {plural(cell.n, 'item')}"
    items = plural(cell.n_scored, "item")
    if cell.verdict == NO_INTERVAL:
        evidence = f"{signed(cell.delta)}, {items}: one value for all of them, so no interval"
    elif cell.interval is None:
        evidence = f"{signed(cell.delta)}, {items}: too few for an interval"
    else:
        low, high = (signed(end) for end in cell.interval)
        p = f"corrected p {p_value(cell.p_holm)}"
        evidence = f"{signed(cell.delta)}, {percent} interval {low} to {high}, {p}, {items}"
    moved = f"from {number(cell.before)} to {number(cell.after)}"
    direction = "rose" if (cell.delta or 0) > 0 else "fell" if (cell.delta or 0) < 0 else "stayed"
    if cell.verdict == WORSE:
        return f"{label} got worse: it {direction} {moved} ({evidence})"
    if cell.verdict == BETTER:
        better = "" if cell.higher_is_better else ", which is better"
        return f"{label} {direction} {moved}{better} ({evidence})"
    if cell.verdict in (TOO_FEW, NO_INTERVAL):
        return f"{label} went {moved} ({evidence})"
    return f"{label}: no evidence of a change, {number(cell.before)} before and {number(cell.after)} after ({evidence})"


def _rewards_by_weight(config: Mapping[str, Any]) -> list[str]:
    mix = section(config, "rewards").get("mix")
    specs = [spec for spec in mix if isinstance(spec, Mapping)] if isinstance(mix, list) else []
    weighed = [(str(spec.get("name")), spec.get("weight", 1.0)) for spec in specs]
    numeric = [(name, float(weight)) for name, weight in weighed if isinstance(weight, int | float) and weight > 0]
    return [name for name, _ in sorted(numeric, key=lambda pair: -pair[1])]


def _details(task: TaskComparison, *, lead: str, percent: str) -> list[str]:
    details = []
    others = [name for name, cell in task.metrics.items() if cell.was_reward and name != lead and cell.n_scored]
    for name in others:
        details.append(f"{change_sentence(metric_label(name), task.metrics[name], percent=percent)}; also trained on.")
    scored = {name: cell for name, cell in task.metrics.items() if cell.n_scored}
    untrained = [cell for name, cell in scored.items() if not cell.was_reward and not attribute_kind(name)]
    if untrained:
        which = f"{plural(len(untrained), 'metric')} that {'was' if len(untrained) == 1 else 'were'} not trained on"
        details.append(f"Of {which}, {_tally(untrained)}.")
    kinds = [cell for name, cell in scored.items() if attribute_kind(name)]
    if kinds:
        details.append(f"Recall of {plural(len(kinds), 'kind')} of attribute: {_tally(kinds)}.")
    details += _category_details(task, lead=lead)
    return details


def _category_details(task: TaskComparison, *, lead: str) -> list[str]:
    cells = {category: metrics[lead] for category, metrics in task.categories.items() if lead in metrics}
    if len(cells) < 2:
        return []
    label = metric_label(lead)
    better, worse, few = (
        sum(cell.verdict == verdict for cell in cells.values()) for verdict in (BETTER, WORSE, TOO_FEW)
    )
    text = f"By category, {label} got better in {better} of {len(cells)} and worse in {worse}"
    unknown = f"; {plural(few, 'category')} {'has' if few == 1 else 'have'} too few items to tell" if few else ""
    family = task.families.get("categories", len(cells))
    return [f"{text}, counting changes that hold after correction for {plural(family, 'comparison')}{unknown}."]


def _warnings(task: TaskComparison, *, lead: str, percent: str) -> list[str]:
    warnings = []
    for name, cell in task.metrics.items():
        if cell.verdict == WORSE and name != lead:
            kind = attribute_kind(name)
            label = f"Recall of the {kind}" if kind else metric_label(name)
            warnings.append(f"{change_sentence(label, cell, percent=percent)}.")
    if task.metrics[lead].verdict == WORSE:
        return warnings
    for category, metrics in task.categories.items():
        if lead in metrics and metrics[lead].verdict == WORSE:
            label = f"{metric_label(lead)} in {words(category)}"
            warnings.append(f"{change_sentence(label, metrics[lead], percent=percent)}.")
    return warnings


def _tally(cells: list[Cell]) -> str:
    """``7 got better, 1 got worse, 2 show no clear change``."""
    counts = Counter(cell.verdict for cell in cells)
    show = "shows" if counts[NO_EVIDENCE] == 1 else "show"
    parts = [f"{counts[BETTER]} got better", f"{counts[WORSE]} got worse"]
    if counts[NO_EVIDENCE]:
        parts.append(f"{counts[NO_EVIDENCE]} {show} no clear change")
    if counts[NO_INTERVAL]:
        parts.append(f"{counts[NO_INTERVAL]} {'has' if counts[NO_INTERVAL] == 1 else 'have'} no interval")
    if counts[TOO_FEW]:
        parts.append(f"{counts[TOO_FEW]} {'has' if counts[TOO_FEW] == 1 else 'have'} too few items")
    return ", ".join(parts)
