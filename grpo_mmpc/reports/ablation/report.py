"""The end of an ablation: ``ablation.html``, ``ablation.json``, ``ablation.csv``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

from grpo_mmpc.ablation.comparison import RESAMPLES, AblationComparison, compare
from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.ablation.jobs import Job
from grpo_mmpc.ablation.pareto import pareto
from grpo_mmpc.ablation.results import Cost, Results, collect
from grpo_mmpc.ablation.spec import AblationSpec, combinations
from grpo_mmpc.reports.ablation.findings import cautions, findings
from grpo_mmpc.reports.ablation.page import Content, render
from grpo_mmpc.reports.common.findings import Finding, caution, texts
from grpo_mmpc.reports.common.tables import write_csv
from grpo_mmpc.rewards.troubles import nano_troubles
from grpo_mmpc.statistics.verdicts import CONFIDENCE
from grpo_mmpc.utils.files import write_json, write_text
from grpo_mmpc.utils.manifest import command_line, now

COLUMNS = (
    *("task", "metric", "mix", "mean", "low", "high", "difference", "difference_low", "difference_high"),
    *("se_items", "se_seeds", "degrees", "p", "p_holm", "verdict", "was_reward", "trained_by_any", "seeds"),
    *("n", "n_scored"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The files that were written, and what they say."""

    findings: list[Finding]
    paths: list[Path]
    """The page first."""
    missing: set[str]
    """Jobs without a result."""


def write_report(spec: AblationSpec, runs: Sequence[PlannedRun], jobs: Sequence[Job], *, folder: Path) -> Report:
    """Compare what has finished and write it down.

    Raises:
        EvaluationError: Runs cannot be compared with each other.
    """
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
        findings=[*findings(comparison, front), *_on_nano(runs, results)],
        cautions=cautions(comparison, results),
    )
    page, data, table = (folder / f"ablation.{kind}" for kind in ("html", "json", "csv"))
    write_text(page, render(content))
    write_json(data, as_json(content))
    write_csv(table, COLUMNS, _csv_rows(comparison))
    return Report(findings=content.findings, paths=[page, data, table], missing={job.name for job in results.missing})


def as_json(content: Content) -> dict[str, Any]:
    """Return the object of ``ablation.json``."""
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
        "findings": texts(content.findings),
        "cautions": texts(content.cautions),
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


def _on_nano(runs: Sequence[PlannedRun], results: Results) -> list[Finding]:
    """Say that embedded models were asked about products that they do not know, if they were."""
    evaluations = [run.evaluation for run in results.runs[:1]]
    item_ids = [name for one in evaluations for scores in one.tasks.values() for name in scores.item_ids]
    return [caution(text) for text in nano_troubles(runs[0].config.model_dump(mode="json"), item_ids).values()]


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    def over(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return mean(known) if known else None

    return Cost(**{field.name: over([getattr(cost, field.name) for cost in costs]) for field in fields(Cost)})


def _csv_rows(comparison: AblationComparison) -> Iterator[list[object]]:
    for row in comparison.rows:
        for cell in row.cells:
            level, change = cell.level, cell.difference
            yield [
                *(row.task, row.metric, cell.mix),
                *(level.value if level else None, *((level and level.interval) or (None, None))),
                *(change.value if change else None, *((change and change.interval) or (None, None))),
                *((change.se_items, change.se_seeds, change.degrees, change.p) if change else (None,) * 4),
                *(cell.p_holm, cell.verdict, str(cell.was_reward).lower(), str(bool(row.trained_by)).lower()),
                *(json.dumps(sorted(cell.by_seed)), row.n, row.n_scored),
            ]
