"""Resampled differences on groups of items: all, one category, the mean over categories."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.evaluation.measures import Measure
from grpo_mmpc.statistics.bootstrap import (
    bootstrap_sums,
    expanded_percentile_interval,
    mean_and_variance,
    mean_columns,
    studentised_interval,
    studentised_p,
)
from grpo_mmpc.statistics.permutation import EXACT_UNITS, every_flip, flipped_sums, permutation_p
from grpo_mmpc.statistics.verdicts import Floats, Interval, effect_size, few_changed, min_items
from grpo_mmpc.utils.hashing import crc

MAX_UNITS = 5_000
"""More units than these are dealt at random into so many, which leaves expectation and variance of
every sum as they are: time and memory stay flat, and a variance is known to 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """The number of bootstrap resamples (R), of flips of the permutation test (F), and a seed."""

    resamples: int
    flips: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Items of one group of items, and the units that are resampled and flipped as wholes."""

    rows: NDArray[np.int64]
    """Items, ``[N]``."""
    unit_of: NDArray[np.int64] | None
    """The unit of each, 0 to U - 1; None where every item is one of its own."""
    count: int
    """U."""

    def sums(self, values: Floats) -> Floats:
        """Sum the values ``[n, K]`` of all items over each unit, ``[U, K]``."""
        inside: Floats = values.take(self.rows, axis=0)
        if self.unit_of is None:
            return inside
        columns = [np.bincount(self.unit_of, weights=column, minlength=self.count) for column in inside.T]
        return np.column_stack(columns)


def units_of(rows: NDArray[np.int64], groups: NDArray[np.int64] | None, settings: Resampling, *, stream: str) -> Units:
    """Return the units of some items: their ``groups`` ``[n]``, where items hang together."""
    unit_of, count = np.arange(len(rows)), len(rows)
    if groups is not None:
        # numbered as they come, so that items without a group are resampled as if there were none
        _, first, inverse = np.unique(groups[rows], return_index=True, return_inverse=True)
        unit_of, count = np.argsort(np.argsort(first))[inverse], len(first)
    if count > MAX_UNITS:
        shuffled = np.random.default_rng([*_seed(settings, stream), 2]).permutation(count)
        unit_of, count = shuffled[unit_of] % MAX_UNITS, MAX_UNITS
    return Units(rows=rows, unit_of=None if count == len(rows) else unit_of, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric on one group of items, before against after, with its resamples."""

    before: float
    """NaN = nothing was scored."""
    after: float
    num_scored: int
    """Paired items that carry a score; of a mean over categories, those of the smallest one."""
    num_units: int
    """Units with such items, counted in the same way."""
    changes: Floats
    """How much each scored unit changed, ``[U]``; of a mean over categories, of all of them."""
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
    """The same under all flips, where there are few units."""
    effect_size: float | None = None
    design_effect: float | None = None
    """The variance over that of so many unrelated items; None where every item is a unit."""
    largest: float = math.inf
    """The metric allows no larger difference."""

    @property
    def delta(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def few_changed(self) -> bool:
        """True if too few units changed for interval and p-value to hold what they promise."""
        return few_changed(self.changes)

    def interval(self, *, confidence: float) -> Interval | None:
        """Return the interval, studentised where there is one, else percentiles; None = too few.

        It ends where differences of the metric do: where few items changed, a studentised one would
        reach further.
        """
        if self.num_units < min_items(confidence):
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
            interval = expanded_percentile_interval(self.replicates, confidence=confidence, num_items=self.num_units)
        return interval and interval.within(-self.largest, self.largest, value=self.delta)

    def p_value(self) -> float:
        """Return the larger of the two-sided p-values of the permutation test and the bootstrap.

        Flips assume symmetric differences, the studentised bootstrap many of them.
        """
        draws = self.flipped if self.every_flip is None else self.every_flip
        p = float(permutation_p(draws, np.array(self.delta), exact=self.every_flip is not None))
        if self.variance is None or self.variances is None:
            return p
        other = studentised_p(self.replicates, self.variances, estimate=self.delta, variance=self.variance)
        return p if other is None else max(p, other)


def differences_of(units: Units, measures: Sequence[Measure], settings: Resampling, *, stream: str) -> list[Difference]:
    """Return the differences of all measures on one group of items, from one set of resamples.

    ``stream`` names the group: its resamples do not depend on which other groups exist.
    """
    if not measures:
        return []
    table, ends = _beside([_columns(measure, units) for measure in measures])
    halves, widths = _beside([units.sums(measure.after - measure.before) / 2 for measure in measures])
    draws = bootstrap_sums(table, resamples=settings.resamples, seed=_seed(settings, stream))
    flips = flipped_sums(halves, flips=settings.flips, seed=[*_seed(settings, stream), 1])
    return [
        _difference(measure, units, table=own, draws=drawn, halves=half, flips=flipped)
        for measure, own, drawn, half, flipped in zip(
            measures,
            *(np.split(whole, ends, axis=1) for whole in (table, draws)),
            *(np.split(whole, widths, axis=1) for whole in (halves, flips)),
            strict=True,
        )
    ]


def _beside(blocks: list[Floats]) -> tuple[Floats, NDArray[np.int64]]:
    return np.hstack(blocks), np.cumsum([block.shape[1] for block in blocks])[:-1]


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
        num_units=min(first.num_units, second.num_units),
        changes=np.concatenate([first.changes, second.changes]),
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
        num_units=total.num_units,
        changes=total.changes,
        replicates=total.replicates / count,
        variance=None if total.variance is None else total.variance / count**2,
        variances=None if total.variances is None else total.variances / count**2,
        flipped=total.flipped / count,
        largest=total.largest / count,
    )


