"""The report of a run as one HTML file that needs nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.records import Comparison, TaskComparison
from grpo_mmpc.evaluation.run_folder import RunFolder, checkpoint_order, finite, section
from grpo_mmpc.recbench import recommendation_view, results_of_run
from grpo_mmpc.reports.common.gallery import ItemGroup, read_items
from grpo_mmpc.reports.common.labels import date, duration, metric_label, plural, task_label, words
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.reports.run.before_after import attribute_panel, category_panels, change_figure, key_numbers
from grpo_mmpc.reports.run.controls import controls_table
from grpo_mmpc.reports.run.curves import curve_groups
from grpo_mmpc.reports.run.examples import AFTER, BEFORE, MAX_ITEMS, choose, delta
from grpo_mmpc.reports.run.headline import headline
from grpo_mmpc.utils.files import write_text

_IMAGE_BUDGET = 1_800_000
"""Bytes of all thumbnails together; with it the page stays under 3 MB."""


def build_report(run: Path, *, out: Path | None = None) -> Path:
    """Write a run's report to ``out`` or ``RUN/report.html``, and return the path.

    Only files of the run folder are read, and every one of them may be missing: the page then says
    so.

    Raises:
        EvaluationError: ``run`` is not a folder.
    """
    if not run.is_dir():
        raise EvaluationError(f"{run} is not a folder; expected a run folder as `grpo-mmpc train` writes it")
    path = out or run / "report.html"
    write_text(path, render(run))
    return path


def render(folder: Path) -> str:
    """Return the page as text; the same files give the same text."""
    notes: list[str] = []
    run = RunFolder(folder, notes=notes)
    # A reward of a file is logged under the name of its factory.
    weights = {reward.name.rpartition(":")[2]: reward.weight for reward in run.mix}
    comparison = run.comparison
    tasks = [_task(task, comparison, run, weights, notes) for task in comparison.tasks] if comparison else []
    recommendation, problems = results_of_run(folder)
    notes += [*_unfinished(run), *(f"A recommendation benchmark is left out: {problem}." for problem in problems)]
    images = [path for task in tasks for group in task["groups"] for item in group.items for path in item.images]
    return render_page(
        "reports/run/page.html",
        name=folder.resolve().name,
        subtitle=_subtitle(run, weights),
        notes=notes,
        tasks=tasks,
        facts=_facts(run),
        comparison=comparison,
        recommendation=recommendation_view(recommendation) if recommendation else None,
        curve_groups=curve_groups(run, weights=weights),
        images=thumbnails(images, budget=_IMAGE_BUDGET),
        delta=delta,
        change_figure=change_figure,
        command=str(run.manifest.get("command") or ""),
        config_text=run.config_text,
        provenance=_provenance(run.manifest),
    )


def _unfinished(run: RunFolder) -> list[str]:
    notes = []
    if run.manifest and not run.manifest.get("finished"):
        notes.append("The run has not finished: manifest.json has no time of finishing.")
    failures = run.manifest.get("evaluation_failures")
    notes += [f"An evaluation failed: {failure}" for failure in (failures if isinstance(failures, list) else [])]
    notes += [
        f"The reward {name} failed {count} times while training; those completions were unscored."
        for name, count in section(run.manifest, "reward_errors").items()
    ]
    comparison, reported = run.comparison, run.reported
    if comparison and reported and checkpoint_order(reported) > checkpoint_order(comparison.after):
        notes.append(
            f"The comparison ends at {comparison.after}, but {reported} has been evaluated since; "
            f"grpo-mmpc report {run.path} brings it up to date."
        )
    return notes


def _task(
    task: TaskComparison, comparison: Comparison, run: RunFolder, weights: Mapping[str, float], notes: list[str]
) -> dict[str, Any]:
    said = headline(task, weights=weights, percent=comparison.percent)
    panels, more_panels = category_panels(task, lead=said.lead)
    left_out = [
        f"{plural(count, 'item')} {why}"
        for count, why in (
            (task.before_only, "evaluated only before"),
            (task.after_only, "evaluated only after"),
            (task.held_back, f"that chose {comparison.after} as the best checkpoint"),
        )
        if count
    ]
    missing = section(run.summaries.get(comparison.after, {}), "missing")
    return {
        "label": task_label(task.task),
        "n": task.n,
        "left_out": ", ".join(left_out),
        "headline": said,
        "table": key_numbers(task),
        "why_unscored": "; ".join(f"{name}: {reason}" for name, reason in missing.items()),
        "controls": controls_table(task, comparison, lead=said.lead),
        "attributes": attribute_panel(task),
        "panels": panels,
        "more_panels": more_panels,
        "num_categories": len(task.categories),
        "metric": metric_label(said.lead) if said.lead else "",
        "groups": _item_groups(task, comparison, run, metric=said.lead, notes=notes),
        "is_rendered": task.task == "text_to_image",
    }


def _item_groups(
    task: TaskComparison, comparison: Comparison, run: RunFolder, *, metric: str | None, notes: list[str]
) -> list[ItemGroup]:
    import pyarrow as pa  # heavy: imported on use

    if metric is None:
        return []
    samples = {BEFORE: run.samples(comparison.before), AFTER: run.samples(comparison.after)}
    try:
        items = read_items(samples, task=task.task, metric=metric)
    except (OSError, pa.ArrowException, KeyError) as error:
        notes.append(f"The gallery of {words(task.task)} is empty: the samples cannot be read ({error}).")
        return []
    return choose(items, count=MAX_ITEMS // (3 * len(comparison.tasks)))


def _subtitle(run: RunFolder, weights: Mapping[str, float]) -> list[str]:
    trained = [f"{name} {weight:g}" for name, weight in weights.items() if weight]
    parts = [str(section(run.config, "model").get("name_or_path") or "")]
    parts.append(f"trained on {', '.join(trained)}" if trained else "")
    if run.comparison:
        parts.append(f"{run.comparison.before} against {run.comparison.after}")
        best = run.comparison.best
        if best:
            parts.append(f"{run.comparison.after} chosen by {best.metric} on {best.num_items} other items")
    return [*parts, date(str(run.manifest.get("started") or ""))]


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    data = section(run.manifest, "data")
    counts = {
        "Training items": data.get("train_items"),
        "Held-out items": data.get("held_out_items"),
        "Rows quarantined": data.get("quarantined"),
        "Steps": run.steps[-1]["step"] if run.steps else None,
        "Trainable parameters": run.manifest.get("trainable_parameters"),
    }
    facts = [(label, f"{value:,.0f}") for label, count in counts.items() if (value := finite(count)) is not None]
    seconds = finite(run.manifest.get("seconds"))
    return facts if seconds is None else [*facts, ("Time", duration(seconds))]


def _provenance(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    single = [
        (words(key).capitalize(), _plain(manifest[key]))
        for key in ("started", "finished", "seed", "git_revision", "trainable_parameters")
        if manifest.get(key) is not None
    ]
    tables = [("Run", single)]
    for key in ("data", "hardware", "versions"):
        rows = [(str(name), _plain(value)) for name, value in section(manifest, key).items()]
        tables.append((key.capitalize(), rows))
    return [(title, rows) for title, rows in tables if rows]


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
