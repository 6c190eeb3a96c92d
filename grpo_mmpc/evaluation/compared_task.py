"""One task of a comparison: its cells over all items and categories, and their verdicts."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.evaluation.measures import Measure, SetMetric, measures_of, set_metrics_of
from grpo_mmpc.evaluation.metric_tables import table_position
from grpo_mmpc.evaluation.pairing import PairedScores
from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.evaluation.resampling import Difference, Resampling, added, differences_of, divided, units_of
from grpo_mmpc.evaluation.trained import trained_metrics
from grpo_mmpc.statistics.permutation import num_flips
from grpo_mmpc.statistics.power import least_difference
from grpo_mmpc.statistics.verdicts import NO_INTERVAL, TOO_FEW, TOO_FEW_CHANGED, UNSCORED, Evidence, Interval, decide

_DIGITS = 10
"""Kept decimals: far below any meaningful difference, above the noise of summation order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that the tasks of a comparison share."""

    resamples: int
    confidence: float
    seed: int
    num_comparisons: int
    """The number of evaluations that are compared with the same one and shown together."""
    by_category: bool
    """True if categories are shown, and belong to what p-values are corrected for."""


def compare_task(
    task: str,
    scores: PairedScores,
    rewards: Collection[str],
    settings: Settings,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> TaskComparison:
    """Compare one task, without verdicts, which take all comparisons together.

    ``rewards`` names those that were trained on in this task.
    """
    measures, set_metrics = measures_of(scores), set_metrics_of(scores)
    metrics: list[Measure | SetMetric] = [*measures, *set_metrics]
    metrics.sort(key=lambda metric: table_position(metric.name, mode=scores.mode))
    rewarded = trained_metrics(rewards, metrics=[metric.name for metric in metrics])
    categories = np.array(scores.categories, dtype=object)
    names = sorted(set(scores.categories))
    family = len(measures) * (len(names) if settings.by_category else 1) * settings.num_comparisons
    flips = num_flips(at_least=settings.resamples, family=family, confidence=settings.confidence)
    resampling = Resampling(resamples=settings.resamples, flips=flips, seed=settings.seed)

    def in_order(cells: Mapping[str, Cell]) -> dict[str, Cell]:
        return {
            metric.name: replace(
                cells[metric.name], was_reward=metric.name in rewarded, higher_is_better=metric.higher_is_better
            )
            for metric in metrics
        }

    def compared(rows: NDArray[np.int64], stream: str) -> list[Difference]:
        units = units_of(rows, scores.groups, resampling, stream=stream)
        return differences_of(units, measures, resampling, stream=stream)

    def show(done: int) -> None:
        if progress is not None:
            progress(f"comparing {len(categories):,} items of {task}, by category", done, len(names) + 1)

    # Categories pass one by one and leave only sums behind.
    groups: dict[str, dict[str, Cell]] = {}
    sums: dict[str, Difference] = {}
    counts = dict.fromkeys((measure.name for measure in measures), 0)
    for done, name in enumerate(names):
        show(done)
        rows = np.flatnonzero(categories == name)
        cells = {metric.name: _set_cell(metric.categories[name], n=len(rows)) for metric in set_metrics}
        for measure, difference in zip(measures, compared(rows, f"{task}/{name}"), strict=True):
            cells[measure.name] = _cell(difference, settings, n=len(rows), num_groups=len(names))
            if difference.num_scored:
                sums[measure.name] = added(sums.get(measure.name), difference)
                counts[measure.name] += 1
        groups[name] = in_order(cells)

    show(len(names))
    rows = np.arange(len(categories))
    overall = {metric.name: _set_cell(metric.overall, n=len(rows)) for metric in set_metrics}
    comparisons = len(measures) * settings.num_comparisons
    for measure, difference in zip(measures, compared(rows, task), strict=True):
        cell, detectable = _cell(difference, settings, n=len(rows)), None
        if difference.variance and cell.interval:
            error = math.sqrt(difference.variance)
            detectable = _rounded(least_difference(error, comparisons=comparisons, confidence=settings.confidence))
        overall[measure.name] = replace(cell, detectable=detectable)
    macro = {
        metric.name: _set_cell(metric.overall, n=len(names) * bool(np.isfinite(metric.overall).all()))
        for metric in set_metrics
    }
    for name, count in counts.items():
        cell = _cell(divided(sums[name], count) if count else None, settings, n=count)
        macro[name] = replace(cell, n_scored=count)

    return TaskComparison(
        task=task,
        n=len(scores.categories),
        groups=None if scores.groups is None else len(np.unique(scores.groups)),
        before_only=scores.before_only,
        after_only=scores.after_only,
        held_back=scores.held_back,
        unpaired_metrics=tuple(sorted(scores.metrics_of_one_side)),
        flips=flips,
        metrics=in_order(overall),
        macro=in_order(macro),
        categories=groups if settings.by_category else {},
    )


def with_verdicts(tasks: Sequence[TaskComparison], *, confidence: float) -> list[TaskComparison]:
    """Return the same task of several comparisons with corrected p-values and verdicts.

    Whatever a reader looks at together is one family: the metrics over all items, the means over
    categories, and all metrics in all categories. Cells without a p-value (unscored, too few items,
    no values per item) keep their verdict.

    1 minus ``confidence`` is the chance of any false finding in a family.
    """

    def decided(family: list[Mapping[str, Cell]]) -> list[dict[str, Cell]]:
        evidence = [
            Evidence(
                delta=cell.delta,
                interval=cell.interval,
                p=cell.p,
                higher_is_better=cell.higher_is_better,
                without_p=cell.verdict,
                few_changed=cell.verdict == TOO_FEW_CHANGED,
            )
            for cells in family
            for cell in cells.values()
        ]
        decisions = iter(decide(evidence, confidence=confidence))
        return [{name: with_decision(cell, *next(decisions)) for name, cell in cells.items()} for cells in family]

    def with_decision(cell: Cell, p_holm: float | None, verdict: str) -> Cell:
        return replace(cell, p_holm=None if p_holm is None else _rounded(p_holm), verdict=verdict)

    metrics = decided([task.metrics for task in tasks])
    macro = decided([task.macro for task in tasks])
    categories = decided([cells for task in tasks for cells in task.categories.values()])
    families = {
        kind: sum(cell.p is not None for cells in family for cell in cells.values())
        for kind, family in (("metrics", metrics), ("macro", macro), ("categories", categories))
    }
    in_order = iter(categories)
    return [
        replace(
            task,
            metrics=metrics[position],
            macro=macro[position],
            categories={name: next(in_order) for name in task.categories},
            families=families,
        )
        for position, task in enumerate(tasks)
    ]


_EMPTY = Cell(before=None, after=None, delta=None, n=0, n_scored=0, verdict=UNSCORED)


def _cell(difference: Difference | None, settings: Settings, *, n: int, num_groups: int = 1) -> Cell:
    if difference is None or not difference.num_scored:
        return replace(_EMPTY, n=n)
    interval = _interval(difference, confidence=settings.confidence)
    corrected = None
    if num_groups > 1:
        corrected = _interval(difference, confidence=1 - (1 - settings.confidence) / num_groups)
    if interval and corrected:
        # The two may come from different methods where few items changed; one at a higher
        # confidence is no narrower.
        corrected = Interval(low=min(interval.low, corrected.low), high=max(interval.high, corrected.high))
    return Cell(
        before=_rounded(difference.before),
        after=_rounded(difference.after),
        delta=_rounded(difference.delta),
        interval=interval,
        corrected=corrected,
        p=_rounded(difference.p_value()) if interval else None,
        effect_size=None if difference.effect_size is None else _rounded(difference.effect_size),
        n=n,
        design_effect=None if difference.design_effect is None else _rounded(difference.design_effect),
        n_scored=difference.num_scored,
        verdict=TOO_FEW_CHANGED if interval and difference.few_changed else TOO_FEW,
    )


def _set_cell(values: tuple[float, float], *, n: int) -> Cell:
    if not np.isfinite(values).all():
        return replace(_EMPTY, n=n)
    before, after, delta = map(_rounded, (*values, values[1] - values[0]))
    return Cell(before=before, after=after, delta=delta, n=n, n_scored=n, verdict=NO_INTERVAL)


def _interval(difference: Difference, *, confidence: float) -> Interval | None:
    interval = difference.interval(confidence=confidence)
    # Rounded before the verdict: an end of 1e-17 is 0, not evidence.
    return interval and Interval(low=_rounded(interval.low), high=_rounded(interval.high))


def _rounded(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
