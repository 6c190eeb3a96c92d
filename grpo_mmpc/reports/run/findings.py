"""What a comparison supports and what it does not, in sentences."""

from collections import Counter
from collections.abc import Iterable, Mapping

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.common.labels import listed, plural, words
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, NO_INTERVAL, TOO_FEW, UNSCORED, WORSE

_NAMES_SHOWN = 6
"""Of findings in single categories, which can be hundreds."""


def findings(task: TaskComparison) -> list[str]:
    """What can be said about one task: what is supported, what is not, what cannot be told, and how far to trust it.

    Every metric is named once among the first three; ``*`` marks those that were rewards.
    """
    told = [_supported(task.metrics)]
    told += _not_supported(task)
    told += _no_verdict(task.metrics)
    told += _rewards(task.metrics)
    if len(task.categories) > 1:
        told += [_over_categories(task), _in_categories(task)]
    return told


def _supported(metrics: Mapping[str, Cell]) -> str:
    better, worse = _with_verdict(metrics, BETTER), _with_verdict(metrics, WORSE)
    claims = [f"{word} in {listed(names)}" for word, names in (("better", better), ("worse", worse)) if names]
    if not claims:
        tested = bool(_with_verdict(metrics, NO_EVIDENCE))
        return "Supported: nothing." + (" No metric differs by more than chance explains." if tested else "")
    return f"Supported: after is {' and '.join(claims)}."


def _not_supported(task: TaskComparison) -> list[str]:
    unclear = _with_verdict(task.metrics, NO_EVIDENCE)
    if not unclear:
        return []
    told = [f"Not supported: a difference in {listed(unclear)}: no evidence of one, which is not evidence of none."]
    alone = [
        name
        for name, cell in task.metrics.items()
        if cell.verdict == NO_EVIDENCE and cell.interval and not cell.interval[0] <= 0 <= cell.interval[1]
    ]
    if alone:
        family = plural(task.families.get("metrics", len(task.metrics)), "comparison")
        verb = "excludes 0 on its own, but that does" if len(alone) == 1 else "exclude 0 on their own, but that does"
        told.append(f"The interval of {listed(alone)} {verb} not survive correction for {family}.")
    return told


def _no_verdict(metrics: Mapping[str, Cell]) -> list[str]:
    reasons = {
        NO_INTERVAL: "one value for all items, so no interval",
        TOO_FEW: "too few items",
        UNSCORED: "not scored",
    }
    told = [f"{listed(names)} ({why})" for kind, why in reasons.items() if (names := _with_verdict(metrics, kind))]
    return [f"Cannot be told: {'; '.join(told)}."] if told else []


def _rewards(metrics: Mapping[str, Cell]) -> list[str]:
    """Training on a metric inflates it: say what the others show."""
    scored = [cell for cell in metrics.values() if cell.n_scored]
    trained = [cell for cell in scored if cell.was_reward]
    others = [cell for cell in scored if not cell.was_reward]
    if not trained:
        return []
    told = f"Rewards (*) are inflated by training on them: {_tally(trained)}."
    if not others:
        return [f"{told} Every metric was one, so there is none to judge by."]
    were = "was" if len(others) == 1 else "were"
    told = f"{told} Judge by the {plural(len(others), 'metric')} that {were} none: {_tally(others)}."
    if any(cell.verdict == BETTER for cell in trained) and not any(cell.verdict == BETTER for cell in others):
        told += " Only what was rewarded got better."
    return [told]


def _over_categories(task: TaskComparison) -> str:
    other = [
        f"{_starred(name, cell)} ({task.macro[name].verdict})"
        for name, cell in task.metrics.items()
        if name in task.macro and task.macro[name].verdict != cell.verdict
    ]
    what = f"As unweighted means over {plural(len(task.categories), 'category')}"
    return f"{what}, the verdict differs for {listed(other)}." if other else f"{what}, all verdicts are the same."


def _in_categories(task: TaskComparison) -> str:
    cells = [(category, name, cell) for category, row in task.categories.items() for name, cell in row.items()]
    family = plural(task.families.get("categories", len(cells)), "comparison")
    told = f"Within single categories, corrected for {family}: {_tally(cell for _, _, cell in cells if cell.n_scored)}"
    worse = [f"{_starred(name, cell)} in {words(category)}" for category, name, cell in cells if cell.verdict == WORSE]
    more = f" and {len(worse) - _NAMES_SHOWN} more" if len(worse) > _NAMES_SHOWN else ""
    return f"{told}. Worse: {', '.join(worse[:_NAMES_SHOWN])}{more}." if worse else f"{told}."


def _with_verdict(metrics: Mapping[str, Cell], verdict: str) -> list[str]:
    return [_starred(name, cell) for name, cell in metrics.items() if cell.verdict == verdict]


def _starred(name: str, cell: Cell) -> str:
    return f"{name}*" if cell.was_reward else name


def _tally(cells: Iterable[Cell]) -> str:
    """``7 better, 1 worse, 2 no evidence``."""
    counts = Counter(cell.verdict for cell in cells)
    always = (BETTER, WORSE)
    return ", ".join(
        f"{counts[verdict]} {verdict}"
        for verdict in (BETTER, WORSE, NO_EVIDENCE, NO_INTERVAL, TOO_FEW)
        if counts[verdict] or verdict in always
    )
