"""Rewards for the form of a completion, whatever it says."""

from dataclasses import dataclass
from typing import Any

from grpo_mmpc.errors import RewardError
from grpo_mmpc.metrics.text import words
from grpo_mmpc.rewards.declaration import Reward

from .batches import ScoreTexts

_SCORES = {"json": 1.0, "embedded": 0.5, "malformed": 0.0}


def json_format() -> Reward:
    """Score the form: the completion should be the JSON object that was asked for, and no more.

    1 for the bare object, 0.5 for an object inside a code fence or other text, 0 for a malformed
    completion.

    Range: [0, 1]. Needs: nothing. Cost: 0.2 ms for 64 completions.

    Gamed by: any well-formed object, whatever it says; it carries no signal once all completions
    parse, so keep its weight small.

    Example:
        >>> json_format()(formats=["json", "embedded"])
        [1.0, 0.5]
    """
    return Reward(score=_score_format, value_range=(0.0, 1.0))


def _score_format(*, formats: list[str], **_columns: list[Any]) -> list[float | None]:
    return [_SCORES[form] for form in formats]


def repetition_penalty(*, ngram_size: int = 2) -> Reward:
    """Subtract the share of repeated word n-grams: 0 without any, towards -1 for nothing else.

    A text of fewer words than ``ngram_size`` repeats nothing. Words are those of ``token_f1``: case
    and punctuation make no difference. A malformed completion gets -1.

    Range: [-1, 0]. Needs: nothing. Cost: 0.3 ms for 64 completions.

    Gamed by: short texts; repetitions with other words in between; and scripts without spaces,
    where a sentence is one word.

    Args:
        ngram_size: Words of a repeated unit. 2 suits titles, in which single words recur for good
            reason.

    Raises:
        RewardError: ``ngram_size`` is below 1.

    Example:
        >>> # 1 of 3 pairs, 0 of 3
        >>> repetition_penalty()(predictions=["red bag red bag", "red bag, blue bag"])
        [-0.3333333333333333, 0.0]
    """
    if ngram_size < 1:
        raise RewardError(f"ngram_size must be at least 1, found {ngram_size}")
    return Reward(
        score=ScoreTexts(_RepetitionPenalty(ngram_size)),
        value_range=(-1.0, 0.0),
        targets=("text", "image"),
        worst_score=-1.0,
    )


@dataclass(frozen=True, slots=True)
class _RepetitionPenalty:
    ngram_size: int

    def __call__(self, prediction: str) -> float:
        text = words(prediction)
        ngrams = list(zip(*(text[start:] for start in range(self.ngram_size)), strict=False))
        return (len(set(ngrams)) - len(ngrams)) / len(ngrams) if ngrams else 0.0
