"""The results: finished cells compared within groups, ``results.json`` and ``results.csv``."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.evaluation.run_folder import checkpoint_order
from grpo_mmpc.recbench.cells import finished, read_cell
from grpo_mmpc.recbench.common_cells import CommonCells, common_cells
from grpo_mmpc.recbench.completions import COMPLETED
from grpo_mmpc.recbench.judgement import Comparison, Contrast, FillResult, judge, with_verdicts
from grpo_mmpc.recbench.plan import NO_MISSING, Group, Method
from grpo_mmpc.recbench.recommenders.table import recommender
from grpo_mmpc.recbench.records import Floats, Ints
from grpo_mmpc.recbench.score_table import MIN_USERS
from grpo_mmpc.statistics.crossed import Estimate
from grpo_mmpc.utils.files import write_json, write_text

METRICS = tuple(f"{name}@{k}" for name in ("recall", "ndcg", "precision", "map") for k in (5, 10, 20, 50))
SHOWN = ("recall@20", "ndcg@20")
"""Metrics that are compared, and corrected for together; of the others only levels are written."""

_REFERENCES = ("zeros", "drop_modality", "id_only", NO_MISSING)
"""The reference of comparisons: the first of these that has results, else the first method that
has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """The results of one recommender at one rate of one missing modality; see ``Group``."""

    recommender: str
    missing: str
    rate: float
    comparisons: dict[str, Comparison]
    """By metric of ``SHOWN``; empty where there is nothing to compare."""
    levels: dict[str, dict[str, float]]
    """By method and metric: mean over the seeds and categories that are compared; empty for a
    method that is left out."""
    left_out: dict[str, str]
    """Methods that are not compared, and what they lack."""
    dropped: dict[str, str]
    """Categories and seeds that are not compared, and why."""
    coverage: dict[str, dict[str, Any]]
    """By method and modality: masked, covered, reasons."""
    failures: dict[str, str]
    """By method: why cells of it have no result."""
    parameters: dict[str, list[dict[str, Any]]]
    """By method: grid points that were chosen, with how often."""
    devices: list[str]
    """Kinds of devices that cells ran on: a cell is found again whatever device it ran on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """The part of a cell that is kept: thousands of them are held at once."""

    scores: dict[str, Floats]
    """By metric of ``SHOWN``, ``[V]``."""
    means: dict[str, float]
    parameters: dict[str, Any]
    device: str
    """``cpu``, ``cuda``: which of several does not matter."""


def collect(folder: Path, groups: Sequence[Group], failures: Mapping[str, str], *, resamples: int) -> list[GroupResult]:
    """Compare the finished cells of all groups; ``failures`` are by key of a cell."""
    read: dict[str, _Read] = {}
    users: dict[str, Ints] = {}
    numbers: dict[str, int] = {}
    for group in groups:
        for cell in group.cells:
            if cell.key not in read and finished(folder, cell.key):
                # All cells of a category have its users, in the same order: their names are read
                # once.
                is_first = cell.category not in users
                record, scores = read_cell(folder, cell.key, columns=(*SHOWN, "user_id") if is_first else SHOWN)
                if is_first:
                    names = scores.pop("user_id")
                    users[cell.category] = np.array([numbers.setdefault(name, len(numbers)) for name in names])
                read[cell.key] = _Read(
                    scores=scores,
                    means=record["means"],
                    parameters=record["parameters"],
                    device=record["device"].partition(":")[0],
                )
    results = [_group(group, read, users, failures, resamples=resamples) for group in groups]
    # One family: everything that a reader sees together.
    places = [(i, metric) for i, result in enumerate(results) for metric in result.comparisons]
    decided = with_verdicts([results[i].comparisons[metric] for i, metric in places])
    for (i, metric), comparison in zip(places, decided, strict=True):
        results[i].comparisons[metric] = comparison
    return results


def _group(
    group: Group,
    read: Mapping[str, _Read],
    users: Mapping[str, Ints],
    failures: Mapping[str, str],
    *,
    resamples: int,
) -> GroupResult:
    runs = {metric: {method.name: _scores(method, read, metric) for method in group.methods} for metric in SHOWN}
    common = common_cells(runs[SHOWN[0]], min_users=MIN_USERS)
    comparisons = {}
    for metric in SHOWN:
        comparison = judge(
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
                if not all(recommender(cell.recommender).is_trained for cell in method.every_cell)
            },
        )
        if comparison is not None:
            comparisons[metric] = comparison
    return GroupResult(
        recommender=group.recommender,
        missing=group.missing,
        rate=group.rate,
        comparisons=comparisons,
        levels={method.name: _means(method, read, common) for method in group.methods},
        left_out=common.left_out,
        dropped=common.dropped,
        coverage={
            method.name: {modality: asdict(coverage) for modality, coverage in method.coverage.items()}
            for method in group.methods
        },
        failures=_failures(group.methods, failures),
        parameters={method.name: _parameters(method, read) for method in group.methods},
        devices=sorted({read[cell.key].device for cell in group.cells if cell.key in read}),
    )


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
    means = [read[method.cells[seed][category].key].means for seed in common.seeds for category in common.categories]
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
    parameters = (read[cell.key].parameters for cell in method.every_cell if cell.key in read)
    counted = Counter(json.dumps(one, sort_keys=True) for one in parameters)
    return [{**json.loads(text), "cells": count} for text, count in counted.most_common()]


def write_results(folder: Path, results: Sequence[GroupResult], *, about: Mapping[str, Any]) -> None:
    """Write ``results.json`` and ``results.csv``, a row per group, method and metric."""
    write_json(folder / "results.json", {**about, "groups": [_as_dict(result) for result in results]})
    write_text(folder / "results.csv", _csv(results))


def read_results(folder: Path) -> dict[str, Any]:
    """Read ``results.json`` of a folder.

    Raises:
        RecBenchError: It is not there, or is no such file.
    """
    path = folder / "results.json"
    try:
        content = json.loads(path.read_text("utf-8"))
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


def _as_dict(result: GroupResult) -> dict[str, Any]:
    described = {one.name: getattr(result, one.name) for one in fields(result) if one.name != "comparisons"}
    return described | {"metrics": {metric: _compared(one) for metric, one in result.comparisons.items()}}


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
        "ci95": _ends(result.level),
        "by_seed": {str(seed): value for seed, value in result.by_seed.items()},
        "by_category": {
            name: {"value": level.value, "ci95": _ends(level)} for name, level in result.by_category.items()
        },
        **_tested(result),
        "same_as": result.same_as,
        "recovery": None if result.recovery is None else result.recovery.value,
        "recovery_ci95": _ends(result.recovery),
    }


def _tested(one: Contrast) -> dict[str, Any]:
    return {
        "difference": None if one.difference is None else one.difference.value,
        "difference_ci95": _ends(one.difference),
        "p_holm": one.p_holm,
        "verdict": one.verdict,
    }


def _ends(estimate: Estimate | None) -> list[float] | None:
    return None if estimate is None or estimate.interval is None else list(estimate.interval)


_COLUMNS = (
    *("recommender", "missing", "rate", "method", "metric", "value", "low", "high", "difference", "difference_low"),
    *("difference_high", "p_holm", "verdict", "recovery", "recovery_low", "recovery_high", "masked", "covered"),
    *("first_completion", "to_first", "to_first_low", "to_first_high", "to_first_p_holm", "to_first_verdict"),
)


def _csv(results: Sequence[GroupResult]) -> str:
    """Return the table as CSV, with an empty cell where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in results:
        for method in result.levels:
            for metric in METRICS:
                row = _row(result, method, metric)
                writer.writerow({name: f"{one:.6g}" if isinstance(one, float) else one for name, one in row.items()})
    return text.getvalue()


