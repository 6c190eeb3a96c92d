"""The whole benchmark: interactions, features, fills, cells, results."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.recbench.cells import VERSION, RecommenderCell, finished, save_split
from grpo_mmpc.recbench.completions import Completion
from grpo_mmpc.recbench.data import BenchmarkData, true_features
from grpo_mmpc.recbench.engines import Failures, Shown
from grpo_mmpc.recbench.filled_features import Filling
from grpo_mmpc.recbench.plan import plan
from grpo_mmpc.recbench.results import collect, write_results
from grpo_mmpc.recbench.settings import RecBenchSection
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.utils.console import Progress, Say
from grpo_mmpc.utils.manifest import now

RunCells = Callable[[Path, Sequence[RecommenderCell], Shown], Failures]
"""Runs cells of a work folder, see ``engines``."""

Complete = Callable[[BenchmarkData], Sequence[Completion]]
"""Makes completions of the items that lose something, see ``widest_masks``."""


def run_benchmark(
    settings: RecBenchSection,
    catalogue: Catalogue,
    data: BenchmarkData,
    *,
    complete: Complete,
    run_cells: RunCells,
    work: Path,
    out: Path,
    about: Mapping[str, Any],
    say: Say,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark; cells that are finished in the work folder are not run again.

    Several benchmarks may share a work folder. ``out`` receives ``results.json``, with ``about`` in
    it, and ``results.csv``. What ``complete`` makes, which may be nothing, is measured beside the
    fills.

    Raises:
        RecBenchError: There is nothing to run, or a true vector would reach a recommender.
        ScoringError: An encoder cannot be loaded.
    """
    started = time.monotonic()
    completions = complete(data) if "completed" in settings.fills else []
    truth = true_features(settings, data, say=say, progress=progress)
    filling = Filling(settings, data, truth, work=work)
    if completions and "both" in settings.missing:
        say("missing both: completions are left out, for nothing is left that an item could be completed from")
    splits = {category.name: save_split(work, category.split) for category in data.categories}

    def show(what: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(what, done, total) if progress is not None else None

    groups = plan(settings, data, filling, completions, splits=splits, show=show("filling features"))
    cells = {cell.key: cell for group in groups for cell in group.cells}
    waiting = [cell for key, cell in cells.items() if not finished(work, key, say=say)]
    if waiting:
        earlier = len(cells) - len(waiting)
        say(f"{plural(len(cells), 'recommender')} to train and test, {earlier} of them finished earlier")
    else:
        say(f"all {len(cells)} recommenders were trained and tested earlier: nothing to do but to compare them")
    training = show("training recommenders")
    failures = run_cells(work, waiting, lambda done: training(done, len(waiting))) if waiting else {}
    results = {
        **about,
        "suite": "recbench",
        "version": VERSION,
        "mode": settings.mode,
        "settings": settings.model_dump(mode="json"),
        "fingerprint": catalogue.fingerprint,
        "rows": catalogue.rows_read,
        "rows_set_aside": len(catalogue.quarantined),
        "categories": {
            category.name: {"interactions": asdict(category.counts), "split": asdict(category.statistics)}
            for category in data.categories
        },
        "users": len({user for category in data.categories for user in category.split.user_ids}),
        "excluded_categories": data.excluded,
        "cells": len(cells),
        "failures": len(failures),
        "finished": now(),
        "seconds": round(time.monotonic() - started, 1),
        "groups": collect(work, groups, failures, resamples=settings.resamples),
    }
    write_results(out, results)
    return results
