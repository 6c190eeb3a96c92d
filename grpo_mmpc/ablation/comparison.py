"""All mixes on all metrics: means over seeds and items, differences to the reference, verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from grpo_mmpc.ablation.results import Results, RunResult
from grpo_mmpc.ablation.spec import BASE, is_among
from grpo_mmpc.ablation.sums import ItemSums, check_alike, item_sums, metrics_of
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.measures import aggregate_of
from grpo_mmpc.evaluation.metric_tables import range_of
from grpo_mmpc.evaluation.resampling import Resampling, units_of
from grpo_mmpc.evaluation.trained import trained_metrics
from grpo_mmpc.metrics.metric import Metric
from grpo_mmpc.statistics.crossed import (
    Estimate,
    ItemEvidence,
    estimate,
    item_evidence,
    pooled_variance,
    replicate_values,
    seed_weights,
)
from grpo_mmpc.statistics.verdicts import (
    CONFIDENCE,
    TOO_FEW,
    TOO_FEW_SEEDS,
    UNSCORED,
    Evidence,
    Floats,
    decide,
    few_changed,
    min_items,
)
from grpo_mmpc.utils.hashing import crc

RESAMPLES = 10_000
MIN_DEGREES = 2
"""The fewest degrees of freedom of the variance over seeds, in an ablation of several seeds: a
variance of one degree is by luck too small to judge by, too often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixCell:
    """One mix on one metric."""

    mix: str
    by_seed: dict[int, float]
    """Mean over items, by seed."""
    level: Estimate | None
    """None = unscored."""
    difference: Estimate | None
    """The mix minus the reference, over the seeds that both have; None for the reference itself."""
    num_seeds: int
    """The number of seeds of the difference."""
    p_holm: float | None
    verdict: str
    """Empty for the reference itself."""
    was_reward: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One metric of one task, for all mixes."""

    task: str
    metric: str
    higher_is_better: bool
    n: int
    n_scored: int
    """Items with a score in every run: only those count."""
    n_products: int | None
    """Groups of these that hang together, resampled as wholes; None where every item is its own."""
    base: float | None
    """The value of the model before training on the same items."""
    cells: list[MixCell]
    trained_by: list[str]
    """Mixes that were trained on it."""

    @property
    def name(self) -> str:
        """``TASK.METRIC``."""
        return f"{self.task}.{self.metric}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationComparison:
    """The whole matrix."""

    reference: str
    mixes: list[str]
    seeds: list[int]
    rows: list[MetricRow]
    family: int
    """The number of comparisons that p-values were corrected for."""


def compare(
    results: Results,
    *,
    mixes: Sequence[str],
    reference: str,
    metrics: Sequence[str] | None,
    resamples: int = RESAMPLES,
) -> AblationComparison:
    """Compare all mixes that have finished runs.

    ``mixes`` are in the order of the page, ``reference`` is one of them or ``base``; ``metrics``
    are ``TASK.METRIC``, None all that have a value per item.

    Raises:
        EvaluationError: Runs were evaluated on different items or in different ways.
    """
    mixes = [mix for mix in mixes if results.of(mix)]
    runs = [run for mix in mixes for run in results.of(mix)]
    comparison = AblationComparison(
        reference=reference, mixes=mixes, seeds=sorted({run.seed for run in runs}), rows=[], family=0
    )
    if not runs:
        return comparison
    bases = {id(evaluation): evaluation for evaluation in results.base.values()}
    if reference == BASE and len(bases) > 1:
        raise EvaluationError(
            "the runs have different base models or evaluation settings and cannot be compared with the model before "
            "training; compare them with one of the mixes"
        )
    base = next(iter(bases.values())) if len(bases) == 1 else None
    evaluations = [*(run.evaluation for run in runs), *([base] if base else [])]
    check_alike(evaluations)
    rows = []
    for task in runs[0].evaluation.tasks:
        tables = [evaluation.tasks[task] for evaluation in evaluations if task in evaluation.tasks]
        if len(tables) < len(evaluations):
            continue
        trained = {mix: next(run for run in runs if run.mix == mix).rewards.get(task, ()) for mix in mixes}
        for name, metric in metrics_of(tables[0], mode=evaluations[0].mode).items():
            if is_among(f"{task}.{name}", metrics) and all(name in {**t.scores, **t.statistics} for t in tables):
                sums = item_sums(tables, name)
                matrix = _Matrix.of(
                    sums,
                    metric=metric,
                    bounds=range_of(name, mode=evaluations[0].mode),
                    runs=runs,
                    has_base=base is not None,
                    reference=reference,
                    task=task,
                    resamples=resamples,
                )
                trained_by = [mix for mix in mixes if trained_metrics(trained[mix], metrics=[name])]
                rows.append(
                    MetricRow(
                        task=task,
                        metric=name,
                        higher_is_better=metric.higher_is_better,
                        n=sums.num_items,
                        n_scored=matrix.num_items,
                        n_products=sums.num_products,
                        base=float(matrix.values[-1]) if base is not None and matrix.num_items else None,
                        cells=[matrix.cell(mix, was_reward=mix in trained_by) for mix in mixes],
                        trained_by=trained_by,
                    )
                )
    return _with_verdicts(replace(comparison, rows=rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """What the difference of a mix to the reference is over."""

    own: list[int]
    """Positions of runs, by shared seed."""
    other: list[int]
    items: ItemEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matrix:
    """Values of all runs on one metric, the untrained model last."""

    values: Floats
    """``[K]``."""
    replicates: Floats
    """``[R, K]``."""
    columns: dict[str, dict[int, int]]
    """By mix and seed, the run's position."""
    reference: str
    pairs: dict[str, _Pair]
    """By mix; without those that cannot be compared with the reference."""
    num_items: int
    """Scored in every run; 0 leaves ``values`` empty."""
    num_units: int
    """Those that hang together counted once: what is resampled, as in ``compare``."""
    least: float
    greatest: float
    """The range of the metric, which no interval leaves."""

    @classmethod
    def of(
        cls,
        sums: ItemSums,
        *,
        metric: Metric,
        bounds: tuple[float, float],
        runs: Sequence[RunResult],
        has_base: bool,
        reference: str,
        task: str,
        resamples: int,
    ) -> "_Matrix":
        num_runs, num_items, _ = sums.values.shape
        units = units_of(
            np.arange(num_items), sums.groups, Resampling(resamples=resamples, flips=0, seed=0), stream=task
        )
        columns: dict[str, dict[int, int]] = {}
        for position, run in enumerate(runs):
            columns.setdefault(run.mix, {})[run.seed] = position
        values, replicates, pairs = np.empty(0), np.empty((0, 0)), {}
        if num_items:
            aggregate = aggregate_of(metric)
            values = aggregate(sums.values.sum(axis=1), np.full(num_runs, float(num_items)))
            of_units = np.stack([units.sums(run) for run in sums.values])
            counts, seed = units.sums(np.ones((num_items, 1)))[:, 0], [crc(task), 0]
            replicates = replicate_values(of_units, counts=counts, aggregate=aggregate, resamples=resamples, seed=seed)
            runs_of = {mix: _paired(columns, mix, reference, has_base=has_base) for mix in columns}
            runs_of = {mix: (own, other) for mix, (own, other) in runs_of.items() if own}
            changes = [of_units[own].mean(axis=0) - of_units[other].mean(axis=0) for own, other in runs_of.values()]
            items = _items(changes, counts, is_mean=metric.aggregate is None, resamples=resamples, seed=seed)
            pairs = {
                mix: _Pair(own=own, other=other, items=one)
                for (mix, (own, other)), one in zip(runs_of.items(), items, strict=True)
            }
        least, greatest = bounds
        return cls(
            values=values,
            replicates=replicates,
            columns=columns,
            reference=reference,
            pairs=pairs,
            num_items=num_items,
            num_units=units.count,
            least=least,
            greatest=greatest,
        )

    def cell(self, mix: str, *, was_reward: bool) -> MixCell:
        """Compare one mix with the reference; without its verdict, which needs the whole family."""
        own, pair = self.columns[mix] if self.num_items else {}, self.pairs.get(mix)
        is_reference = mix == self.reference
        lacks_seeds = bool(own) and not is_reference and self.reference in self.columns and pair is None
        return MixCell(
            mix=mix,
            by_seed={seed: float(self.values[k]) for seed, k in sorted(own.items())},
            level=self._estimate(list(own.values()), pair=None, of_difference=False) if own else None,
            difference=self._estimate(pair.own, pair=pair, of_difference=self.reference in self.columns)
            if pair
            else None,
            num_seeds=len(pair.own) if pair else 0 if lacks_seeds else len(own),
            p_holm=None,
            verdict="" if is_reference else TOO_FEW_SEEDS if lacks_seeds else UNSCORED,
            was_reward=was_reward,
        )

    def _estimate(self, runs: list[int], *, pair: _Pair | None, of_difference: bool) -> Estimate | None:
        values, replicates = self.values[runs], self.replicates[:, runs]
        if pair is not None:
            values, replicates = values - self.values[pair.other], replicates - self.replicates[:, pair.other]
        if not np.isfinite(values).all() or not np.isfinite(replicates).all():
            return None
        weights = seed_weights(num_seeds=len(runs), resamples=len(replicates), seed=[1])
        table = self._by_mix_and_seed()
        pooled = pooled_variance(table, num_seeds=len(runs), of_difference=of_difference)
        mean = estimate(
            values,
            replicates,
            weights,
            num_items=self.num_units,
            pooled=pooled,
            items=pair.items if pair else None,
            confidence=CONFIDENCE,
        )
        if table.shape[1] > 1 and (pooled is None or pooled.degrees < MIN_DEGREES):
            return replace(mean, interval=None, p=None)
        if mean.interval is None:
            return mean
        span = self.greatest - self.least
        least, greatest = (self.least, self.greatest) if pair is None else (-span, span)
        return replace(mean, interval=mean.interval.within(least, greatest, value=mean.value))

    def _by_mix_and_seed(self) -> Floats:
        """Values by mix and seed, ``[M, S]``, NaN where there is no run."""
        seeds = sorted({seed for columns in self.columns.values() for seed in columns})
        rows = [
            [self.values[columns[seed]] if seed in columns else np.nan for seed in seeds]
            for columns in self.columns.values()
        ]
        return np.array(rows)


