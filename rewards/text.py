"""Rewards that compare the predicted title with the true one, word by word or character by character.

All score in [0, 1], need nothing but the texts, and leave a completion without a reference unscored. They are the
functions of ``grpo_mmpc.metrics.text``: what is trained on is what is measured.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from grpo_mmpc.metrics import text
from rewards.declaration import Reward


def bleu(*, smoothing: str = "method3") -> Reward:
    """Smoothed sentence BLEU-4 (nltk) on 13a tokens; titles of fewer than four words use fewer orders.

    Range [0, 1]. Cost: about 0.1 ms a completion. Gamed by: the phrases that most titles share (", Pack of 2, Large"),
    which match n-grams whatever the product; the one word that names the product weighs no more than a comma.

    Args:
        smoothing: nltk's ``method1``, ``method2`` or ``method3``.

    Raises:
        ValueError: Unknown smoothing.

    Example:
        >>> bleu()(predictions=["Red Tote Bag"], references=["Red Tote Bag"])
        [1.0]
    """
    if smoothing not in text.SMOOTHINGS:
        raise ValueError(f"smoothing must be one of {', '.join(text.SMOOTHINGS)}, found {smoothing!r}")
    return _against_reference(partial(text.bleu, smoothing=smoothing))


def rouge_l() -> Reward:
    """ROUGE-L F1: the longest common subsequence of words. Range [0, 1]; word order matters, gaps do not.

    Cost: about 0.01 ms a completion. Gamed by: interleaving many likely words; each hit in order counts, each miss costs
    little. ASCII words only.

    Example:
        >>> rouge_l()(predictions=["red bag", "red bag"], references=["red tote bag", None])
        [0.8, None]
    """
    return _against_reference(text.rouge_l)


def chrf() -> Reward:
    """chrF2 (sacrebleu): character n-grams, recall counts double. Range [0, 1].

    Cost: about 0.2 ms a completion. Gamed by: over-long titles, since recall weighs more than precision; and by word
    stems and affixes that occur everywhere.
    """
    return _against_reference(text.chrf)


def token_f1() -> Reward:
    """F1 of the bags of words, case-folded, any script. Range [0, 1]; word order does not matter.

    Cost: about 0.02 ms a completion. Gamed by: word salad, which scores like a sentence; pair it with ``bleu``.
    """
    return _against_reference(text.token_f1)


def jaccard() -> Reward:
    """Shared words over all words, as sets. Range [0, 1].

    Cost: about 0.02 ms a completion. Gamed by: word salad as in ``token_f1``; repetitions cost nothing at all.
    """
    return _against_reference(text.jaccard)


def _against_reference(function: Callable[..., float]) -> Reward:
    """A reward that scores each prediction against its reference; groups sample duplicates, scored once."""

    def score(*, predictions: list[str], references: list[str | None], **_columns: list[Any]) -> list[float | None]:
        scores: dict[tuple[str, str], float] = {}
        results: list[float | None] = []
        for prediction, reference in zip(predictions, references, strict=True):
            if reference is None or not reference.strip():
                results.append(None)
                continue
            pair = (prediction, reference)
            if pair not in scores:
                scores[pair] = function(prediction=prediction, reference=reference)
            results.append(scores[pair])
        return results

    return Reward(score=score, value_range=(0.0, 1.0), tasks=("image_to_text",))
