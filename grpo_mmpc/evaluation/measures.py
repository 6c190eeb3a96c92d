"""Metrics as sums over items, which can be resampled, and those that are no such sums."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.metric_tables import find_metric, range_of, table_position
from grpo_mmpc.evaluation.pairing import PairedScores
from grpo_mmpc.statistics.bootstrap import Aggregate
from grpo_mmpc.statistics.verdicts import Floats

if TYPE_CHECKING:
    from grpo_mmpc.metrics.metric import Metric


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
    is_mean: bool
    """The value is the mean of one score per item (S = 1), not a function of the whole corpus."""
    largest: float = math.inf
    """No difference of two values is larger than this."""

    def values(self, sums: Floats, scored: Floats) -> Floats:
        """Return values ``[...]`` of sums ``[..., S]`` and counts ``[...]``; NaN = unscored."""
        known = np.where(scored > 0, scored, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = self.aggregate(sums, known)
        return np.where(np.isnan(known), np.nan, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMetric:
    """A metric of a set of items (FID): one value per category and side, nothing to resample."""

    name: str
    higher_is_better: bool
    overall: tuple[float, float]
    """Before and after, NaN = unscored: the unweighted mean over categories."""
    categories: Mapping[str, tuple[float, float]]


def measures_of(scores: PairedScores) -> list[Measure]:
    """Return every metric of the task that both sides hold, in the order of the metric table.

    Metrics whose scores depend on the answers to other items (KID) are unscored when items were
    left out, as those of whole sets are: the mean of the scores that remain is not the metric of
    the items that remain.

    Raises:
        EvaluationError: An evaluation holds statistics that this version cannot aggregate, or not
            as many as the other one.
    """
    measures = []
    for name, before in scores.before.scores.items():
        metric = find_metric(name, mode=scores.mode)
        if name not in scores.after.scores or (metric and metric.of_set):
            continue
        after = scores.after.scores[name]
        if metric is not None and metric.depends_on_other_answers and not scores.is_whole:
            before = after = np.full(len(before), math.nan)
        measures.append(_measure(name, metric, before[:, None], after[:, None], mode=scores.mode, is_mean=True))
    for name, before in scores.before.statistics.items():
        if name not in scores.after.statistics:
            continue
        after, metric = scores.after.statistics[name], find_metric(name, mode=scores.mode)
        if before.shape != after.shape:
            raise EvaluationError(
                f"{name}: {before.shape[1]} statistics per item before, {after.shape[1]} after; "
                "evaluate both with the same version"
            )
        if metric is None or metric.aggregate is None:
            raise EvaluationError(
                f"the evaluation holds statistics of {name!r}, but this version has no corpus-level metric of that "
                "name; compare with the version that evaluated"
            )
        measures.append(_measure(name, metric, before, after, mode=scores.mode, is_mean=False))
    return sorted(measures, key=lambda measure: table_position(measure.name, mode=scores.mode))


def set_metrics_of(scores: PairedScores) -> list[SetMetric]:
    """Return the metrics of sets that both summaries hold, in the order of the metric table.

    They are unscored when items were left out: the values then belong to different sets.
    """
    before, after = scores.before.summary, scores.after.summary

    def values(*path: str) -> tuple[float, float]:
        return (_mean_in(before, path), _mean_in(after, path)) if scores.is_whole else (math.nan, math.nan)

    metrics = []
    for name in _section(before, "metrics"):
        metric = find_metric(name, mode=scores.mode)
        if name in _section(after, "metrics") and metric is not None and metric.of_set:
            metrics.append(
                SetMetric(
                    name=name,
                    higher_is_better=metric.higher_is_better,
                    overall=values("metrics", name),
                    categories={name_: values("categories", name_, name) for name_ in set(scores.categories)},
                )
            )
    return sorted(metrics, key=lambda metric: table_position(metric.name, mode=scores.mode))


def aggregate_of(metric: "Metric | None") -> Aggregate:
    """Return the function from sums and counts to values: a mean, or the corpus-level metric."""
    if metric is None or metric.aggregate is None:
        return lambda sums, count: sums[..., 0] / count
    aggregate = metric.aggregate
    return lambda sums, _: np.asarray(aggregate(sums), dtype=np.float64)


def _measure(name: str, metric: "Metric | None", before: Floats, after: Floats, *, mode: str, is_mean: bool) -> Measure:
    scored: NDArray[np.bool_] = np.logical_and(np.isfinite(before).all(axis=1), np.isfinite(after).all(axis=1))
    least, greatest = range_of(name, mode=mode)
    return Measure(
        name=name,
        higher_is_better=metric is None or metric.higher_is_better,
        before=before if scored.all() else np.where(scored[:, None], before, 0.0),
        after=after if scored.all() else np.where(scored[:, None], after, 0.0),
        scored=scored,
        aggregate=aggregate_of(None if is_mean else metric),
        is_mean=is_mean,
        largest=greatest - least,
    )


def _section(content: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in path:
        content = content.get(key) or {}
    return content


def _mean_in(summary: Mapping[str, Any], path: tuple[str, ...]) -> float:
    mean = _section(summary, *path).get("mean")
    return math.nan if mean is None else float(mean)
