"""Metrics as sums over items, the form in which they can be resampled."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.pairing import Floats, PairedScores

Aggregate = Callable[[Floats, Floats], Floats]
"""(sums ``[..., S]``, number of scored items ``[...]``) -> values ``[...]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric as sums over items: ``value = aggregate(sum of columns over scored items)``."""

    name: str
    higher_is_better: bool
    before: Floats
    """``[N, S]``, rows of unscored pairs are 0."""
    after: Floats
    scored: NDArray[np.bool_]
    """``[N]``."""
    aggregate: Aggregate


def _mean(sums: Floats, scored: Floats) -> Floats:
    mean: Floats = sums[..., 0] / scored
    return mean


def measures_of(scores: PairedScores, *, task: str) -> list[Measure]:
    """Every metric of the task that both sides hold, in the order of the metric table."""
    measures = []
    for name, before in scores.before.scores.items():
        if name in scores.after.scores:
            after = scores.after.scores[name]
            measures.append(_measure(name, before=before[:, None], after=after[:, None], aggregate=_mean))
    for name, before in scores.before.statistics.items():
        if name in scores.after.statistics:
            after = scores.after.statistics[name]
            if before.shape != after.shape:
                raise EvaluationError(
                    f"{name}: {before.shape[1]} statistics per item before, {after.shape[1]} after; "
                    "evaluate both with the same version"
                )
            measures.append(_measure(name, before=before, after=after, aggregate=_corpus_aggregate(name)))
    # All tasks share one table of samples, so a task's rows have (empty) columns for metrics of the other tasks.
    applicable = [measure for measure in measures if _applies(measure.name, task=task)]
    return sorted(applicable, key=lambda measure: _table_position(measure.name))


def _measure(name: str, *, before: Floats, after: Floats, aggregate: Aggregate) -> Measure:
    scored: NDArray[np.bool_] = np.logical_and(np.isfinite(before).all(axis=1), np.isfinite(after).all(axis=1))
    return Measure(
        name=name,
        higher_is_better=_higher_is_better(name),
        before=np.where(scored[:, None], before, 0.0),
        after=np.where(scored[:, None], after, 0.0),
        scored=scored,
        aggregate=aggregate,
    )


def _higher_is_better(name: str) -> bool:
    from grpo_mmpc.metrics.table import METRICS  # heavy: imported on use

    return METRICS[name].higher_is_better if name in METRICS else True


def _applies(name: str, *, task: str) -> bool:
    from grpo_mmpc.metrics.table import METRICS  # heavy: imported on use

    if name.startswith("attribute_recall_"):
        name = "attribute_recall"
    return name not in METRICS or task in METRICS[name].tasks


def _table_position(name: str) -> int:
    """Position in the metric table; metrics it does not list (per attribute kind) keep their order after the others."""
    from grpo_mmpc.metrics.table import METRICS  # heavy: imported on use

    return list(METRICS).index(name) if name in METRICS else len(METRICS)


def _corpus_aggregate(name: str) -> Aggregate:
    from grpo_mmpc.metrics.table import METRICS  # heavy: imported on use

    metric = METRICS.get(name)
    if metric is None or metric.aggregate is None:
        raise EvaluationError(
            f"the evaluation holds statistics of {name!r}, but this version has no corpus-level metric of that name; "
            "compare with the version that evaluated"
        )
    aggregate = metric.aggregate
    return lambda sums, _: np.asarray(aggregate(sums), dtype=np.float64)


def measure_values(measure: Measure, sums: Floats) -> tuple[Floats, Floats]:
    """Before and after from column sums ``[..., 2 S + 1]``; NaN where nothing was scored."""
    width = measure.before.shape[1]
    scored = np.where(sums[..., -1] > 0, sums[..., -1], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        before = measure.aggregate(sums[..., :width], scored)
        after = measure.aggregate(sums[..., width : 2 * width], scored)
    return np.where(np.isnan(scored), np.nan, before), np.where(np.isnan(scored), np.nan, after)
