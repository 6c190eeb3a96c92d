"""The page of an ablation as one HTML file that needs nothing else."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from markupsafe import Markup

from grpo_mmpc.ablation.comparison import RESAMPLES, AblationComparison, MetricRow
from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.ablation.pareto import Pareto
from grpo_mmpc.ablation.results import Cost, Results
from grpo_mmpc.ablation.spec import AblationSpec, to_yaml
from grpo_mmpc.evaluation.metric_tables import range_of
from grpo_mmpc.evaluation.run_folder import finite
from grpo_mmpc.reports.ablation.examples import examples
from grpo_mmpc.reports.ablation.findings import reference_name
from grpo_mmpc.reports.ablation.pareto_figure import pareto_figure
from grpo_mmpc.reports.common.curves import Point, curve
from grpo_mmpc.reports.common.difference import Difference
from grpo_mmpc.reports.common.findings import Finding
from grpo_mmpc.reports.common.labels import NO_VALUE, duration, metric_label, task_label, words
from grpo_mmpc.reports.common.panels import Line, panel
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.reports.run.comparison_page import image_folders
from grpo_mmpc.utils.manifest import command_line

_IMAGE_BUDGET = 1_500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Everything that the page shows."""

    spec: AblationSpec
    runs: Sequence[PlannedRun]
    results: Results
    comparison: AblationComparison
    front: Pareto | None
    costs: dict[str, Cost]
    """By mix, means over its runs."""
    findings: list[Finding]
    cautions: list[Finding]


def render(content: Content) -> str:
    """Return the page as text."""
    comparison, results = content.comparison, content.results
    shown = examples(comparison, results, preferred=content.spec.pareto)
    images = [path for group in shown.groups for item in group.items for path in item.images] if shown else []
    evaluations = (*(run.evaluation for run in results.runs), *results.base.values())
    folders = list(dict.fromkeys(folder for one in evaluations for folder in image_folders(one.folder)))
    mode = content.runs[0].config.evaluation.mode
    start = f"{content.spec.launcher} -m grpo_mmpc" if content.spec.launcher else "grpo-mmpc"
    return render_page(
        "reports/ablation/page.html",
        spec=content.spec,
        subtitle=[", ".join(content.spec.base), f"compared with {reference_name(comparison)}"],
        mixes=comparison.mixes,
        reference=reference_name(comparison),
        findings=content.findings,
        cautions=content.cautions,
        facts=_facts(content),
        missing=results.missing,
        metrics=[_metric_panel(row, mode) for row in comparison.rows if row.n_scored],
        unscored=[metric_label(row.metric) for row in comparison.rows if not row.n_scored],
        figure=pareto_figure(content.front, mode=mode) if content.front else None,
        curves=_curves(comparison.mixes, results),
        costs=[(mix, len(results.of(mix)), _cost(cost)) for mix, cost in content.costs.items()],
        examples=shown,
        images=thumbnails(images, folders=folders, budget=_IMAGE_BUDGET),
        command=command_line(),
        runs=[
            (run, shlex.quote(run.config.run_dir), f"{start} train {shlex.quote(f'{run.config.run_dir}.yaml')}")
            for run in content.runs
        ],
        finished={f"{run.mix}/seed-{run.seed}" for run in results.runs},
        ablation_text=to_yaml(content.spec),
        resamples=RESAMPLES,
    )


def _metric_panel(row: MetricRow, mode: str) -> dict[str, Any]:
    notes = [
        task_label(row.task),
        "" if row.trained_by else "no mix was trained on it",
        "" if row.higher_is_better else "less is better",
        f"{row.n_scored:,} of {row.n:,} items scored in every run" if row.n_scored < row.n else "",
        f"{row.n_scored:,} items of {row.n_products:,} products, resampled as wholes" if row.n_products else "",
    ]
    lines = [
        Line(
            name=words(cell.mix),
            value=cell.level.value if cell.level else None,
            interval=cell.level.interval if cell.level else None,
            difference=Difference(
                value=cell.difference.value if cell.difference else None,
                interval=cell.difference.interval if cell.difference else None,
                p=cell.p_holm,
                verdict=cell.verdict,
            ),
            is_trained_on=cell.was_reward,
        )
        for cell in row.cells
    ]
    label = metric_label(row.metric)
    bounds, note = range_of(row.metric, mode=mode), ", ".join(filter(None, notes))
    figures = panel(lines, bounds=bounds, title=label, note=note, base=row.base)
    return {"row": row, "label": label, "panel": figures}


def _facts(content: Content) -> list[tuple[str, str]]:
    comparison, runs = content.comparison, content.results.runs
    finished = ("Runs finished", f"{len(runs)} of {len(content.runs)}")
    if not runs:  # there is nothing else to count
        return [finished]
    facts = [
        ("Mixes", str(len(comparison.mixes))),
        ("Seeds", ", ".join(map(str, comparison.seeds))),
        finished,
        ("Held-out items", f"{max((row.n for row in comparison.rows), default=0):,}"),
    ]
    walls = [run.cost.wall_s for run in runs if run.cost.wall_s is not None]
    return [*facts, ("Run time, all runs", duration(sum(walls)))] if walls else facts


def _cost(cost: Cost) -> list[str]:
    times = [NO_VALUE if value is None else duration(value) for value in (cost.wall_s, cost.training_s, cost.reward_s)]
    return [*times, NO_VALUE if cost.tokens_per_s is None else f"{cost.tokens_per_s:,.0f}"]


def _curves(mixes: Sequence[str], results: Results) -> list[tuple[str, list[tuple[str, Markup]]]]:
    logged = [{key for row in run.steps for key in row} for run in results.runs]
    shared = set.intersection(*logged) if logged else set()
    rewards = sorted(key for key in shared if key.startswith("rewards/") and key.endswith("/mean"))
    wanted = [("reward", "its own reward")]
    wanted += [(key, f"{words(key.split('/')[1])}, in every mix") for key in rewards if "json_format" not in key][:1]
    wanted += [("entropy", "entropy of the next token")] if "entropy" in shared else []
    curves = []
    for mix in mixes:
        steps = [run.steps for run in results.of(mix)]
        figures = [(title, curve(_mean_over_seeds(steps, key), title=title, smooth=True)) for key, title in wanted]
        curves.append((mix, [(title, svg) for title, svg in figures if svg]))
    return [(mix, figures) for mix, figures in curves if figures]


def _mean_over_seeds(runs: Sequence[Sequence[Mapping[str, Any]]], key: str) -> list[Point]:
    by_step: dict[float, list[float]] = {}
    for steps in runs:
        for row in steps:
            step, value = finite(row.get("step")), finite(row.get(key))
            if step is not None and value is not None:
                by_step.setdefault(step, []).append(value)
    return [(step, mean(values)) for step, values in sorted(by_step.items())]
