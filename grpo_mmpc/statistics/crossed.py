"""Means over runs and items that were both sampled: interval and p-value of a crossed design.

``docs/ablations.md`` ("What the page says") says how, and how well it holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from grpo_mmpc.statistics.bootstrap import (
    Aggregate,
    bootstrap_sums,
    mean_and_variance,
    mean_columns,
    studentised_p,
)
from grpo_mmpc.statistics.verdicts import Floats, Interval, few_changed, min_items

_NEGLIGIBLE = 1e-12
"""Variance below this is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds of a value over items, or a difference of two such means."""

    value: float
    interval: Interval | None
    """None with too few items."""
    p: float | None
    """Two-sided, of the value being 0; None with too few items."""
    se_items: float
    """Standard error from items alone."""
    se_seeds: float | None
    """Standard error from seeds alone; None with one seed and nothing known of others: its luck
    then is in no interval."""
    degrees: float
    few_changed: bool = False
    """Of a difference: see ``statistics.verdicts.few_changed``."""


class ItemEvidence(NamedTuple):
    """What items alone say against a difference, where t, which knows no skewness, would not."""

    p: float | None
    """Of the studentised bootstrap over items; None where that has none."""
    few_changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedVariance:
    """The variance that seeds give to a mean over so many seeds, by all mixes together."""

    variance: float
    degrees: int


def pooled_variance(values: Floats, *, num_seeds: int, of_difference: bool) -> SeedVariance | None:
    """Return the variance over seeds of a mix's mean, or of a difference of two, pooled over mixes.

    Args:
        values: Per mix and seed, over all items, ``[M, S]``; NaN where a run is missing.
        num_seeds: Seeds that the mean or difference is over: less than S where runs of it are
            missing.
        of_difference: What all mixes of a seed share cancels in differences of them.

    Returns:
        None where no two runs tell seeds apart: with one seed, or of differences with one mix.
    """
    mixes, seeds = np.nonzero(np.isfinite(values))
    # Effects of mixes, and of seeds where those cancel; what they leave is luck, however many runs
    # are missing.
    design = (mixes[:, None] == np.arange(values.shape[0])).astype(np.float64)
    if of_difference:
        design = np.hstack([design, seeds[:, None] == np.arange(values.shape[1])])
    there = values[mixes, seeds]
    effects, _, rank, _ = np.linalg.lstsq(design, there, rcond=None)
    degrees = len(there) - int(rank)
    if degrees < 1:
        return None
    mean_square = float(((there - design @ effects) ** 2).sum()) / degrees
    return SeedVariance(variance=(2 if of_difference else 1) * mean_square / num_seeds, degrees=degrees)


def replicate_values(
    sums: Floats, *, counts: Floats, aggregate: Aggregate, resamples: int, seed: Sequence[int]
) -> Floats:
    """Return every run's value ``[R, K]`` on every resample of the units, the same for all runs.

    Args:
        sums: What each unit of items adds, ``[K, U, C]`` for K runs, finite.
        counts: Items of each unit, ``[U]``.
        aggregate: Of the metric.
        resamples: R.
        seed: Of the resamples.
    """
    num_runs, num_units, num_columns = sums.shape
    columns = sums.transpose(1, 0, 2).reshape(num_units, num_runs * num_columns)
    resampled = bootstrap_sums(np.column_stack([columns, counts]), resamples=resamples, seed=seed)  # [R, K*C + 1]
    per_run = resampled[:, :-1].reshape(resamples, num_runs, num_columns)
    return aggregate(per_run, np.broadcast_to(resampled[:, -1:], (resamples, num_runs)))


def seed_weights(*, num_seeds: int, resamples: int, seed: Sequence[int]) -> Floats:
    """Return each seed's weight in every resample of the seeds, ``[R, S]``; rows sum to 1."""
    generator = np.random.default_rng([*seed, num_seeds])
    counts = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples)
    weights: Floats = counts / num_seeds
    return weights


