"""One task of a comparison: its cells over all items, over categories and per category, and their verdicts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_mmpc.evaluation.measures import Measure, SetMetric, measures_of, set_metrics_of, table_position
from grpo_mmpc.evaluation.pairing import PairedScores
from grpo_mmpc.evaluation.resampling import Difference, Resampling, added, differences_of, divided, flips_of
from grpo_mmpc.evaluation.trained import trained_metrics
from grpo_mmpc.statistics.permutation import num_flips
from grpo_mmpc.statistics.verdicts import NO_INTERVAL, TOO_FEW, UNSCORED, Interval, holm, interval_key, verdict

_DIGITS = 10
"""Kept decimals: far below any meaningful difference, above the noise of summation order."""

Cell = dict[str, Any]
"""One metric on one group of items, as ``comparison.json`` holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of a whole comparison."""

    resamples: int
    confidence: float
    seed: int
    num_comparisons: int
    """How many evaluations are compared with the same one and shown together."""
    by_category: bool
    """Whether categories are shown, and belong to what p-values are corrected for."""

    @property
    def key(self) -> str:
        """Key of an interval in a cell."""
        return interval_key(self.confidence)


def compare_task(task: str, scores: PairedScores, rewards: Collection[str], settings: Settings) -> dict[str, Any]:
    """One task without verdicts, which take all comparisons together: ``give_verdicts`` adds them.

    Args:
        task: Its name.
        scores: Paired items.
        rewards: Names of the rewards that were trained on in this task.
        settings: Of the comparison.

    Returns:
        The task's object in ``comparison.json``.
    """
    measures, set_metrics = measures_of(scores, task=task), set_metrics_of(scores, task=task)
    categories = np.array(scores.categories, dtype=object)
    names = sorted(set(scores.categories))
    family = len(measures) * (len(names) if settings.by_category else 1) * settings.num_comparisons
    flips = num_flips(at_least=settings.resamples, family=family, confidence=settings.confidence)
    resampling = Resampling(resamples=settings.resamples, flips=flips, seed=settings.seed)

    # Categories pass one by one and leave only sums behind.
    groups: dict[str, dict[str, Cell]] = {}
    sums: dict[str, Difference] = {}
    counts = dict.fromkeys((measure.name for measure in measures), 0)
    all_flips = np.zeros((flips, sum(measure.before.shape[1] for measure in measures)))
    for name in names:
        rows = np.flatnonzero(categories == name)
        drawn = flips_of(rows, measures, resampling, stream=f"{task}/{name}")
        all_flips += drawn
        differences = differences_of(rows, measures, resampling, stream=f"{task}/{name}", flips=drawn)
        groups[name] = {}
        for measure, difference in zip(measures, differences, strict=True):
            cell = _cell(difference, settings, num_groups=len(names))
            groups[name][measure.name] = cell | {"n": len(rows), "n_scored": difference.num_scored}
            if difference.num_scored:
                sums[measure.name] = added(sums.get(measure.name), difference)
                counts[measure.name] += 1
        for metric in set_metrics:
            cell = _set_cell(metric.categories[name], settings)
            groups[name][metric.name] = cell | {"n": len(rows), "n_scored": len(rows) * (cell["delta"] is not None)}

    rows = np.arange(len(categories))
    overall = {
        measure.name: _cell(difference, settings) | {"n": len(rows), "n_scored": difference.num_scored}
        for measure, difference in zip(
            measures, differences_of(rows, measures, resampling, stream=task, flips=all_flips), strict=True
        )
    }
    macro = {
        name: _cell(divided(sums[name], count) if count else None, settings) | {"categories": count}
        for name, count in counts.items()
    }
    for metric in set_metrics:
        cell = _set_cell(metric.overall, settings)
        is_scored = cell["delta"] is not None
        overall[metric.name] = cell | {"n": len(rows), "n_scored": len(rows) * is_scored}
        macro[metric.name] = cell | {"categories": len(names) * is_scored}

    metrics: list[Measure | SetMetric] = [*measures, *set_metrics]
    metrics.sort(key=lambda metric: table_position(metric.name, mode=scores.mode))
    rewarded = trained_metrics(rewards, metrics=[metric.name for metric in metrics])

    def in_order(cells: Mapping[str, Cell]) -> dict[str, Cell]:
        return {
            metric.name: cells[metric.name]
            | {"was_reward": metric.name in rewarded, "higher_is_better": metric.higher_is_better}
            for metric in metrics
        }

    return {
        "n": len(scores.categories),
        "unpaired": {"before_only": scores.before_only, "after_only": scores.after_only},
        "held_back": scores.held_back,
        "unpaired_metrics": sorted(scores.metrics_of_one_side),
        "flips": flips,
        "metrics": in_order(overall),
        "macro": in_order(macro),
        "categories": {name: in_order(cells) for name, cells in groups.items()} if settings.by_category else {},
    }


def give_verdicts(tasks: Sequence[dict[str, Any]], *, confidence: float) -> None:
    """Correct p-values by Holm's method and fill in ``p_holm``, ``verdict`` and ``families``.

    What a reader looks at together is one family: the metrics over all items, the means over
    categories, and all metrics in all categories. Cells without a p-value (unscored, too few items,
    no values per item) do not count.

    Args:
        tasks: The same task in every comparison that is shown together; changed in place.
        confidence: 1 minus it is the chance of any false finding in a family.
    """
    kinds: dict[str, list[Cell]] = {
        "metrics": [cell for task in tasks for cell in task["metrics"].values()],
        "macro": [cell for task in tasks for cell in task["macro"].values()],
        "categories": [cell for task in tasks for cells in task["categories"].values() for cell in cells.values()],
    }
    families = {}
    for kind, cells in kinds.items():
        tested = [cell for cell in cells if cell["p"] is not None]
        families[kind] = len(tested)
        for cell, p_holm in zip(tested, holm([cell["p"] for cell in tested]), strict=True):
            cell["p_holm"] = _rounded(p_holm)
            cell["verdict"] = verdict(
                cell["delta"],
                cell[interval_key(confidence)],
                p_holm,
                higher_is_better=cell["higher_is_better"],
                confidence=confidence,
            )
    for task in tasks:
        task["families"] = families


def _cell(difference: Difference | None, settings: Settings, *, num_groups: int = 1) -> Cell:
    """A cell without its counts; ``num_groups`` above 1 adds the interval corrected for so many groups."""
    if difference is None or not difference.num_scored:
        cell = _empty_cell(settings, word=UNSCORED)
        return cell | ({f"{settings.key}_corrected": None} if num_groups > 1 else {})
    interval = _ends(difference, confidence=settings.confidence)
    cell = {
        "before": _rounded(difference.before),
        "after": _rounded(difference.after),
        "delta": _rounded(difference.delta),
        settings.key: interval and list(interval),
        "p": _rounded(difference.p_value()) if interval else None,
        "p_holm": None,
        "effect_size": None if difference.effect_size is None else _rounded(difference.effect_size),
        "verdict": TOO_FEW,
    }
    if num_groups > 1:
        corrected = _ends(difference, confidence=1 - (1 - settings.confidence) / num_groups)
        if interval and corrected:
            # The two may come from different methods where few items changed; one at a higher
            # confidence is no narrower.
            corrected = Interval(low=min(interval.low, corrected.low), high=max(interval.high, corrected.high))
        cell[f"{settings.key}_corrected"] = corrected and list(corrected)
    return cell


def _set_cell(values: tuple[float, float], settings: Settings) -> Cell:
    """A cell of a metric that has one value per set, without its counts: nothing to resample, so no verdict either."""
    if not np.isfinite(values).all():
        return _empty_cell(settings, word=UNSCORED)
    before, after = values
    sides = {"before": _rounded(before), "after": _rounded(after), "delta": _rounded(after - before)}
    return _empty_cell(settings, word=NO_INTERVAL) | sides


def _empty_cell(settings: Settings, *, word: str) -> Cell:
    keys = ("before", "after", "delta", settings.key, "p", "p_holm", "effect_size")
    return dict.fromkeys(keys) | {"verdict": word}


def _ends(difference: Difference, *, confidence: float) -> Interval | None:
    interval = difference.interval(confidence=confidence)
    # Rounded before the verdict: an end of 1e-17 is 0, not evidence.
    return interval and Interval(low=_rounded(interval.low), high=_rounded(interval.high))


def _rounded(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
