"""The paired bootstrap over items, with intervals for few items and skewed differences."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from grpo_mmpc.statistics.verdicts import Floats, Interval, check_confidence, min_items

_CHUNK_CELLS = 2_000_000
"""Resample counts held at once (32 MB with the items that they count): memory stays flat whatever
the number of items and resamples."""

Aggregate = Callable[[Floats, Floats], Floats]
"""(sums ``[..., S]``, number of scored items ``[...]``) -> values ``[...]``."""


def bootstrap_sums(values: Floats, *, resamples: int, seed: Sequence[int]) -> Floats:
    """Return column sums ``[R, K]`` over resamples of N rows with replacement.

    Every column sees the same resampled rows, so that anything that is a function of sums over
    items (a mean of the scored items, a corpus BLEU) can be bootstrapped: give its numerator and
    denominator as columns of ``values``, ``[N, K]``, finite. The same seed, N and R sample the same
    rows.
    """
    num_items, num_columns = values.shape
    if num_items == 0:
        raise ValueError("cannot resample zero items")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected at least 1")
    generator = np.random.default_rng(list(seed))
    sums = np.empty((resamples, num_columns))
    chunk = max(1, _CHUNK_CELLS // num_items)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        sampled = generator.integers(0, num_items, size=(rows, num_items))
        # How often each item was sampled turns the resampled sum into one matrix product for all
        # columns.
        sampled += np.arange(rows)[:, None] * num_items
        counts = np.bincount(sampled.ravel(), minlength=rows * num_items).reshape(rows, num_items)  # [rows, N]
        sums[start : start + rows] = counts.astype(np.float64) @ values
    return sums


def studentised_interval(
    replicates: Floats, variances: Floats, *, estimate: float, variance: float, confidence: float
) -> Interval | None:
    """Return the bootstrap-t interval of a mean (Efron & Tibshirani 1993, section 12.5).

    Every replicate is measured in its own standard error, so that the two ends follow the skewness
    of the differences; percentile intervals miss it to first order. ``benchmarks/coverage.py``
    simulates what it covers.

    Args:
        replicates: Means of the resamples ``[R]``; NaN ones (without any scored item) are left out.
        variances: Of each of those means, ``[R]``: 0 where a resample holds equal differences only.
        estimate: The mean itself.
        variance: Of that mean, by the same formula.
        confidence: For instance 0.95.

    Returns:
        The interval; None when there are too few resamples for these tails, or so many without
        spread that an end is infinite, as when fewer than about five items changed.
    """
    check_confidence(confidence)
    if variance == 0.0:
        return Interval(low=estimate, high=estimate)
    pivots = _pivots(replicates, variances, estimate=estimate)
    rank = int((len(pivots) + 1) * (1 - confidence) / 2 + 1e-9)
    if rank < 1:
        return None
    pivots.partition([rank - 1, len(pivots) - rank])
    ends = estimate - math.sqrt(variance) * pivots[[len(pivots) - rank, rank - 1]]
    if not np.isfinite(ends).all():
        return None
    return Interval(low=float(ends[0]), high=float(ends[1]))


def studentised_p(replicates: Floats, variances: Floats, *, estimate: float, variance: float) -> float | None:
    """Return the p-value of a mean being 0 that belongs to ``studentised_interval``.

    At most 1 minus a confidence exactly where the interval of that confidence leaves out 0; 0 where
    no resample is as far out, since R of them cannot tell how rare that is. None where the
    differences, or more than 2.5 % of the resamples, are without spread.
    """
    pivots = _pivots(replicates, variances, estimate=estimate)
    if variance == 0.0 or np.isinf(pivots).mean() > 0.025:
        return None
    observed = estimate / math.sqrt(variance)
    beyond = int(min(np.count_nonzero(pivots >= observed), np.count_nonzero(pivots <= observed)))
    return min(1.0, 2 * (beyond + 1) / (len(pivots) + 1)) if beyond else 0.0


def mean_columns(sums: Floats, counts: Floats) -> Floats:
    """Return what is resampled for P means over items that hang together in units, ``[U, P, 5]``.

    Of a mean d, for units with m items (``counts``, ``[U, 1]`` or ``[U, P]``) and the sum D
    (``sums``, ``[U, P]``): m, e = D - m d, e squared, e m, m squared. Deviations, since raw squares
    would lose small spreads around a large difference.
    """
    counts = np.broadcast_to(counts, sums.shape)
    deviations = sums - counts * (sums.sum(axis=0) / np.maximum(1.0, counts.sum(axis=0)))
    return np.stack([counts, deviations, deviations**2, deviations * counts, counts**2], axis=-1)


def mean_and_variance(sums: Floats) -> tuple[Floats, Floats]:
    """Return mean deviations ``[...]`` and variances of means from sums of ``mean_columns``."""
    count = np.where(sums[..., 0] > 0, sums[..., 0], np.nan)
    mean = sums[..., 1] / count
    spread = sums[..., 2] - 2 * mean * sums[..., 3] + mean**2 * sums[..., 4]
    # What cancellation leaves of equal differences would otherwise pass for a tiny spread, and a
    # pivot be divided by it.
    return mean, np.where(spread <= 1e-12 * sums[..., 2], 0.0, spread) / count**2


def _pivots(replicates: Floats, variances: Floats, *, estimate: float) -> Floats:
    known = np.isfinite(replicates)
    deviations, errors = replicates[known] - estimate, np.sqrt(variances[known])
    # 0/0 is a resample that repeats the estimate: no deviation, whatever the error.
    deviations[np.abs(deviations) <= 1e-9 * np.abs(deviations).max(initial=0.0)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(deviations == 0.0, 0.0, deviations / errors)


def expanded_percentile_interval(replicates: Floats, *, confidence: float, num_items: int) -> Interval | None:
    """Return the percentile bootstrap interval, widened for small samples.

    The plain percentile interval is too narrow by about ``sqrt((n - 1) / n)`` and uses normal where
    t quantiles belong; Hesterberg (2015, arXiv 1411.5279) moves the percentiles outwards to make up
    for both. NaN replicates ``[R]`` are left out. None where ``num_items``, those with a score, are
    fewer than ``min_items(confidence)``, or no replicate is finite.
    """
    if num_items < min_items(confidence):
        return None
    finite = replicates[np.isfinite(replicates)]
    if finite.size == 0:
        return None
    tail = expanded_tail(confidence=confidence, num_items=num_items)
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))


def expanded_tail(*, confidence: float, num_items: int) -> float:
    """Return the share of replicates left out at each end, ``Phi(-sqrt(n / (n - 1)) * t)``."""
    check_confidence(confidence)
    if num_items < 2:
        raise ValueError(f"an interval needs at least 2 items, got {num_items}")
    quantile = _t_quantile(1 - (1 - confidence) / 2, degrees=num_items - 1)
    return NormalDist().cdf(-math.sqrt(num_items / (num_items - 1)) * quantile)


def _t_quantile(probability: float, *, degrees: int) -> float:
    """Return a quantile of Student's t by its expansion (Abramowitz & Stegun 26.7.5).

    scipy's would move the ninth digit of intervals that are held to a golden file.
    """
    x = NormalDist().inv_cdf(probability)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + math.fsum(term / degrees**power for power, term in enumerate(terms, start=1))
