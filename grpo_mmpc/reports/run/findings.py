"""The sentences that a comparison supports, for a run's page and ``grpo-mmpc compare``."""

from collections.abc import Callable, Iterable, Mapping

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.common.difference import tally, tone
from grpo_mmpc.reports.common.findings import Finding, caution
from grpo_mmpc.reports.common.labels import listed, number, plural, words
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, NO_INTERVAL, TOO_FEW, TOO_FEW_CHANGED, UNSCORED, WORSE

_NAMES_SHOWN = 6
"""Single categories that are named; there can be hundreds."""
_WHY_NO_VERDICT = {
    NO_INTERVAL: "one value for all items, so no interval",
    TOO_FEW: "too few items",
    TOO_FEW_CHANGED: "too few items changed",
    UNSCORED: "not scored",
}


def findings(task: TaskComparison, *, label: Callable[[str], str] = str) -> list[Finding]:
    """Say of one task what is better, worse or without evidence, and how far to trust it.

    Every metric, written by ``label``, is named once among the claims; ``*`` marks those that were
    rewards.
    """
    return [
        *_claims(task.metrics, label),
        *no_evidence(task, label=label),
        *no_verdict(task.metrics, label=label),
        *power(task, label=label),
        *rewards_caution(task.metrics),
        *categories_findings(task, label=label),
    ]


def _claims(metrics: Mapping[str, Cell], label: Callable[[str], str]) -> list[Finding]:
    return [
        Finding(text=f"After is {verdict} in {listed(names)}.", tone=tone(verdict))
        for verdict in (BETTER, WORSE)
        if (names := _with_verdict(metrics, verdict, label))
    ]


def no_evidence(task: TaskComparison, *, label: Callable[[str], str]) -> list[Finding]:
    """Name metrics without evidence of a difference, and those whose own interval excludes 0."""
    unclear = _with_verdict(task.metrics, NO_EVIDENCE, label)
    if not unclear:
        return []
    text = f"No evidence of a difference in {listed(unclear)} (this does not show that there is none)."
    alone = [
        _starred(name, cell, label)
        for name, cell in task.metrics.items()
        if cell.verdict == NO_EVIDENCE and cell.interval and not cell.interval[0] <= 0 <= cell.interval[1]
    ]
    if alone:
        family = plural(task.families.get("metrics", len(task.metrics)), "comparison")
        said = (
            f"The interval of {alone[0]} excludes 0 on its own"
            if len(alone) == 1
            else f"The intervals of {listed(alone)} exclude 0 on their own"
        )
        text += f" {said}, but that does not survive correction for {family}."
    return [Finding(text=text, kind="not supported")]


def no_verdict(metrics: Mapping[str, Cell], *, label: Callable[[str], str]) -> list[Finding]:
    """Name metrics that cannot be judged, with the reason."""
    reasons = [
        f"{listed(names)} ({why})"
        for verdict, why in _WHY_NO_VERDICT.items()
        if (names := _with_verdict(metrics, verdict, label))
    ]
    return [Finding(text=f"No verdict on {'; '.join(reasons)}.", kind="no verdict")] if reasons else []


def power(task: TaskComparison, *, label: Callable[[str], str]) -> list[Finding]:
    """Say how large a difference these items can show, in the most and the least telling metric."""
    known = {
        name: cell.detectable
        for name, cell in task.metrics.items()
        if cell.detectable
        and cell.verdict not in (TOO_FEW, TOO_FEW_CHANGED)  # few changed items tell little of the spread
        and (cell.before is None or abs(cell.before) <= 1)  # in other units it tells nothing
    }
    if not known:
        return []
    items = plural(task.n, "item") + ("" if task.groups is None else f" of {plural(task.groups, 'product')}")
    least, most = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    said = {name: number(value) if value >= 0.001 else "less than 0.001" for name, value in known.items()}
    reach = f"{said[least]} in {label(least)}"
    if most != least:
        reach += f" to {said[most]} in {label(most)}"
    return [Finding(text=f"With these {items}, differences of {reach} can be shown (chance 80 %).")]


def rewards_caution(metrics: Mapping[str, Cell]) -> list[Finding]:
    """Say what metrics show that were not trained on: training on a metric inflates it."""
    scored = [cell for cell in metrics.values() if cell.n_scored]
    trained = [cell for cell in scored if cell.was_reward]
    others = [cell for cell in scored if not cell.was_reward]
    if not trained:
        return []
    text = f"Rewards (*) are inflated by training on them: {_tally(trained)}."
    if not others:
        return [caution(f"{text} Every metric was trained on, so there is none to judge by.")]
    were = "was" if len(others) == 1 else "were"
    text += f" Judge by the {plural(len(others), 'metric')} that {were} not trained on: {_tally(others)}."
    if any(cell.verdict == BETTER for cell in trained) and not any(cell.verdict == BETTER for cell in others):
        text += " Only what was rewarded got better."
    return [caution(text)]


def categories_findings(task: TaskComparison, *, label: Callable[[str], str]) -> list[Finding]:
    """Compare verdicts over items with those over categories, and count those within each.

    Two reasons for having no verdict do not differ.
    """
    if len(task.categories) < 2:
        return []
    scored = [cell for row in task.categories.values() for cell in row.values() if cell.n_scored]
    if all(cell.verdict == TOO_FEW for cell in scored):
        return [Finding(text=f"{plural(len(task.categories), 'category')} have too few items each to be told apart.")]
    other: dict[str, list[str]] = {}
    for name, cell in task.metrics.items():
        verdict = task.macro[name].verdict if name in task.macro else cell.verdict
        if verdict != cell.verdict and not {verdict, cell.verdict} <= _WHY_NO_VERDICT.keys():
            other.setdefault(verdict, []).append(_starred(name, cell, label))
    differing = "; ".join(f"{listed(names)} ({verdict})" for verdict, names in other.items())
    said = f"the verdict differs for {differing}" if other else "all verdicts are the same"
    return [
        Finding(text=f"As unweighted means over {plural(len(task.categories), 'category')}, {said}."),
        _in_categories(task, label),
    ]


def _in_categories(task: TaskComparison, label: Callable[[str], str]) -> Finding:
    cells = [(category, name, cell) for category, row in task.categories.items() for name, cell in row.items()]
    family = plural(task.families.get("categories", len(cells)), "comparison")
    text = f"Within single categories, corrected for {family}: {_tally(cell for _, _, cell in cells if cell.n_scored)}."
    worse = [
        f"{_starred(name, cell, label)} in {words(category)}" for category, name, cell in cells if cell.verdict == WORSE
    ]
    more = f" and {len(worse) - _NAMES_SHOWN} more" if len(worse) > _NAMES_SHOWN else ""
    return Finding(text=f"{text} Worse: {', '.join(worse[:_NAMES_SHOWN])}{more}." if worse else text)


def _with_verdict(metrics: Mapping[str, Cell], verdict: str, label: Callable[[str], str]) -> list[str]:
    return [_starred(name, cell, label) for name, cell in metrics.items() if cell.verdict == verdict]


def _starred(name: str, cell: Cell, label: Callable[[str], str]) -> str:
    return f"{label(name)}*" if cell.was_reward else label(name)


def _tally(cells: Iterable[Cell]) -> str:
    return tally(cell.verdict for cell in cells)
