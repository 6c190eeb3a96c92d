"""A comparison in plain words, for readers who know no statistics, and what to read first."""

from collections.abc import Sequence

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.common.gallery import Item
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, plural, task_label
from grpo_mmpc.reports.run.examples import AFTER, BEFORE, delta
from grpo_mmpc.statistics.verdicts import BETTER, TOO_FEW, WORSE

_NAMED = 3
_SAME = 1e-9


def plain_sentences(task: TaskComparison, items: Sequence[Item], *, lead: str | None) -> list[str]:
    """Say what changed in counts of answers; only changes beyond noise are said of attributes."""
    kinds = [
        (kind, cell)
        for name, cell in task.metrics.items()
        if (kind := attribute_kind(name)) is not None and cell.verdict in (BETTER, WORSE)
    ]
    kinds.sort(key=lambda pair: -abs(pair[1].delta or 0.0))
    said = [
        f"The {kind} is named in {_count(cell.after, cell)} answers, {_count(cell.before, cell, alone=True)} before."
        for kind, cell in kinds[:_NAMED]
    ]
    parsed = task.metrics.get("parse_rate")
    if parsed is not None and parsed.after is not None and parsed.after < 0.995:
        said.append(f"{_count(1 - parsed.after, parsed)} answers cannot be read at all.")
    if items and lead is not None:
        sign = 1 if task.metrics[lead].higher_is_better else -1
        changes = [sign * delta(item) for item in items]
        higher, lower = (sum(side * change > _SAME for change in changes) for side in (1, -1))
        said.append(
            f"Of {plural(len(items), 'answer')}, {higher:,} got better by {metric_label(lead)}, {lower:,} got worse "
            f"and {len(items) - higher - lower:,} stayed the same."
        )
    if same := unchanged(items):
        # Where most stayed as they were, that is the finding.
        position = 0 if 2 * same > len(items) else len(said)
        said.insert(position, f"{same:,} of {plural(len(items), 'answer')} are word for word as before.")
    return said


def unchanged(items: Sequence[Item]) -> int:
    """Count the answers that are word for word as before."""
    return sum(item.answers[BEFORE].completion == item.answers[AFTER].completion for item in items)


def task_troubles(task: TaskComparison, items: Sequence[Item], *, lead: str | None) -> list[str]:
    """Return what a reader has to know before the result of a task."""
    label, troubles = task_label(task.task), []
    if items and unchanged(items) == len(items):
        troubles.append(
            f"{label}: all {plural(len(items), 'answer')} are word for word as before: this training changed nothing "
            "that can be seen."
        )
    if lead is not None and task.metrics[lead].verdict == TOO_FEW:
        troubles.append(f"{label}: {plural(task.n, 'held-out item')} are too few for any verdict; hold more out.")
    return troubles


def _count(share: float | None, cell: Cell, *, alone: bool = False) -> str:
    """``76 of 100``, or of as many as there are where those are fewer."""
    total = min(100, cell.n_scored)
    return f"{total * (share or 0.0):.0f}{'' if alone else f' of {total}'}"
