"""Scores of items by every metric, and their means over items and categories."""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.evaluation.evaluation_folder import FURTHER, SCORE_PREFIX, STATISTICS_PREFIX
from grpo_mmpc.evaluation.predictions import Prediction, Reference
from grpo_mmpc.evaluation.scorers import Scorers
from grpo_mmpc.metrics.metric import PER_ITEM, Metric, MetricInputs
from grpo_mmpc.types import TargetKind


class ScoredItems(NamedTuple):
    """The scores of the items of one task."""

    samples: dict[str, list[Any]]
    """Columns of ``samples.parquet``: ``score/NAME`` per metric, ``stat/NAME`` for corpus-level
    ones."""
    summary: dict[str, Any]
    """Every metric over items (``metrics``), in ``categories``, and their mean, ``macro``."""
    inputs: MetricInputs


def score_items(
    metrics: Mapping[str, Metric],
    predictions: Sequence[Prediction],
    references: Sequence[Reference],
    *,
    task: str,
    target: TargetKind,
    mode: str,
    scorers: Scorers,
    has_images: bool,
    progress: Callable[[str, int, int], None] | None = None,
) -> ScoredItems:
    """Score one prediction per reference.

    Without ``has_images`` nothing is known of rendered images, which is not the same as renders
    that failed. ``progress`` is called before each metric with its name, its position and their
    number.
    """
    images = [None if p.image is None else str(p.image) for p in predictions]
    # The official script reads "NaN" in a title file as a missing title, and then gives up the
    # category.
    is_lost = [mode == "paper" and p.is_nan for p in predictions]
    inputs = MetricInputs(
        task=task,
        target=target,
        # Prompts that nobody knows are not malformed.
        predictions=[p.prediction if p.prompt_known or p.image is None else "" for p in predictions],
        references=[None if lost else r.text for lost, r in zip(is_lost, references, strict=True)],
        more_references=[r.more for r in references],
        attributes=[r.attributes for r in references],
        real_images=[r.image for r in references],
        categories=[r.category for r in references],
        rendered_images=images if has_images else (),
        read_image=open_image,
        **scorers.encoders(),
    )
    samples: dict[str, list[Any]] = {
        "item_id": [r.item_id for r in references],
        "category": [r.category for r in references],
        "task": [task] * len(references),
        "group": [r.group for r in references],
        "reference": [r.text for r in references],
        "attributes": [json.dumps(dict(r.attributes), ensure_ascii=False, sort_keys=True) for r in references],
        "image_path": [r.image for r in references],
        "completion": [p.completion for p in predictions],
        "prediction": [p.prediction for p in predictions],
        "format": [p.format for p in predictions],
        "rendered_image": list(images),
    }
    if any(r.more for r in references):
        samples[FURTHER] = [list(r.more) for r in references]
    for done, (name, metric) in enumerate(metrics.items()):
        if progress is not None:
            progress(name, done, len(metrics))
        scores = [float(score) for score in metric.score(inputs)]
        if name == "parse_rate":  # of a prompt that nobody knows, nothing can be said
            scores = [s if p.prompt_known else math.nan for s, p in zip(scores, predictions, strict=True)]
        samples[f"{SCORE_PREFIX}{name}"] = scores
        if metric.statistics is not None:
            samples[f"{STATISTICS_PREFIX}{name}"] = metric.statistics(inputs).astype(float).tolist()
    return ScoredItems(samples, _summary(metrics, samples, inputs), inputs)


def _summary(
    metrics: Mapping[str, Metric], samples: Mapping[str, Sequence[Any]], inputs: MetricInputs
) -> dict[str, Any]:
    by_category: dict[str, list[int]] = defaultdict(list)
    for i, category in enumerate(samples["category"]):
        by_category[category].append(i)
    names = sorted(by_category)
    categories = {
        category: {
            name: _cell(name, metric, samples, by_category[category], inputs) for name, metric in metrics.items()
        }
        for category in names
    }
    macro = {name: _mean_of([categories[category][name]["mean"] for category in names]) for name in metrics}
    everything = range(len(samples["category"]))
    total = {}
    for name, metric in metrics.items():
        if metric.of_set is None:
            total[name] = _cell(name, metric, samples, everything, inputs)
        else:  # images of different departments are not one distribution
            counts = [categories[category][name] for category in names]
            total[name] = {"mean": macro[name]} | {
                key: int(sum(cell[key] for cell in counts)) for key in ("n", "n_scored")
            }
    return {"metrics": total, "macro": macro, "categories": categories}


def _cell(
    name: str, metric: Metric, samples: Mapping[str, Sequence[Any]], positions: Sequence[int], inputs: MetricInputs
) -> dict[str, float | int]:
    """Return ``mean`` (NaN = nothing scored), ``n``, ``n_scored``, ``mean_rendered`` of images."""
    if metric.of_set is not None:
        value = metric.of_set(_subset(inputs, positions))
        return {"mean": value, "n": len(positions), "n_scored": 0 if math.isnan(value) else len(positions)}
    scores = np.array([samples[f"{SCORE_PREFIX}{name}"][i] for i in positions], dtype=float)  # [N]
    scored = np.isfinite(scores)
    if metric.statistics is not None and metric.aggregate is not None and scored.any():
        statistics = np.array([samples[f"{STATISTICS_PREFIX}{name}"][i] for i in positions])  # [N, S]
        mean = float(metric.aggregate(statistics[scored].sum(axis=0)))
    else:
        mean = _mean_of(scores[scored].tolist())
    cell = {"mean": mean, "n": len(positions), "n_scored": int(scored.sum())}
    if any(samples["rendered_image"]):
        with_image = np.array([samples["rendered_image"][i] is not None for i in positions], dtype=bool)
        cell["mean_rendered"] = _mean_of(scores[scored & with_image].tolist())
    return cell


def _subset(inputs: MetricInputs, positions: Sequence[int]) -> MetricInputs:
    taken: dict[str, Any] = {
        name: [values[i] for i in positions] for name in PER_ITEM if (values := getattr(inputs, name))
    }
    return dataclasses.replace(inputs, **taken)


def _mean_of(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
