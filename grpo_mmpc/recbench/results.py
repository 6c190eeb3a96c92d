"""The results: finished cells compared within groups, ``results.json`` and ``results.csv``."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.evaluation.run_folder import checkpoint_order
from grpo_mmpc.recbench.cells import read_cell
from grpo_mmpc.recbench.common_cells import CommonCells, common_cells
from grpo_mmpc.recbench.completions import COMPLETED
from grpo_mmpc.recbench.judgement import Comparison, Contrast, FillResult, judge, with_verdicts
from grpo_mmpc.recbench.plan import NO_MISSING, Group, Method
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import Floats, Ints
from grpo_mmpc.recbench.score_table import MIN_USERS
from grpo_mmpc.reports.common.tables import write_csv
from grpo_mmpc.statistics.crossed import Estimate
from grpo_mmpc.utils.files import read_own, write_json

METRICS = tuple(f"{name}@{k}" for name in ("recall", "ndcg", "precision", "map") for k in (5, 10, 20, 50))
SHOWN = ("recall@20", "ndcg@20")
"""Metrics that are compared, and corrected for together; of the others only levels are written."""

_REFERENCES = ("zeros", "drop_modality", "id_only", NO_MISSING)
"""The reference of comparisons: the first of these that has results, else the first method that
has."""


class _Read(NamedTuple):
    """A finished cell."""

    scores: dict[str, Floats]
    """By metric of ``SHOWN``, ``[V]``."""
    record: dict[str, Any]


def collect(
    folder: Path, groups: Sequence[Group], failures: Mapping[str, str], *, resamples: int
) -> list[dict[str, Any]]:
    """Compare the finished cells of all groups, as ``results.json`` holds them.

    ``failures`` are by key of a cell.
    """
    read: dict[str, _Read] = {}
    users: dict[str, Ints] = {}
    numbers: dict[str, int] = {}
    missing: set[str] = set()
    for group in groups:
        for cell in group.cells:
            if cell.key in read or cell.key in missing:
                continue
            # All cells of a category have its users, in the same order: their names are read once.
            is_first = cell.category not in users
            try:
                record, scores = read_cell(folder, cell.key, columns=(*SHOWN, "user_id") if is_first else SHOWN)
            except RecBenchError:  # it failed, or was damaged a moment ago
                missing.add(cell.key)
                continue
            if is_first:
                names = scores.pop("user_id")
                users[cell.category] = np.array([numbers.setdefault(name, len(numbers)) for name in names])
            read[cell.key] = _Read(scores, record)
    compared = [_compare(group, read, users, resamples=resamples) for group in groups]
    # One family: everything that a reader sees together.
    decided = iter(with_verdicts([one for _, comparisons in compared for one in comparisons.values()]))
    return [
        _described(group, read, failures, common)
        | {"metrics": {metric: _compared(next(decided)) for metric in metrics}}
        for group, (common, metrics) in zip(groups, compared, strict=True)
    ]


def _compare(
    group: Group, read: Mapping[str, _Read], users: Mapping[str, Ints], *, resamples: int
) -> tuple[CommonCells, dict[str, Comparison]]:
    runs = {metric: {method.name: _scores(method, read, metric) for method in group.methods} for metric in SHOWN}
    common = common_cells(runs[SHOWN[0]], min_users=MIN_USERS)
    comparisons = {
        metric: judge(
            runs[metric],
            common=common,
            users=users,
            metric=metric,
            references=_REFERENCES,
            ceiling=NO_MISSING,
            resamples=resamples,
            cells={method.name: tuple(sorted(cell.key for cell in method.every_cell)) for method in group.methods},
            ways_to_fill={method.name for method in group.methods if method.coverage},
            completions={method.name for method in group.methods if method.name.startswith(COMPLETED)},
            untrained={
                method.name
                for method in group.methods
                if not all(RECOMMENDERS[cell.recommender].is_trained for cell in method.every_cell)
            },
        )
        for metric in (SHOWN if common.methods else ())
    }
    return common, comparisons


def _described(
    group: Group, read: Mapping[str, _Read], failures: Mapping[str, str], common: CommonCells
) -> dict[str, Any]:
    """Return everything of a group but its comparisons."""
    return {
        "recommender": group.recommender,
        "missing": group.missing,
        "rate": group.rate,
        # Means over the seeds and categories that are compared; none for a method that is left out.
        "levels": {method.name: _means(method, read, common) for method in group.methods},
        "left_out": common.left_out,
        "dropped": common.dropped,
        "coverage": {
            method.name: {modality: asdict(coverage) for modality, coverage in method.coverage.items()}
            for method in group.methods
        },
        "failures": _failures(group.methods, failures),
        "parameters": {method.name: _parameters(method, read) for method in group.methods},
        # Kinds of devices, for a cell is found again whatever device it ran on.
        "devices": sorted(
            {read[cell.key].record["device"].partition(":")[0] for cell in group.cells if cell.key in read}
        ),
    }


def _scores(method: Method, read: Mapping[str, _Read], metric: str) -> dict[int, dict[str, Floats]]:
    scores: dict[int, dict[str, Floats]] = {}
    for seed, by_category in method.cells.items():
        for category, cell in by_category.items():
            if cell.key in read:
                scores.setdefault(seed, {})[category] = read[cell.key].scores[metric]
    return scores


def _means(method: Method, read: Mapping[str, _Read], common: CommonCells) -> dict[str, float]:
    if method.name not in common.methods:
        return {}
    cells = (method.cells[seed][category] for seed in common.seeds for category in common.categories)
    means = [read[cell.key].record["means"] for cell in cells]
    return {metric: float(np.mean([one[metric] for one in means])) for metric in METRICS}


def _failures(methods: Sequence[Method], failures: Mapping[str, str]) -> dict[str, str]:
    failed = {}
    for method in methods:
        reasons = [
            f"{category}, seed {seed}: {failures[cell.key]}"
            for seed, by_category in method.cells.items()
            for category, cell in by_category.items()
            if cell.key in failures
        ]
        if reasons:
            failed[method.name] = (
                reasons[0] if len(reasons) == 1 else f"{reasons[0]} (and {len(reasons) - 1} more cells)"
            )
    return failed


def _parameters(method: Method, read: Mapping[str, _Read]) -> list[dict[str, Any]]:
    """Return the grid points that were chosen, with how often."""
    parameters = (read[cell.key].record["parameters"] for cell in method.every_cell if cell.key in read)
    counted = Counter(json.dumps(one, sort_keys=True) for one in parameters)
    return [{**json.loads(text), "cells": count} for text, count in counted.most_common()]


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json`` and ``results.csv``, a row per group, method and metric."""
    write_json(folder / "results.json", results)
    rows = (
        _row(group, method, metric) for group in results["groups"] for method in group["levels"] for metric in METRICS
    )
    write_csv(
        folder / "results.csv",
        _COLUMNS,
        ([f"{one:.6g}" if isinstance(one, float) else one for one in map(row.get, _COLUMNS)] for row in rows),
    )


