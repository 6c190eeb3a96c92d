"""The pairing of two evaluations of one suite, item by item."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import Evaluation, TaskScores


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedScores:
    """The items of one task that both evaluations hold, in the order of the first."""

    mode: str
    categories: list[str]
    before: TaskScores
    after: TaskScores
    before_only: int
    """Items that only this evaluation holds are left out, as in the next line."""
    after_only: int
    held_back: int
    """Items that both hold and that were left out on purpose."""

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """The group of every item, ``[N]``; None where no two items hang together."""
        return self.before.groups if self.before.groups is not None else self.after.groups

    @property
    def is_whole(self) -> bool:
        """True if these are all items of both evaluations."""
        return not (self.before_only or self.after_only or self.held_back)

    @property
    def metrics_of_one_side(self) -> set[str]:
        """Metrics that only one of the evaluations holds; left out."""
        before, after = ({*side.scores, *side.statistics} for side in (self.before, self.after))
        return before ^ after


def pair(
    *, before: Evaluation, after: Evaluation, held_back: Callable[[str], bool] | None = None
) -> dict[str, PairedScores]:
    """Pair two evaluations of the same suite by (task, item), for the tasks that both hold.

    ``held_back`` says of an item's id whether it is left out.

    Raises:
        EvaluationError: Suites, versions, modes, encoders or renderers differ, one side's answers
            were decoded by a schema, no task or item is shared, or an item changed its category.
    """
    if (before.suite, before.version) != (after.suite, after.version):
        raise EvaluationError(
            f"these evaluations cannot be compared: {before.folder} is suite {before.suite!r} version "
            f"{before.version}, {after.folder} is suite {after.suite!r} version {after.version}; evaluate both with "
            "the same version of the same suite"
        )
    if before.mode != after.mode:
        raise EvaluationError(
            f"these evaluations cannot be compared: {before.folder} was scored in {before.mode} mode, "
            f"{after.folder} in {after.mode} mode; metrics of one name mean different things there"
        )
    for what in ("encoders", "renderer"):
        ours, theirs = before.settings.get(what), after.settings.get(what)
        if isinstance(ours, dict) and isinstance(theirs, dict):  # one that a side did without judges nothing there
            both = [name for name in ours if ours[name] is not None and theirs.get(name) is not None]
            ours, theirs = ({name: side[name] for name in both} for side in (ours, theirs))
        if what in before.settings and what in after.settings and ours != theirs:
            raise EvaluationError(
                f"these evaluations cannot be compared: {before.folder} was scored with {what} {ours}, "
                f"{after.folder} with {theirs}; evaluate one of them again (its completions are kept)"
            )
    # The predictions of another system have no renderer, and nothing is known of how it decodes.
    if len({side.settings.get("structured", False) for side in (before, after) if "renderer" in side.settings}) > 1:
        structured, free = sorted((before, after), key=lambda side: "structured" not in side.settings)
        raise EvaluationError(
            f"these evaluations cannot be compared: {structured.folder} was decoded by the schema of its answers, "
            f"{free.folder} freely; evaluate both with the same rollout.structured"
        )
    shared = [task for task in before.tasks if task in after.tasks]
    if not shared:
        raise EvaluationError(
            f"these evaluations share no task: {before.folder} holds {', '.join(before.tasks) or 'none'}, "
            f"{after.folder} holds {', '.join(after.tasks) or 'none'}"
        )
    return {task: _pair_task(task, before=before, after=after, held_back=held_back) for task in shared}


def _pair_task(
    task: str, *, before: Evaluation, after: Evaluation, held_back: Callable[[str], bool] | None
) -> PairedScores:
    first, second = before.tasks[task], after.tasks[task]
    row_after = {item_id: row for row, item_id in enumerate(second.item_ids)}
    shared = [row for row, item_id in enumerate(first.item_ids) if item_id in row_after]
    rows = [row for row in shared if held_back is None or not held_back(first.item_ids[row])]
    if shared and not rows:
        raise EvaluationError(f"{task}: all {len(shared)} items were held back; evaluate more of them")
    if not rows:
        raise EvaluationError(
            f"{task}: {before.folder} and {after.folder} share no item_id "
            f"({len(first.item_ids)} against {len(second.item_ids)} items); were they run on different catalogues?"
        )
    left, right = _take(first, rows), _take(second, [row_after[first.item_ids[row]] for row in rows])
    for item_id, category, other in zip(left.item_ids, left.categories, right.categories, strict=True):
        if category != other:
            raise EvaluationError(
                f"{task}: item {item_id!r} is in category {category!r} in {before.folder} "
                f"but in {other!r} in {after.folder}; both evaluations must read the same catalogue"
            )
    return PairedScores(
        mode=before.mode,
        categories=left.categories,
        before=left,
        after=right,
        before_only=len(first.item_ids) - len(shared),
        after_only=len(second.item_ids) - len(shared),
        held_back=len(shared) - len(rows),
    )


def _take(scores: TaskScores, rows: list[int]) -> TaskScores:
    if rows == list(range(len(scores.item_ids))):
        return scores  # the usual case, without a copy
    return TaskScores(
        item_ids=[scores.item_ids[row] for row in rows],
        categories=[scores.categories[row] for row in rows],
        scores={name: values[rows] for name, values in scores.scores.items()},
        statistics={name: values[rows] for name, values in scores.statistics.items()},
        groups=None if scores.groups is None else scores.groups[rows],
        summary=scores.summary,
    )
