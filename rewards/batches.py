"""Batch reward functions from functions of one text or one pair: groups sample duplicates, and each is scored once."""

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from grpo_mmpc.types import RewardFn


def is_known(reference: str | None) -> TypeGuard[str]:
    """Whether there is a true title to compare with; a blank one is none."""
    return reference is not None and bool(reference.strip())


def score_texts(function: Callable[[str], float]) -> RewardFn:
    """A reward that judges each prediction by itself."""

    def score(*, predictions: list[str], **_columns: list[Any]) -> list[float | None]:
        scores = {prediction: function(prediction) for prediction in dict.fromkeys(predictions)}
        return [scores[prediction] for prediction in predictions]

    return score


def score_pairs(function: Callable[[Sequence[str], Sequence[str]], Sequence[float]]) -> RewardFn:
    """A reward that compares each prediction with its reference; None without one.

    Args:
        function: Scores of N distinct pairs, from their predictions and their references; not
            called without a pair.
    """

    def score(*, predictions: list[str], references: list[str | None], **_columns: list[Any]) -> list[float | None]:
        pairs = list(zip(predictions, references, strict=True))
        distinct = list(dict.fromkeys((p, r) for p, r in pairs if is_known(r)))
        scores: dict[tuple[str, str | None], float] = {}
        if distinct:
            values = function([prediction for prediction, _ in distinct], [reference for _, reference in distinct])
            scores.update(zip(distinct, values, strict=True))
        return [scores.get(pair) for pair in pairs]

    return score