def read_results(folder: Path) -> dict[str, Any]:
    """Read ``results.json`` of a folder.

    Raises:
        RecBenchError: It is not there, or is no such file.
    """
    path = folder / "results.json"
    try:
        content = json.loads(read_own(path))
    except (OSError, ValueError) as error:
        raise RecBenchError(f"{path}: cannot be read ({error}); run grpo-mmpc recbench first") from error
    if not isinstance(content, dict) or "groups" not in content:
        raise RecBenchError(f"{path} holds no results of the recommendation benchmark")
    return content


def results_of_run(run: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the results of a run's last benchmark, and say which files cannot be read.

    A policy is measured beside those that were measured before it, so that one file holds all of
    them.
    """
    results: dict[str, dict[str, Any]] = {}
    problems = []
    for path in sorted((run / "evaluations").glob("*/recbench/results.json")):
        try:
            results[path.parent.parent.name] = read_results(path.parent)
        except RecBenchError as error:
            problems.append(str(error))

    def order(name: str) -> tuple[int, tuple[int, int, str]]:
        policies = {
            method for group in results[name]["groups"] for method in group["coverage"] if method.startswith(COMPLETED)
        }
        return len(policies), checkpoint_order(name)

    return (results[max(results, key=order)] if results else None), problems


def _compared(comparison: Comparison) -> dict[str, Any]:
    return {
        "reference": comparison.reference,
        "ceiling": comparison.ceiling,
        "seeds": comparison.seeds,
        "categories": comparison.categories,
        "users": comparison.num_users,
        "methods": {result.fill: _as_columns(result) for result in comparison.fills},
        "first_completion": comparison.first_completion,
        "against_first_completion": {one.fill: _tested(one) for one in comparison.against_first},
    }


def _as_columns(result: FillResult) -> dict[str, Any]:
    return {
        "value": result.level.value,
        "ci95": _within(result.level, least=0.0),
        "by_seed": {str(seed): value for seed, value in result.by_seed.items()},
        "by_category": {
            name: {"value": level.value, "ci95": _within(level, least=0.0)}
            for name, level in result.by_category.items()
        },
        **_tested(result),
        "same_as": result.same_as,
        "recovery": None if result.recovery is None else result.recovery.value,
        "recovery_ci95": _ends(result.recovery),
    }


def _tested(one: Contrast) -> dict[str, Any]:
    return {
        "difference": None if one.difference is None else one.difference.value,
        "difference_ci95": _within(one.difference, least=-1.0),
        "p_holm": one.p_holm,
        "verdict": one.verdict,
    }


def _within(estimate: Estimate | None, *, least: float) -> list[float] | None:
    """Return the ends of an interval, no further than a level or a difference can be."""
    ends = _ends(estimate)
    return None if ends is None else [min(max(end, least), 1.0) for end in ends]


def _ends(estimate: Estimate | None) -> list[float] | None:
    return None if estimate is None or estimate.interval is None else list(estimate.interval)


_COLUMNS = (
    *("recommender", "missing", "rate", "method", "metric", "value", "low", "high", "difference", "difference_low"),
    *("difference_high", "p_holm", "verdict", "recovery", "recovery_low", "recovery_high", "masked", "covered"),
    *("first_completion", "to_first", "to_first_low", "to_first_high", "to_first_p_holm", "to_first_verdict"),
)


def _row(group: Mapping[str, Any], method: str, metric: str) -> dict[str, Any]:
    coverage = group["coverage"][method].values()
    row = {
        "recommender": group["recommender"],
        "missing": group["missing"],
        "rate": f"{group['rate']:g}",
        "method": method,
        "metric": metric,
        "value": group["levels"][method].get(metric),
        "masked": sum(one["masked"] for one in coverage),
        "covered": sum(one["covered"] for one in coverage),
    }
    compared = group["metrics"].get(metric, {"methods": {}, "against_first_completion": {}})
    if (entry := compared["methods"].get(method)) is not None:
        row |= {name: entry[name] for name in ("difference", "p_holm", "verdict", "recovery")}
        for name, ends in (("", "ci95"), ("difference_", "difference_ci95"), ("recovery_", "recovery_ci95")):
            row |= _bounds(name, entry[ends])
    if (entry := compared["against_first_completion"].get(method)) is not None:
        row |= {"first_completion": compared["first_completion"], "to_first": entry["difference"]}
        row |= {f"to_first_{name}": entry[name] for name in ("p_holm", "verdict")}
        row |= _bounds("to_first_", entry["difference_ci95"])
    return row


def _bounds(prefix: str, ends: Sequence[float] | None) -> dict[str, float]:
    return dict(zip((f"{prefix}low", f"{prefix}high"), ends or (), strict=False))
