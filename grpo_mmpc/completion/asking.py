"""Ask the policy for what items lack, and read what it answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from grpo_mmpc.completion.part import NOT_COMPLETED, Answer
from grpo_mmpc.tasks import Task
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.single_out import Failure

NO_RENDERER = "no renderer"
"""The reason of an image that nothing can draw."""

Generate = Callable[[int, SamplingConfig], Sequence[str | Failure]]
"""Completes all rows once: by the number of the turn, 0 the greedy one, and its sampling."""


def ask(
    task: Task, rows: Sequence[PromptRow], *, sampling: SamplingConfig, samples: int, generate: Generate
) -> list[Answer]:
    """Return the answer to each row, with the ``samples`` by whose agreement it is judged.

    Keys are the caller's to add, and the images to what is an image's prompt.
    """
    greedy, *sampled = [generate(turn, one) for turn, one in enumerate([sampling, *samplings(sampling, samples)])]
    return [
        replace(
            _read(task, completion, row),
            item_id=row.item_id,
            samples=[_read(task, other, row).answer for other in others],
        )
        for row, completion, *others in zip(rows, greedy, *sampled, strict=True)
    ]


def samplings(greedy: SamplingConfig, count: int) -> list[SamplingConfig]:
    """Return how the texts beside the greedy one are sampled, each by a seed of its own."""
    return [replace(greedy, temperature=1.0, seed=greedy.seed + number) for number in range(1, count + 1)]


def no_answer(task: Task, reason: str, detail: str) -> Answer:
    """Return the answer of a gap that stays empty; the item is the caller's to add."""
    return Answer(item_id="", field=task.target, key="", answer=None, value=None, reason=reason, detail=detail)


def _read(task: Task, completion: str | Failure, row: PromptRow) -> Answer:
    if isinstance(completion, Failure):
        return no_answer(task, NOT_COMPLETED, completion.reason)
    prediction = task.parse(completion).prediction
    if prediction is None:
        is_cut = "{" in completion and "}" not in completion.rpartition("{")[2]
        return no_answer(task, "unfinished completion" if is_cut else "malformed completion", completion)
    value = None if task.target == "image" else prediction
    if task.target == "attributes":  # what the item has is never overwritten
        missing = task.missing_keys(row.attributes)
        new = {key: text for key, text in json.loads(prediction).items() if key in missing}
        if not new:
            return no_answer(task, "no missing value was given", completion)
        value = json.dumps(new, ensure_ascii=False)
    return Answer(item_id="", field=task.target, key="", answer=prediction, value=value)
