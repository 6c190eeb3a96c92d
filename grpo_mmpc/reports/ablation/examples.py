"""Items where mixes differ, chosen by rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo_mmpc.ablation.comparison import AblationComparison, MetricRow
from grpo_mmpc.ablation.results import Results
from grpo_mmpc.ablation.spec import BASE
from grpo_mmpc.evaluation.evaluation_folder import SAMPLES_FILE
from grpo_mmpc.reports.common.gallery import Item, ItemGroup, most, read_items, without
from grpo_mmpc.reports.common.labels import metric_label

_PER_GROUP = 4
_COARSE = ("attribute_recall_", "parse_rate", "render_rate")
"""Metrics of yes and no: one with fine steps shows more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Groups of items, and the scores that chose them."""

    metric: str
    task: str
    seed: int
    groups: list[ItemGroup]


def examples(comparison: AblationComparison, results: Results, *, preferred: Sequence[str] | None) -> Examples | None:
    """Choose items where mixes differ most, and where the best mix gains and loses most.

    Gains are those over the reference. The metric is one that no mix was trained on, of
    ``preferred`` if possible; the seed is the first that all mixes have.
    """
    row = _lead_row(comparison, preferred)
    seeds = [seed for seed in comparison.seeds if all(seed in cell.by_seed for cell in row.cells)] if row else []
    if row is None or not seeds:
        return None
    samples = _samples(results, comparison.mixes, seed=seeds[0])
    left = read_items(samples, task=row.task, metric=row.metric)
    groups: list[ItemGroup] = []
    for title, value in _rules(row, comparison, answered=samples).items():
        chosen = most([item for item in left if value(item) > 0], value, count=_PER_GROUP)
        left = without(left, chosen)
        if chosen:
            groups.append(ItemGroup(title=title, rule="", items=chosen))
    return Examples(metric=metric_label(row.metric), task=row.task, seed=seeds[0], groups=groups) if groups else None


def _rules(
    row: MetricRow, comparison: AblationComparison, *, answered: Mapping[str, Path]
) -> dict[str, Callable[[Item], float]]:
    """Return by title what an item is chosen by: the more, the earlier."""

    def spread(item: Item) -> float:
        scores = [item.answers[mix].score for mix in comparison.mixes]
        return max(scores) - min(scores)

    rules: dict[str, Callable[[Item], float]] = {"Where mixes differ most": spread}
    sign = 1 if row.higher_is_better else -1
    reference = comparison.reference
    levels = {cell.mix: sign * cell.level.value for cell in row.cells if cell.mix != reference and cell.level}
    if levels and reference in answered:
        best = max(levels, key=levels.__getitem__)
        name = "the model before training" if reference == BASE else reference

        def gain(item: Item) -> float:
            return sign * (item.answers[best].score - item.answers[reference].score)

        rules[f"Where {best} gains most over {name}"] = gain
        rules[f"Where {best} loses most against {name}"] = lambda item: -gain(item)
    return rules


def _lead_row(comparison: AblationComparison, preferred: Sequence[str] | None) -> MetricRow | None:
    rows = [row for row in comparison.rows if row.n_scored and any(cell.level for cell in row.cells)]
    graded = [row for row in rows if not row.metric.startswith(_COARSE)]
    untrained = [row for row in graded if not row.trained_by]
    wanted = [row for row in graded if row.name in (preferred or ())]
    return next(iter([*untrained, *wanted, *graded, *rows]), None)


def _samples(results: Results, mixes: Sequence[str], *, seed: int) -> dict[str, Path]:
    """Return the samples of every mix at one seed, those of the untrained model first."""
    base = next(iter(results.base.values()), None)
    samples = {} if base is None else {BASE: base.folder / SAMPLES_FILE}
    for mix in mixes:
        run = next(run for run in results.of(mix) if run.seed == seed)
        samples[mix] = run.evaluation.folder / SAMPLES_FILE
    return samples
