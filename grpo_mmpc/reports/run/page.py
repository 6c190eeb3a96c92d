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
from grpo_mmpc.reports.common.thumbnails import catalogue_folders, thumbnails
from grpo_mmpc.reports.run.before_after import attribute_panel, category_panels, change_figure, key_numbers
from grpo_mmpc.reports.run.controls import controls_table
from grpo_mmpc.reports.run.curves import curve_groups
from grpo_mmpc.reports.run.examples import AFTER, BEFORE, MAX_ITEMS, choose, delta
from grpo_mmpc.reports.run.headline import headline
from grpo_mmpc.utils.files import write_text
from grpo_mmpc.utils.secrets import masked

_MARKS = ("config.yaml", "manifest.json", "evaluations", "comparison.json")
_IMAGE_BUDGET = 1_800_000
"""Bytes of all thumbnails together; with it the page stays under 3 MB."""


def build_report(folder: Path, *, out: Path | None = None) -> Path:
    """Write a run's report to ``out`` or ``RUN/report.html``, and return the path.

    Only files of the run folder are read, and every one of them may be missing: the page then says
    so. Where one is there and cannot be read, a page that stands already is left as it is.

    Raises:
        EvaluationError: ``folder`` is not that of a run, or a file of it cannot be read.
    """
    if not any((folder / name).exists() for name in _MARKS):
        raise EvaluationError(
            f"{folder} is not a run folder: expected one of {', '.join(_MARKS)}, as `grpo-mmpc train` and `grpo-mmpc "
            "evaluate` write them; nothing was written"
        )
    path = out or folder / "report.html"
    notes: list[str] = []
    run = RunFolder(folder, notes=notes)
    text = _render(run, notes)
    stands = path.exists()
    if not (run.broken and stands):
        write_text(path, text)
    if run.broken:
        outcome = "was left as it was" if stands else "shows the rest"
        raise EvaluationError(f"{folder}: {' '.join(run.broken)} The page {path} {outcome}")
    return path


def _render(run: RunFolder, notes: list[str]) -> str:
    """Return the page as text; the same files give the same text."""
    # A reward of a file is logged under the name of its factory.
    weights = {reward.name.rpartition(":")[2]: reward.weight for reward in run.mix}
    comparison = run.comparison
    tasks = [_task(task, comparison, run, weights) for task in comparison.tasks] if comparison else []
    recommendation, problems = results_of_run(run.path)
    notes += [*_unfinished(run), *(f"A recommendation benchmark is left out: {problem}." for problem in problems)]
    images = [path for task in tasks for group in task["groups"] for item in group.items for path in item.images]
    return render_page(
        "reports/run/page.html",
        name=run.path.resolve().name,
        subtitle=_subtitle(run, weights),
        notes=notes,
        tasks=tasks,
        facts=_facts(run),
        comparison=comparison,
        recommendation=recommendation_view(recommendation) if recommendation else None,
        curve_groups=curve_groups(run, weights=weights),
        images=thumbnails(images, folders=_image_folders(run), budget=_IMAGE_BUDGET),
        delta=delta,
        change_figure=change_figure,
        command=masked(str(run.manifest.get("command") or "")),
        config_text=masked(run.config_text or ""),
        provenance=_provenance(run.manifest),
    )


def _image_folders(run: RunFolder) -> list[Path]:
    return [run.path, *catalogue_folders(str(section(run.config, "data").get("catalogue") or ""))]


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


def _task(task: TaskComparison, comparison: Comparison, run: RunFolder, weights: Mapping[str, float]) -> dict[str, Any]:
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
        "groups": _item_groups(task, comparison, run, metric=said.lead),
        "is_rendered": task.task == "text_to_image",
    }


def _item_groups(
    task: TaskComparison, comparison: Comparison, run: RunFolder, *, metric: str | None
) -> list[ItemGroup]:
    import pyarrow as pa  # heavy: imported on use

    if metric is None:
        return []
    samples = {BEFORE: run.samples(comparison.before), AFTER: run.samples(comparison.after)}
    try:
        items = read_items(samples, task=task.task, metric=metric)
    except (OSError, pa.ArrowException, KeyError) as error:
        is_missing = isinstance(error, FileNotFoundError)
        sentence = f"The gallery of {words(task.task)} is empty: the samples cannot be read ({error})."
        run.report(sentence, is_missing=is_missing)
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
    return masked(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
