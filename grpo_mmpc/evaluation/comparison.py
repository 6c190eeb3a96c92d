"""Before against after, paired by item: two evaluations in, the content of ``comparison.json`` out."""

import json
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.checkpoints import latest_checkpoint
from grpo_mmpc.evaluation.measures import Measure, measure_values, measures_of
from grpo_mmpc.evaluation.pairing import Floats, PairedScores, find_evaluation, pair, read_evaluation
from grpo_mmpc.evaluation.statistics import (
    UNSCORED,
    Interval,
    bootstrap_sums,
    expanded_percentile_interval,
    verdict,
)
from grpo_mmpc.evaluation.trained import trained_metrics, trained_rewards

_DIGITS = 10
"""Kept decimals: far below any meaningful difference, above the noise of summation order."""


def compare_evaluations(
    before: Path,
    after: Path,
    *,
    reward_names: Mapping[str, Collection[str]],
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Paired differences with bootstrap confidence intervals, per task, category and metric.

    Items are paired by (task, item_id); those that only one evaluation holds are left out and counted (``unpaired``).
    A pair counts for a metric when both sides are scored (``n_scored`` of ``n``). Items are resampled with replacement,
    the same resamples for every metric and for both sides; see ``statistics.expanded_percentile_interval``.

    Args:
        before: Evaluation folder (``samples.parquet`` and ``summary.json``).
        after: The same of the other checkpoint.
        reward_names: By task, the rewards that were trained on, by their names in the mix; marks metrics as
            ``was_reward``.
        resamples: Bootstrap resamples.
        confidence: Of every interval; names its key (``ci95``).
        seed: Of the resampling. Same files, same seed: same result.

    Returns:
        The JSON object of ``comparison.json``. Beside ``metrics`` and ``categories`` each task holds ``macro``, the
        unweighted mean over categories. Cells of categories also hold ``ci95_corrected``, the interval at the
        confidence that holds for all categories of the task at once (Bonferroni). Intervals are null where there are
        too few items, values null where nothing was scored.

    Raises:
        EvaluationError: The two cannot be compared; says why.
    """
    first, second = read_evaluation(find_evaluation(before)), read_evaluation(find_evaluation(after))
    tasks = {}
    for task, scores in pair(before=first, after=second).items():
        measures = measures_of(scores, task=task)
        rewarded = trained_metrics(reward_names.get(task, ()), metrics=[measure.name for measure in measures])
        settings = _Settings(resamples=resamples, confidence=confidence, seed=seed, rewarded=rewarded)
        tasks[task] = _compare_task(task, scores, measures, settings)
    return {
        "before": first.checkpoint,
        "after": second.checkpoint,
        "before_folder": str(first.folder),
        "after_folder": str(second.folder),
        "suite": first.suite,
        "version": first.version,
        "resamples": resamples,
        "confidence": confidence,
        "seed": seed,
        "rewards": {task: sorted(names) for task, names in reward_names.items()},
        "tasks": tasks,
    }


def interval_key(confidence: float) -> str:
    """Key of an interval in a cell: ``ci95`` at 0.95."""
    return f"ci{100 * confidence:g}"


def write_comparison(
    run: Path,
    *,
    before: str = "base",
    after: str | None = None,
    suite: str = "cqbench",
    resamples: int = 10_000,
    seed: int = 0,
) -> Path:
    """Compare two evaluated checkpoints of a run and write ``comparison.json`` into its folder.

    Args:
        run: Run folder; its ``config.yaml`` says which rewards were trained on.
        before: Checkpoint under ``evaluations/``.
        after: The same; None takes the latest one (``latest_checkpoint``).
        suite: Suite that both were evaluated on.
        resamples: Bootstrap resamples.
        seed: Of the resampling.

    Raises:
        EvaluationError: There is nothing to compare with ``before``, or the two cannot be compared.
    """
    after = after or latest_checkpoint(run, suite=suite)
    if after is None or after == before:
        raise EvaluationError(
            f"{run}: nothing to compare with {before!r}; expected evaluations/final/{suite} or "
            f"evaluations/checkpoint-N/{suite}; `grpo-mmpc evaluate` adds one"
        )
    result = compare_evaluations(
        run / "evaluations" / before / suite,
        run / "evaluations" / after / suite,
        reward_names=trained_rewards(run),
        resamples=resamples,
        seed=seed,
    )
    path = run / "comparison.json"
    write_json(path, result)
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that a reader never sees half a file."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    resamples: int
    confidence: float
    seed: int
    rewarded: set[str]


def _compare_task(task: str, scores: PairedScores, measures: list[Measure], settings: _Settings) -> dict[str, Any]:
    everything = np.arange(len(scores.categories))
    overall = _compare_rows(everything, measures, settings, stream=task, family=1)
    categories = np.array(scores.categories, dtype=object)
    names = sorted(set(scores.categories))
    groups = {}
    for name in names:
        rows = np.flatnonzero(categories == name)
        groups[name] = _compare_rows(rows, measures, settings, stream=f"{task}/{name}", family=len(names))
    return {
        "n": len(scores.categories),
        "unpaired": {"before_only": scores.before_only, "after_only": scores.after_only},
        "unpaired_metrics": sorted(scores.metrics_of_one_side),
        "metrics": {
            measure.name: cell | {"higher_is_better": measure.higher_is_better}
            for measure, (cell, _) in zip(measures, overall, strict=True)
        },
        "macro": {
            measure.name: _macro(measure, [group[position] for group in groups.values()], settings)
            for position, measure in enumerate(measures)
        },
        "categories": {
            name: {measure.name: cell for measure, (cell, _) in zip(measures, group, strict=True)}
            for name, group in groups.items()
        },
    }


_Compared = tuple[dict[str, Any], Floats]
"""A cell of the comparison and the bootstrap replicates ``[R]`` of its difference."""


def _compare_rows(
    rows: NDArray[np.int64], measures: list[Measure], settings: _Settings, *, stream: str, family: int
) -> list[_Compared]:
    """All metrics on one group of items, from one set of resamples.

    Args:
        rows: Items of the group.
        measures: The metrics.
        settings: Of the comparison.
        stream: Names the group; its resamples do not depend on which other groups exist.
        family: Number of groups that are looked at side by side; above 1 adds the corrected interval.
    """
    columns = [
        np.concatenate([measure.before[rows], measure.after[rows], measure.scored[rows, None]], axis=1)
        for measure in measures
    ]
    ends = np.cumsum([block.shape[1] for block in columns])[:-1]
    table = np.concatenate(columns, axis=1) if columns else np.empty((len(rows), 0))
    totals = np.split(table.sum(axis=0), ends)
    seed = [settings.seed, zlib.crc32(stream.encode())]
    draws = np.split(bootstrap_sums(table, resamples=settings.resamples, seed=seed), ends, axis=1)
    return [
        _cell(measure, total, drawn, settings, num_items=len(rows), family=family)
        for measure, total, drawn in zip(measures, totals, draws, strict=True)
    ]


def _cell(
    measure: Measure, total: Floats, drawn: Floats, settings: _Settings, *, num_items: int, family: int
) -> _Compared:
    before, after = measure_values(measure, total)
    before_draws, after_draws = measure_values(measure, drawn)
    deltas = after_draws - before_draws
    num_scored = int(total[-1])
    interval = _interval(deltas, confidence=settings.confidence, num_items=num_scored)
    delta = _rounded(float(after - before)) if num_scored else None
    cell = {
        "before": _rounded(float(before)) if num_scored else None,
        "after": _rounded(float(after)) if num_scored else None,
        "delta": delta,
        interval_key(settings.confidence): interval and list(interval),
        "n": num_items,
        "n_scored": num_scored,
        "was_reward": measure.name in settings.rewarded,
        "verdict": verdict(delta, interval, higher_is_better=measure.higher_is_better),
    }
    if family > 1:
        together = 1 - (1 - settings.confidence) / family
        corrected = _interval(deltas, confidence=together, num_items=num_scored)
        cell[f"{interval_key(settings.confidence)}_corrected"] = corrected and list(corrected)
    return cell, deltas


def _macro(measure: Measure, groups: list[_Compared], settings: _Settings) -> dict[str, Any]:
    """Unweighted mean over the categories that hold a score."""
    scored = [(cell, draws) for cell, draws in groups if cell["n_scored"]]
    key = interval_key(settings.confidence)
    if not scored:
        return {"before": None, "after": None, "delta": None, key: None, "categories": 0, "verdict": UNSCORED}
    before, after, delta = (
        _rounded(float(np.mean([cell[side] for cell, _ in scored]))) for side in ("before", "after", "delta")
    )
    # The smallest category decides how far the interval must be widened, and whether there can be one.
    interval = _interval(
        np.mean([draws for _, draws in scored], axis=0),
        confidence=settings.confidence,
        num_items=min(cell["n_scored"] for cell, _ in scored),
    )
    return {
        "before": before,
        "after": after,
        "delta": delta,
        key: interval and list(interval),
        "categories": len(scored),
        "verdict": verdict(delta, interval, higher_is_better=measure.higher_is_better),
    }


def _interval(draws: Floats, *, confidence: float, num_items: int) -> Interval | None:
    interval = expanded_percentile_interval(draws, confidence=confidence, num_items=num_items)
    # Rounded before the verdict: an end of 1e-17 is 0, not evidence.
    return interval and Interval(low=_rounded(interval.low), high=_rounded(interval.high))


def _rounded(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
