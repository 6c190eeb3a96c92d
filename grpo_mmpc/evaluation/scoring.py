"""Scores of items by every metric, and their means over items and categories."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from grpo_mmpc.evaluation.evaluation_folder import SCORE_PREFIX, STATISTICS_PREFIX
from grpo_mmpc.metrics.metric import Metric, MetricInputs

Cell = dict[str, float | int]
"""``mean`` (NaN = nothing scored), ``n`` items, ``n_scored`` of them; ``mean_rendered`` where items
have images."""


def score_columns(
    metrics: Mapping[str, Metric], inputs: MetricInputs, *, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, list[Any]]:
    """Score items: a column ``score/NAME`` per metric, ``stat/NAME`` for corpus-level ones.

    ``progress`` is called before each metric with its name, its position and their number.
    """
    columns: dict[str, list[Any]] = {}
    for done, (name, metric) in enumerate(metrics.items()):
        if progress is not None:
            progress(name, done, len(metrics))
        columns[f"{SCORE_PREFIX}{name}"] = [float(score) for score in metric.score(inputs)]
        if metric.statistics is not None:
            columns[f"{STATISTICS_PREFIX}{name}"] = metric.statistics(inputs).astype(float).tolist()
    return columns


def summarise(
    metrics: Mapping[str, Metric], table: Mapping[str, Sequence[Any]], inputs: MetricInputs | None = None
) -> dict[str, Any]:
    """Return every metric over items (``metrics``), in ``categories``, and their mean, ``macro``.

    Args:
        metrics: Metrics by name.
        table: Columns ``category``, ``score/NAME`` and, for corpus-level metrics, ``stat/NAME``;
            with a column ``rendered_image`` that holds an image, cells also get ``mean_rendered``,
            the mean over items with an image.
        inputs: What was scored; needed for metrics of a set only (``Metric.of_set``), whose value
            over all items is the mean over categories, since images of different departments are
            not one distribution.
    """
    by_category: dict[str, list[int]] = defaultdict(list)
    for i, category in enumerate(table["category"]):
        by_category[category].append(i)
    names = sorted(by_category)
    categories = {
        category: {name: _cell(name, metric, table, by_category[category], inputs) for name, metric in metrics.items()}
        for category in names
    }
    macro = {name: _mean_of([categories[category][name]["mean"] for category in names]) for name in metrics}
    everything = range(len(table["category"]))
    total = {}
    for name, metric in metrics.items():
        if metric.of_set is None:
            total[name] = _cell(name, metric, table, everything, inputs)
        else:
            counts = [categories[category][name] for category in names]
            total[name] = {"mean": macro[name]} | {
                key: int(sum(cell[key] for cell in counts)) for key in ("n", "n_scored")
            }
    return {"metrics": total, "macro": macro, "categories": categories}


def _cell(
    name: str,
    metric: Metric,
    table: Mapping[str, Sequence[Any]],
    positions: Sequence[int],
    inputs: MetricInputs | None,
) -> Cell:
    if metric.of_set is not None:
        value = math.nan if inputs is None else metric.of_set(_subset(inputs, positions))
        return {"mean": value, "n": len(positions), "n_scored": 0 if math.isnan(value) else len(positions)}
    scores = np.array([table[f"{SCORE_PREFIX}{name}"][i] for i in positions], dtype=float)  # [N]
    scored = np.isfinite(scores)
    if metric.statistics is not None and metric.aggregate is not None and scored.any():
        statistics = np.array([table[f"{STATISTICS_PREFIX}{name}"][i] for i in positions])  # [N, S]
        mean = float(metric.aggregate(statistics[scored].sum(axis=0)))
    else:
        mean = _mean_of(scores[scored].tolist())
    cell: Cell = {"mean": mean, "n": len(positions), "n_scored": int(scored.sum())}
    images = table.get("rendered_image")
    if images is not None and any(image is not None for image in images):
        with_image = np.array([images[i] is not None for i in positions], dtype=bool)
        cell["mean_rendered"] = _mean_of(scores[scored & with_image].tolist())
    return cell


def _subset(inputs: MetricInputs, positions: Sequence[int]) -> MetricInputs:
    """Return the inputs of some items; a field that is empty for all stays empty."""
    per_item = ("predictions", "references", "attributes", "real_images", "categories", "rendered_images")
    taken: dict[str, Any] = {
        name: [values[i] for i in positions] for name in per_item if (values := getattr(inputs, name))
    }
    return dataclasses.replace(inputs, **taken)


def _mean_of(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