def _row(result: GroupResult, method: str, metric: str) -> dict[str, Any]:
    coverage = result.coverage.get(method, {}).values()
    row = {
        "recommender": result.recommender,
        "missing": result.missing,
        "rate": f"{result.rate:g}",
        "method": method,
        "metric": metric,
        "value": result.levels[method].get(metric),
        "masked": sum(one["masked"] for one in coverage),
        "covered": sum(one["covered"] for one in coverage),
    }
    comparison = result.comparisons.get(metric)
    if comparison is None:
        return row
    if (of_fill := comparison.of(method)) is not None:
        row |= _bounds("", of_fill.level) | _bounds("difference_", of_fill.difference)
        row |= _bounds("recovery_", of_fill.recovery)
        row |= {name: _as_columns(of_fill)[name] for name in ("difference", "p_holm", "verdict", "recovery")}
    for one in comparison.against_first:
        if one.fill == method:
            tested = _tested(one)
            row |= {"first_completion": comparison.first_completion, "to_first": tested["difference"]}
            row |= {f"to_first_{name}": tested[name] for name in ("p_holm", "verdict")}
            row |= _bounds("to_first_", one.difference)
    return row


def _bounds(prefix: str, estimate: Estimate | None) -> dict[str, float]:
    return dict(zip((f"{prefix}low", f"{prefix}high"), _ends(estimate) or (), strict=False))
