"""Rewards that compare the words or characters of the predicted title with the true one's.

All score in [0, 1], need nothing but the texts, and leave a completion without a reference
unscored. They are the functions of ``grpo_mmpc.metrics.text``: what is trained on is what is
measured.
"""

from collections.abc import Callable
from functools import partial

from grpo_mmpc.metrics import text
from grpo_mmpc.rewards.declaration import Reward

from .batches import EachPair, ScorePairs


def bleu(*, smoothing: str = "method3") -> Reward:
    """The smoothed sentence BLEU-4 (nltk) on 13a tokens; short titles use fewer orders.

    Range: [0, 1]. Needs: the true title. Cost: 8 ms for 64 completions.

    Gamed by: the phrases that most titles share (", Pack of 2, Large"), which match n-grams
    whatever the product; the one word that names the product weighs no more than a comma.

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
    return _against_reference(partial(text.bleu, smoothing=smoothing), together=True)


def rouge_l() -> Reward:
    """The ROUGE-L F1: the longest common subsequence of words. Word order matters, gaps do not.

    Range: [0, 1]. Needs: the true title. Cost: 0.5 ms for 64 completions.

    Gamed by: interleaving many likely words; each hit in order counts, each miss costs little.

    Example:
        >>> rouge_l()(predictions=["red bag", "red bag"], references=["red tote bag", None])
        [0.8, None]
    """
    return _against_reference(text.rouge_l)


def chrf() -> Reward:
    """The chrF2 (sacrebleu): character n-grams, recall counts double.

    Range: [0, 1]. Needs: the true title. Cost: 13 ms for 64 completions.

    Gamed by: over-long titles, since recall weighs more than precision; and by word stems, affixes
    and stock phrases that occur everywhere (``chrf_idf`` pays little for those).
    """
    return _against_reference(text.chrf)


def token_f1() -> Reward:
    """The F1 of the bags of words, case-folded, any script. Word order does not matter.

    Range: [0, 1]. Needs: the true title. Cost: 1 ms for 64 completions.

    Gamed by: word salad, which scores like a sentence; pair it with ``bleu``.
    """
    return _against_reference(text.token_f1)


def jaccard() -> Reward:
    """The share of common words among all words, as sets.

    Range: [0, 1]. Needs: the true title. Cost: 0.5 ms for 64 completions.

    Gamed by: word salad as in ``token_f1``; repetitions cost nothing at all.
    """
    return _against_reference(text.jaccard)


def _against_reference(function: Callable[..., float], *, together: bool = False) -> Reward:
    score = ScorePairs(EachPair(function), together=together)
    return Reward(score=score, value_range=(0.0, 1.0), targets=("text",), needs=("reference",))
