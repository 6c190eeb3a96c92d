"""The end of an ablation: ``ablation.html``, ``ablation.json``, ``ablation.csv``."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from grpo_mmpc.ablation.comparison import CONFIDENCE, RESAMPLES, AblationComparison, compare
from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.ablation.jobs import Job
from grpo_mmpc.ablation.pareto import pareto
from grpo_mmpc.ablation.results import Cost, collect
from grpo_mmpc.ablation.spec import AblationSpec, combinations
from grpo_mmpc.reports.ablation.findings import cautions, findings
from grpo_mmpc.reports.ablation.page import Content
from grpo_mmpc.utils.files import write_json, write_text
from grpo_mmpc.utils.manifest import command_line, now

COLUMNS = (
    *("task", "metric", "mix", "mean", "low", "high", "difference", "difference_low", "difference_high"),
    *(
        "se_items",
        "se_seeds",
        "degrees",
        "p",
        "p_holm",
        "verdict",
        "was_reward",
        "trained_by_any",
        "seeds",
        "n",
        "n_scored",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was written."""

    sentences: list[str]
    paths: list[Path]
    """The page first."""
    missing: set[str]
    """Jobs without a result."""


def write_report(spec: AblationSpec, runs: Sequence[PlannedRun], jobs: Sequence[Job], *, folder: Path) -> Report:
    """Compare what has finished and write it down.

    Args:
        spec: The ablation.
        runs: Its grid.
        jobs: Of the grid.
        folder: Where to write.

    Raises:
        EvaluationError: Runs cannot be compared with each other.
    """
    from grpo_mmpc.reports.ablation.page import render  # heavy: imported on use

    results = collect(runs, jobs)
    comparison = compare(results, mixes=list(combinations(spec)), reference=spec.reference, metrics=spec.metrics)
    front = pareto(comparison, spec.pareto)
    content = Content(
        spec=spec,
        runs=runs,
        results=results,
        comparison=comparison,
        front=front,
        costs={mix: _mean_cost([run.cost for run in results.of(mix)]) for mix in comparison.mixes},
        sentences=findings(comparison, front),
        cautions=cautions(comparison, results),
    )
    page, data, table = (folder / f"ablation.{kind}" for kind in ("html", "json", "csv"))
    write_text(page, render(content))
    write_json(data, as_json(content))
    _write_csv(table, comparison)
    return Report(sentences=content.sentences, paths=[page, data, table], missing={job.name for job in results.missing})


def as_json(content: Content) -> dict[str, Any]:
    """The object of ``ablation.json``."""
    comparison = content.comparison
    return {
        "name": content.spec.name,
        "written": now(),
        "command": command_line(),
        "reference": comparison.reference,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "seeds": comparison.seeds,
        "family": comparison.family,
        "findings": content.sentences,
        "cautions": content.cautions,
        "metrics": [asdict(row) for row in comparison.rows],
        "pareto": None
        if content.front is None
        else {"x": content.front.x.name, "y": content.front.y.name, "front": content.front.front},
        "costs": {mix: asdict(cost) for mix, cost in content.costs.items()},
        "data_order": {
            str(seed): "not checked" if where is None else where or "the same"
            for seed, where in content.results.data_order.items()
        },
        "missing": [asdict(job) for job in content.results.missing],
    }


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    def over(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return mean(known) if known else None

    return Cost(
        wall_s=over([cost.wall_s for cost in costs]),
        training_s=over([cost.training_s for cost in costs]),
        tokens_per_s=over([cost.tokens_per_s for cost in costs]),
        reward_s=over([cost.reward_s for cost in costs]),
    )


def _write_csv(path: Path, comparison: AblationComparison) -> None:
    """One row per mix and metric; empty where there is no value."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in comparison.rows:
            for cell in row.cells:
                level, found = cell.level, cell.difference
                writer.writerow(
                    [
                        *(row.task, row.metric, cell.mix),
                        *(level.value if level else None, *((level and level.interval) or (None, None))),
                        *(found.value if found else None, *((found and found.interval) or (None, None))),
                        *((found.se_items, found.se_seeds, found.degrees, found.p) if found else (None,) * 4),
                        *(cell.p_holm, cell.verdict, str(cell.was_reward).lower(), str(bool(row.trained_by)).lower()),
                        *(json.dumps(sorted(cell.by_seed)), row.n, row.n_scored),
                    ]
                )