def _seed(settings: Resampling, stream: str) -> list[int]:
    return [settings.seed, crc(stream)]


def _columns(measure: Measure, units: Units) -> Floats:
    """Return what is resampled, ``[U, W]``: of a corpus-level metric, both sides and the count."""
    scored = units.sums(measure.scored[:, None].astype(np.float64))
    if not measure.is_mean:
        return np.hstack([units.sums(measure.before), units.sums(measure.after), scored])
    return mean_columns(units.sums(measure.after - measure.before), scored)[:, 0]


def _difference(
    measure: Measure, units: Units, *, table: Floats, draws: Floats, halves: Floats, flips: Floats
) -> Difference:
    width, in_group = measure.before.shape[1], units.rows[measure.scored[units.rows]]
    count = np.array(float(len(in_group)))
    before, after = (side.take(units.rows, axis=0).sum(axis=0) for side in (measure.before, measure.after))
    middle = (before + after) / 2
    scored_units = table[:, 0 if measure.is_mean else -1] > 0
    few = 0 < np.count_nonzero(scored_units) <= EXACT_UNITS
    values = (float(measure.values(before, count)), float(measure.values(after, count)))
    variance = variances = size = design = None
    if measure.is_mean:
        replicates, variances = mean_and_variance(draws)
        replicates = replicates + (values[1] - values[0])
        variance = float(mean_and_variance(table.sum(axis=0))[1])
        differences = (measure.after - measure.before).take(in_group, axis=0)[:, 0]
        size = effect_size(differences)
        if units.unit_of is not None and len(differences) and (alone := float(differences.var()) / len(differences)):
            design = variance / alone
    else:
        replicates = measure.values(draws[:, width:-1], draws[:, -1]) - measure.values(draws[:, :width], draws[:, -1])

    def swapped(halves: Floats) -> Floats:
        """Return after minus before under flips: each side is the middle plus or minus a half."""
        difference: Floats = measure.values(middle + halves, count) - measure.values(middle - halves, count)
        return difference

    return Difference(
        before=values[0],
        after=values[1],
        num_scored=len(in_group),
        num_units=int(np.count_nonzero(scored_units)),
        changes=np.abs(halves[scored_units]).sum(axis=1),
        replicates=replicates,
        variance=variance,
        variances=variances,
        flipped=swapped(flips),
        every_flip=swapped(every_flip(halves[scored_units])) if few else None,
        effect_size=size,
        design_effect=design,
        largest=measure.largest,
    )