def item_evidence(
    sums: Floats, counts: Floats, *, changes: Floats, resamples: int, seed: Sequence[int]
) -> list[ItemEvidence]:
    """Return what units of items say of P differences of means, all from the same resamples.

    Args:
        sums: What each unit adds to each difference, its mean over seeds, ``[U, P]``.
        counts: Items of each unit, ``[U]``.
        changes: How much each unit changed, for the floor on changed units, ``[U, P]``.
        resamples: R.
        seed: Of the resamples.
    """
    if not sums.shape[1]:
        return []
    table = mean_columns(sums, counts[:, None])
    drawn = bootstrap_sums(table.reshape(len(table), -1), resamples=resamples, seed=seed)
    means, variances = mean_and_variance(drawn.reshape(resamples, *table.shape[1:]))
    variance = mean_and_variance(table.sum(axis=0))[1]
    values = sums.sum(axis=0) / counts.sum()
    return [
        ItemEvidence(
            p=studentised_p(
                value + means[:, column], variances[:, column], estimate=float(value), variance=float(variance[column])
            ),
            few_changed=few_changed(changes[:, column]),
        )
        for column, value in enumerate(values)
    ]


def estimate(
    values: Floats,
    replicates: Floats,
    weights: Floats,
    *,
    num_items: int,
    degrees_of_items: float | None = None,
    pooled: SeedVariance | None = None,
    items: ItemEvidence | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Return the mean over seeds with an interval for other seeds and other items.

    Its p-value is that of t; of a difference the larger one of it and that of the ``items``.

    Args:
        values: Per seed, over all items, ``[S]``; of a difference, the difference.
        replicates: The same on resampled items, ``[R, S]``.
        weights: See ``seed_weights``, ``[R, S]``.
        num_items: N; where items hang together, their groups.
        degrees_of_items: Of the items' variance, where strata of very different sizes weigh alike:
            ``replicates`` then are taken to have that variance without bias. None means N - 1.
        pooled: The least that is believed of the seeds' variance; None believes these values alone.
        items: Of a difference, see ``item_evidence``; None for a level, which gets no verdict.
        confidence: Of the interval.
    """
    num_seeds = len(values)
    value = float(values.mean())
    of_items = float(replicates.mean(axis=1).var())
    if degrees_of_items is None:
        of_items, degrees_of_items = of_items * num_items / max(1, num_items - 1), num_items - 1
    of_seeds = float(values.var(ddof=1)) / num_seeds if num_seeds > 1 else 0.0
    degrees_of_seeds = num_seeds - 1
    if pooled is not None and pooled.variance > of_seeds:
        of_seeds, degrees_of_seeds = pooled.variance, pooled.degrees
    unjudged = Estimate(
        value=value,
        interval=None,
        p=None,
        se_items=math.sqrt(of_items),
        se_seeds=math.sqrt(of_seeds) if num_seeds > 1 or pooled is not None else None,
        degrees=0.0,
        few_changed=items is not None and items.few_changed,
    )
    if num_items < min_items(confidence):
        return unjudged
    variance = of_items + of_seeds
    if variance < _NEGLIGIBLE * max(1.0, value * value):
        # Every item and seed says the same: nothing to be unsure about, except that chance might
        # give N equal signs.
        p = 1.0 if abs(value) < math.sqrt(_NEGLIGIBLE) else min(1.0, 2 * 0.5**num_items)
        return replace(unjudged, interval=Interval(value, value), p=p)
    degrees = variance**2 / (of_items**2 / degrees_of_items + (of_seeds**2 / degrees_of_seeds if of_seeds else 0.0))
    # heavy: imported on use
    from scipy.stats import t as student  # type: ignore[import-untyped]

    deviations = (replicates * weights).sum(axis=1) - value
    tail, error = (1 - confidence) / 2, math.sqrt(variance)
    quantile = float(student.ppf(1 - tail, degrees))
    if float(deviations.var()) < variance / 4:
        # Most of the variance is what other mixes tell of seeds: these few deviations have no shape
        # to follow.
        low, high = value - quantile * error, value + quantile * error
    else:
        stretch = error / float(deviations.std()) * quantile / NormalDist().inv_cdf(1 - tail)
        low, high = value + stretch * np.quantile(deviations, [tail, 1 - tail])
    p = 2 * float(student.sf(abs(value) / math.sqrt(variance), degrees))
    if items is not None and items.p is not None:
        p = max(p, items.p)
    return replace(unjudged, interval=Interval(float(low), float(high)), p=p, degrees=degrees)