def _paired(
    columns: dict[str, dict[int, int]], mix: str, reference: str, *, has_base: bool
) -> tuple[list[int], list[int]]:
    """Return the runs of a mix, and those of the reference with the same seeds."""
    own = columns[mix]
    if reference == BASE and has_base:
        return list(own.values()), [-1] * len(own)
    other = columns.get(reference, {}) if mix != reference else {}
    shared = sorted(own.keys() & other.keys())
    return [own[seed] for seed in shared], [other[seed] for seed in shared]


def _items(
    changes: list[Floats], counts: Floats, *, is_mean: bool, resamples: int, seed: list[int]
) -> list[ItemEvidence]:
    """Return what units say of differences ``[U, C]``; corpus-level ones have no mean of units."""
    sizes = [np.abs(one).sum(axis=1) for one in changes]
    if not is_mean or not changes:
        return [ItemEvidence(p=None, few_changed=few_changed(one)) for one in sizes]
    return item_evidence(np.hstack(changes), counts, changes=np.column_stack(sizes), resamples=resamples, seed=seed)


def _with_verdicts(comparison: AblationComparison) -> AblationComparison:
    decisions = iter(
        decide(
            [_evidence(row, cell.difference) for row in comparison.rows for cell in row.cells if cell.difference],
            confidence=CONFIDENCE,
        )
    )
    rows = [
        replace(
            row, cells=[replace(cell, **next(decisions)._asdict()) if cell.difference else cell for cell in row.cells]
        )
        for row in comparison.rows
    ]
    family = sum(cell.p_holm is not None for row in rows for cell in row.cells)
    return replace(comparison, rows=rows, family=family)


def _evidence(row: MetricRow, difference: Estimate) -> Evidence:
    return Evidence(
        delta=difference.value,
        interval=difference.interval,
        p=difference.p,
        higher_is_better=row.higher_is_better,
        few_changed=difference.few_changed,
        without_p=TOO_FEW if (row.n_products or row.n_scored) < min_items(CONFIDENCE) else TOO_FEW_SEEDS,
    )
