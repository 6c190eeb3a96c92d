"""Rewards for the form of a completion."""

from typing import Any

from grpo_mmpc.tasks import TASKS
from rewards.declaration import Reward

_SCORES = {"json": 1.0, "embedded": 0.5, "malformed": 0.0}


def json_format() -> Reward:
    """Whether the completion is the JSON object that was asked for, and nothing else.

    1 for the bare object, 0.5 for an object inside a code fence or other text, 0 for a malformed completion. Range
    [0, 1], both tasks, needs nothing; cost: about 0.01 ms a completion. Gamed by: any well-formed object, whatever it says;
    it carries no signal once all completions parse, so keep its weight small.

    Example:
        >>> json_format()(completions=['{"title": "Red Bag"}', 'Sure: {"title": "Red Bag"}'], tasks=["image_to_text"] * 2)
        [1.0, 0.5]
    """

    def score(*, completions: list[str], tasks: list[str], **_columns: list[Any]) -> list[float | None]:
        return [
            _SCORES[TASKS[task].parse(completion).format] for completion, task in zip(completions, tasks, strict=True)
        ]

    return Reward(score=score, value_range=(0.0, 1.0))
