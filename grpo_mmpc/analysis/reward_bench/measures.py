"""Separation of two lists of scores."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import fmean


def auc(better: Sequence[float], worse: Sequence[float]) -> float | None:
    """Probability that a score of ``better`` lies above one of ``worse``, over all pairs; equal scores count half.

    1 = always, 0.5 = no better than a coin, 0 = never; None if either list is empty. The area under
    the ROC curve, or the Mann-Whitney U statistic over the number of pairs.
    """
    if not better or not worse:
        return None
    ordered = sorted(worse)
    above = sum((bisect_left(ordered, score) + bisect_right(ordered, score)) / 2 for score in better)
    return above / (len(better) * len(worse))


def win_rate(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Share of (better, worse) pairs that the better one wins; equal scores count half; None without pairs."""
    if not pairs:
        return None
    return fmean(1.0 if better > worse else 0.5 if better == worse else 0.0 for better, worse in pairs)
