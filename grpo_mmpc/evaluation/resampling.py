"""Resampled differences on groups of items: all, one category, the mean over categories."""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.evaluation.measures import Measure
from grpo_mmpc.statistics.bootstrap import (
    bootstrap_sums,
    column_sums,
    expanded_percentile_interval,
    studentised_interval,
)
from grpo_mmpc.statistics.permutation import EXACT_ITEMS, every_flip, flipped_sums, permutation_p
from grpo_mmpc.statistics.verdicts import Floats, Interval, effect_size, min_items


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """The number of bootstrap resamples (R), of flips of the permutation test (F), and a seed."""

    resamples: int
    flips: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric on one group of items, before against after, with its resamples."""

    before: float
    """NaN = nothing was scored."""
    after: float
    num_scored: int
    """Paired items that carry a score; for a mean over categories, those of the smallest one."""
    replicates: Floats
    """Bootstrap replicates of after minus before, ``[R]``; NaN for a resample without any scored
    item."""
    variance: float | None
    """The variance of the difference; None for corpus-level metrics: no scores per item."""
    variances: Floats | None
    """The variance of each replicate, ``[R]``."""
    flipped: Floats
    """After minus before under random flips, ``[F]``."""
    every_flip: Floats | None = None
    """The same under all flips, where there are few items."""
    effect_size: float | None = None
    largest: float = math.inf
    """The metric allows no larger difference."""

    @property
    def delta(self) -> float:
        """After minus before."""
        return self.after - self.before

    def interval(self, *, confidence: float) -> Interval | None:
        """Return the interval, studentised where there is one, else percentiles; None = too few.

        It ends where differences of the metric do: where few items changed, a studentised one would
        reach further.
        """
        if self.num_scored < min_items(confidence):
            return None
        interval = None
        if self.variance is not None and self.variances is not None:
            interval = studentised_interval(
                self.replicates,
                self.variances,
                estimate=self.delta,
                variance=self.variance,
                confidence=confidence,
            )
        if interval is None:
            interval = expanded_percentile_interval(self.replicates, confidence=confidence, num_items=self.num_scored)
        return interval and Interval(low=max(interval.low, -self.largest), high=min(interval.high, self.largest))

    def p_value(self) -> float:
        """Return the two-sided p-value of the paired permutation test."""
        draws = self.flipped if self.every_flip is None else self.every_flip
        return float(permutation_p(draws, np.array(self.delta), exact=self.every_flip is not None))


def flips_of(rows: NDArray[np.int64], measures: Sequence[Measure], settings: Resampling, *, stream: str) -> Floats:
    """Return half-differences of all measures, summed under random flips, ``[F, sum of S]``.

    Those of several groups add up to those of all their items.
    """
    halves = _Table(
        rows=rows,
        width=sum(measure.before.shape[1] for measure in measures),
        columns_of=lambda items: [_differences(measure, items).T / 2 for measure in measures],
    )
    return flipped_sums(halves, flips=settings.flips, seed=[*_seed(settings, stream), 1])


def differences_of(
    rows: NDArray[np.int64], measures: Sequence[Measure], settings: Resampling, *, stream: str, flips: Floats
) -> list[Difference]:
    """Return the differences of all measures on one group of items, from one set of resamples.

    ``stream`` names the group: its resamples do not depend on which other groups exist. ``flips``
    are ``flips_of`` these rows.
    """
    if not measures:
        return []
    columns = [_columns(measure, rows) for measure in measures]
    ends = np.cumsum([2 * measure.before.shape[1] + 1 + 2 * measure.is_mean for measure in measures])
    table = _Table(
        rows=rows,
        width=ends[-1],
        columns_of=lambda items: [block for blocks in columns for block in blocks(items)],
    )
    totals = np.split(column_sums(table), ends[:-1])
    draws = bootstrap_sums(table, resamples=settings.resamples, seed=_seed(settings, stream))
    widths = np.cumsum([measure.before.shape[1] for measure in measures])[:-1]
    return [
        _difference(measure, rows, total=total, draws=drawn, flips=flipped)
        for measure, total, drawn, flipped in zip(
            measures, totals, np.split(draws, ends[:-1], axis=1), np.split(flips, widths, axis=1), strict=True
        )
    ]


def added(first: Difference | None, second: Difference) -> Difference:
    """Return the sum of two independent differences; None stands for nothing yet."""
    if first is None:
        return second
    return Difference(
        before=first.before + second.before,
        after=first.after + second.after,
        # The smallest group decides how far an interval must be widened, and whether there can be
        # one.
        num_scored=min(first.num_scored, second.num_scored),
        replicates=first.replicates + second.replicates,
        variance=None if first.variance is None or second.variance is None else first.variance + second.variance,
        variances=None if first.variances is None or second.variances is None else first.variances + second.variances,
        flipped=first.flipped + second.flipped,
        largest=first.largest + second.largest,
    )


def divided(total: Difference, count: int) -> Difference:
    """Return the unweighted mean of ``count`` differences, from their sum."""
    return Difference(
        before=total.before / count,
        after=total.after / count,
        num_scored=total.num_scored,
        replicates=total.replicates / count,
        variance=None if total.variance is None else total.variance / count**2,
        variances=None if total.variances is None else total.variances / count**2,
        flipped=total.flipped / count,
        largest=total.largest / count,
    )


def _seed(settings: Resampling, stream: str) -> list[int]:
    return [settings.seed, zlib.crc32(stream.encode())]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A table ``[N, width]``, built block by block: whole, it would outweigh the scores."""

    rows: NDArray[np.int64]
    """Items of the group, ``[N]``."""
    width: int
    columns_of: Callable[[NDArray[np.int64]], list[Floats]]
    """Items ``[n]`` -> columns, ``[..., n]`` each."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.width

    def __getitem__(self, part: slice) -> Floats:
        items = self.rows[part]
        block: Floats = np.concatenate([np.empty((0, len(items))), *self.columns_of(items)]).T
        return block


def _differences(measure: Measure, rows: NDArray[np.int64]) -> Floats:
    differences: Floats = measure.after.take(rows, axis=0) - measure.before.take(rows, axis=0)
    return differences


def _columns(measure: Measure, rows: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], list[Floats]]:
    """Return items ``[n]`` -> columns ``[..., n]``: sides, scored, deviations and their squares."""
    mean = _differences(measure, rows).sum() / max(1, np.count_nonzero(measure.scored[rows]))

    def columns(items: NDArray[np.int64]) -> list[Floats]:
        scored = measure.scored[items].astype(np.float64)
        before, after = measure.before.take(items, axis=0).T, measure.after.take(items, axis=0).T
        blocks = [before, after, scored[None]]
        if measure.is_mean:
            # Deviations from the mean, not raw squares: those would lose small spreads around a
            # large difference.
            deviations = (after - before - mean) * scored
            blocks += [deviations, deviations**2]
        return blocks

    return columns


def _difference(
    measure: Measure, rows: NDArray[np.int64], *, total: Floats, draws: Floats, flips: Floats
) -> Difference:
    width = measure.before.shape[1]
    sums, middle = (total[:width], total[width : 2 * width]), (total[:width] + total[width : 2 * width]) / 2
    scored, scored_draws = total[2 * width], draws[:, 2 * width]
    replicates = measure.values(draws[:, width : 2 * width], scored_draws) - measure.values(
        draws[:, :width], scored_draws
    )

    def swapped(halves: Floats) -> Floats:
        """Return after minus before under flips: each side is the middle plus or minus a half."""
        difference: Floats = measure.values(middle + halves, scored) - measure.values(middle - halves, scored)
        return difference

    in_group = rows[measure.scored[rows]]
    few = 0 < len(in_group) <= EXACT_ITEMS
    return Difference(
        before=float(measure.values(sums[0], scored)),
        after=float(measure.values(sums[1], scored)),
        num_scored=int(scored),
        replicates=replicates,
        variance=float(_variances(total)) if measure.is_mean else None,
        variances=_variances(draws) if measure.is_mean else None,
        flipped=swapped(flips),
        every_flip=swapped(every_flip(_differences(measure, in_group) / 2)) if few else None,
        effect_size=effect_size(_differences(measure, in_group)[:, 0]) if measure.is_mean else None,
        largest=measure.largest,
    )


def _variances(sums: Floats) -> Floats:
    """Return variances of means ``[...]`` from column sums ``[..., 5]``; 0 without spread."""
    scored = np.where(sums[..., 2] > 0, sums[..., 2], np.nan)
    squares = sums[..., 4] / scored
    variances = squares - (sums[..., 3] / scored) ** 2
    # What cancellation leaves of equal differences would otherwise pass for a tiny spread, and a
    # pivot be divided by it.
    cleaned: Floats = np.where(variances <= 1e-12 * squares, 0.0, variances) / scored
    return cleaned
