"""Assembles the page of an ablation: one HTML file that needs nothing else."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from markupsafe import Markup

from grpo_mmpc.ablation.comparison import RESAMPLES, AblationComparison, MetricRow, MixCell
from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.ablation.pareto import Pareto
from grpo_mmpc.ablation.results import Cost, Results
from grpo_mmpc.ablation.spec import BASE, AblationSpec, to_yaml
from grpo_mmpc.reports.ablation.examples import examples
from grpo_mmpc.reports.ablation.figures import pareto_picture
from grpo_mmpc.reports.common.figures import Point, axis, curve, scale_of, track
from grpo_mmpc.reports.common.labels import NO_VALUE, duration, metric_label, number, p_value, signed, task_label, words
from grpo_mmpc.reports.common.templates import style, template
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.reports.run.gallery import answer_text, plain_text
from grpo_mmpc.reports.run.run_files import finite
from grpo_mmpc.statistics.crossed import Estimate
from grpo_mmpc.statistics.verdicts import BETTER, WORSE
from grpo_mmpc.utils.manifest import command_line

_IMAGE_BUDGET = 1_500_000
_GLYPHS = {BETTER: "▲", WORSE: "▼", "no evidence": "·", "": "="}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineView:
    """One mix on one metric."""

    mix: str
    was_reward: bool
    is_reference: bool
    level: str
    level_interval: str
    seeds: str
    """Means by seed."""
    change: str
    change_interval: str
    p: str
    verdict: str
    glyph: str
    tone: str
    levels: Markup
    forest: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelView:
    """One metric, all mixes on two shared scales."""

    title: str
    name: str
    note: str
    base: str
    levels_axis: Markup
    forest_axis: Markup
    lines: list[LineView]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvesView:
    """Training curves of one mix."""

    mix: str
    pictures: list[tuple[str, Markup]]


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
    sentences: list[str]
    cautions: list[str]


def render(content: Content) -> str:
    """The page as text."""
    comparison, results = content.comparison, content.results
    shown = examples(comparison, results, preferred=content.spec.pareto)
    items = [item for group in shown.groups for item in group.items] if shown else []
    pictures: list[Path] = [item.image for item in items if item.image is not None]
    pictures += [a.rendered for item in items for a in item.answers.values() if a.rendered is not None]
    panels = [_panel(row, comparison.reference) for row in comparison.rows if row.n_scored]
    start = f"{content.spec.launcher} -m grpo_mmpc" if content.spec.launcher else "grpo-mmpc"
    return template("reports/ablation/ablation.html").render(
        style=style("reports/common/style.css", "reports/ablation/ablation.css"),
        spec=content.spec,
        comparison=comparison,
        reference="the model before training" if comparison.reference == BASE else comparison.reference,
        sentences=content.sentences,
        cautions=content.cautions,
        tone=_overall_tone(comparison),
        facts=_facts(content),
        missing=results.missing,
        panels=panels,
        unscored=[metric_label(row.metric) for row in comparison.rows if not row.n_scored],
        matrix=[(panel, {line.mix: line for line in panel.lines}) for panel in panels],
        front=content.front,
        picture=pareto_picture(content.front) if content.front else None,
        curves=_curves(comparison.mixes, results),
        costs=[(mix, len(results.of(mix)), _cost(cost)) for mix, cost in content.costs.items()],
        examples=shown,
        images=thumbnails(pictures, budget=_IMAGE_BUDGET),
        answer_text=answer_text,
        plain_text=plain_text,
        command=command_line(),
        runs=[
            (run, shlex.quote(run.config.run_dir), f"{start} train {shlex.quote(f'{run.config.run_dir}.yaml')}")
            for run in content.runs
        ],
        finished={f"{run.mix}/seed-{run.seed}" for run in results.runs},
        ablation_text=to_yaml(content.spec),
        resamples=RESAMPLES,
    )


def _panel(row: MetricRow, reference: str) -> PanelView:
    include = [] if row.base is None else [row.base]
    levels = scale_of([cell.level for cell in row.cells], include=include)
    changes = scale_of([cell.difference for cell in row.cells], include=[0.0])
    partly = f"{row.n_scored:,} of {row.n:,} items scored in every run" if row.n_scored < row.n else ""
    trained = "" if row.trained_by else "no mix was trained on it"
    return PanelView(
        title=f"{metric_label(row.metric)}",
        name=task_label(row.task),
        note="; ".join(filter(None, [trained, "" if row.higher_is_better else "less is better", partly])),
        base=number(row.base),
        levels_axis=axis(levels),
        forest_axis=axis(changes, signs=True),
        lines=[
            LineView(
                mix=cell.mix,
                was_reward=cell.was_reward,
                is_reference=cell.mix == reference,
                level=number(cell.level.value if cell.level else None),
                level_interval=_interval(cell.level, sign=False),
                seeds=", ".join(number(value) for value in cell.by_seed.values()),
                change="reference"
                if cell.mix == reference
                else signed(cell.difference.value if cell.difference else None),
                change_interval=_interval(cell.difference, sign=True),
                p=p_value(cell.p_holm),
                verdict=cell.verdict or "reference",
                glyph=_GLYPHS.get(cell.verdict, "?"),
                tone=_tone(cell),
                levels=track(cell.level, scale=levels, tone="unclear", base=row.base, difference=False),
                forest=track(cell.difference, scale=changes, tone=_tone(cell), difference=True),
            )
            for cell in row.cells
        ],
    )


def _tone(cell: MixCell) -> str:
    return cell.verdict if cell.verdict in (BETTER, WORSE) else "unclear"


def _overall_tone(comparison: AblationComparison) -> str:
    """Colour of the headline: that of verdicts on metrics nobody was trained on, where they agree."""
    verdicts = {cell.verdict for row in comparison.rows if not row.trained_by for cell in row.cells} & {BETTER, WORSE}
    return verdicts.pop() if len(verdicts) == 1 else "unclear"


def _interval(found: Estimate | None, *, sign: bool) -> str:
    if found is None or found.interval is None:
        return ""
    write = signed if sign else number
    return f"{write(found.interval.low)} to {write(found.interval.high)}"


def _facts(content: Content) -> list[tuple[str, str]]:
    comparison, runs = content.comparison, content.results.runs
    facts = [
        ("Mixes", str(len(comparison.mixes))),
        ("Seeds", ", ".join(map(str, comparison.seeds))),
        ("Runs finished", f"{len(runs)} of {len(content.runs)}"),
        ("Held-out items", f"{max((row.n for row in comparison.rows), default=0):,}"),
    ]
    walls = [run.cost.wall_s for run in runs if run.cost.wall_s is not None]
    return [*facts, ("Run time, all runs", duration(sum(walls)))] if walls else facts


def _cost(cost: Cost) -> list[str]:
    times = [NO_VALUE if value is None else duration(value) for value in (cost.wall_s, cost.training_s, cost.reward_s)]
    return [*times, NO_VALUE if cost.tokens_per_s is None else f"{cost.tokens_per_s:,.0f}"]


def _curves(mixes: Sequence[str], results: Results) -> list[CurvesView]:
    """Per mix the reward it was trained on, and one reward that all mixes log, so that they can be compared."""
    logged = [{key for row in run.steps for key in row} for run in results.runs]
    shared = set.intersection(*logged) if logged else set()
    rewards = sorted(key for key in shared if key.startswith("rewards/") and key.endswith("/mean"))
    wanted = [("reward", "its own reward")]
    wanted += [(key, f"{words(key.split('/')[1])}, in every mix") for key in rewards if "json_format" not in key][:1]
    wanted += [("entropy", "entropy of the next token")] if "entropy" in shared else []
    views = []
    for mix in mixes:
        rows = [run.steps for run in results.of(mix)]
        drawn = [(title, curve(_mean_over_seeds(rows, key), label=title, smooth=True)) for key, title in wanted]
        views.append(CurvesView(mix=mix, pictures=[(title, svg) for title, svg in drawn if svg]))
    return [view for view in views if view.pictures]


def _mean_over_seeds(runs: Sequence[Sequence[Mapping[str, Any]]], key: str) -> list[Point]:
    by_step: dict[float, list[float]] = {}
    for steps in runs:
        for row in steps:
            step, value = finite(row.get("step")), finite(row.get(key))
            if step is not None and value is not None and math.isfinite(value):
                by_step.setdefault(step, []).append(value)
    return [(step, mean(values)) for step, values in sorted(by_step.items())]
