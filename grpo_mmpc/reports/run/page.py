"""The report of a run as one HTML file that needs nothing else."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_mmpc.config.recorded import is_of_a_run
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.records import Comparison, TaskComparison
from grpo_mmpc.evaluation.run_folder import RunFolder, checkpoint_order, finite
from grpo_mmpc.nano.catalogue import NANO_CATALOGUE
from grpo_mmpc.recbench import recommendation_view, results_of_run
from grpo_mmpc.reports.common.labels import attribute_kind, date, duration, metric_label, task_label, words
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.run.comparison_page import comparison_content
from grpo_mmpc.reports.run.curves import curve_groups
from grpo_mmpc.reports.run.task_view import TaskView, task_view
from grpo_mmpc.rewards.troubles import nano_troubles, signal_troubles
from grpo_mmpc.utils.files import read_json_lines, read_object, write_text
from grpo_mmpc.utils.secrets import masked, yaml_without_secrets
from grpo_mmpc.utils.sections import section
from grpo_mmpc.utils.single_out import SET_ASIDE_FILE

_MARKS = ("config.yaml", "manifest.json", "evaluations", "comparison.json")
"""Files of a run, any of which is enough to report on."""


def build_report(folder: Path, *, out: Path | None = None, catalogue: Path | None = None) -> Path:
    """Write a run's report to ``out`` or ``RUN/report.html``, and return the path.

    ``catalogue`` is where the run's catalogue lies now, if that is not where it was.

    Beside it a summary of one page for readers who know no statistics is written.

    Only files of the run folder are read, and every one of them may be missing: the page then says
    so. Where one is there and cannot be read, a page that stands already is left as it is.

    Raises:
        EvaluationError: ``folder`` is not that of a run, or a file of it cannot be read.
    """
    if not _is_run(folder):
        raise EvaluationError(
            f"{folder} is not a run folder: expected one of {', '.join(_MARKS)}, as `grpo-mmpc train` and `grpo-mmpc "
            "evaluate` write them; nothing was written"
        )
    path = out or folder / "report.html"
    notes: list[str] = []
    run = RunFolder(folder, notes=notes)
    places = run.image_folders if catalogue is None else [*run.image_folders, catalogue]
    page, summary = _render(run, notes, places)
    stands = path.exists()
    if not (run.broken and stands):
        write_text(summary_path(path), summary)
        write_text(path, page)  # last: where it stands, nothing is written again
    if run.broken:
        outcome = "was left as it was" if stands else "shows the rest"
        raise EvaluationError(f"{folder}: {' '.join(run.broken)} The page {path} {outcome}")
    return path


def _is_run(folder: Path) -> bool:
    """Return whether one of those files is that of a run; others, too, have a manifest.json."""
    return (
        is_of_a_run(folder)
        or any((folder / "evaluations").glob("*/*/*.json"))
        or {"before", "after"} <= read_object(folder / "comparison.json").keys()
    )


def summary_path(page: Path) -> Path:
    """Return where the summary of a page lies: one page to print."""
    return page.with_name("summary.html" if page.name == "report.html" else f"{page.stem}.summary.html")


def _render(run: RunFolder, notes: list[str], places: Sequence[Path]) -> tuple[str, str]:
    """Return the page and its summary as text; images are looked for in ``places``.

    The same files give the same text.
    """
    weights = run.weights
    comparison = run.comparison
    tasks = [_task(task, comparison, run, weights) for task in comparison.tasks] if comparison else []
    recommendation, problems = results_of_run(run.path)
    notes += [
        *_unfinished(run),
        *_without_images(run, places),
        *(f"A recommendation benchmark is left out: {problem}." for problem in problems),
    ]
    shown = {
        **comparison_content(tasks, comparison, folders=places),
        "kind": "run report",
        "name": run.path.resolve().name,
        "subtitle": _subtitle(run, weights),
        "notes": notes,
        "troubles": [*_troubles(run, tasks, weights), *(text for task in tasks for text in task.troubles)],
        "facts": _facts(run),
        "base": _base(run) if not tasks else {},
        "continued": f"grpo-mmpc train {shlex.quote(str(run.path / 'config.yaml'))}",
        "recommendation": recommendation_view(recommendation) if recommendation else None,
        "curve_groups": curve_groups(run, weights=weights),
        "command": masked(str(run.manifest.get("command") or "")),
        "config_text": yaml_without_secrets(run.config) if run.config else "",
        "provenance": _provenance(run.manifest),
    }
    return render_page("reports/run/page.html", **shown), render_page("reports/run/summary.html", **shown)


def _task(task: TaskComparison, comparison: Comparison, run: RunFolder, weights: Mapping[str, float]) -> TaskView:
    return task_view(
        task,
        comparison,
        samples=(run.samples(comparison.before), run.samples(comparison.after)),
        weights=weights,
        missing=section(run.summaries.get(comparison.after, {}), "missing"),
        unreadable=lambda sentence, is_missing: run.report(sentence, is_missing=is_missing),
    )


def _troubles(run: RunFolder, tasks: Sequence[TaskView], weights: Mapping[str, float]) -> list[str]:
    item_ids = [item.item_id for task in tasks for group in task.groups for item in group.items]
    is_nano = section(run.config, "data").get("catalogue") == NANO_CATALOGUE
    nano = {} if is_nano else nano_troubles(run.config, item_ids)
    return [*nano.values(), *signal_troubles(run.steps, weights).values()]


def _without_images(run: RunFolder, places: Sequence[Path]) -> Iterator[str]:
    named = section(run.config, "data").get("catalogue")
    if named and places == [run.path]:
        yield (
            f"The catalogue {named} is not found from here, so its images are not shown: grpo-mmpc report {run.path} "
            "--catalogue DIR shows them."
        )


def _base(run: RunFolder) -> dict[str, dict[str, float]]:
    """Return, by task, what the base model reached, for a run that has nothing to compare yet."""
    return {
        task_label(str(task)): {
            metric_label(name): value
            for name, cell in section(section(section(run.summary("base"), "tasks"), task), "metrics").items()
            if attribute_kind(name) is None and (value := finite(cell.get("mean"))) is not None
        }
        for task in section(run.summary("base"), "tasks")
    }


def _unfinished(run: RunFolder) -> list[str]:
    notes = []
    if run.manifest and not run.manifest.get("finished"):
        notes.append("The run has not finished: manifest.json has no time of finishing.")
    notes += run.failures
    if aside := _set_aside(run):
        few = len(aside) == 1
        notes.append(
            f"{len(aside)} prompt{'s' * (not few)} could not be trained on, see {SET_ASIDE_FILE}; "
            f"{'' if few else 'the first: '}{aside[0].get('prompt_id')}: {aside[0].get('reason')}."
        )
    comparison, reported = run.comparison, run.reported
    if comparison and reported and checkpoint_order(reported) > checkpoint_order(comparison.after):
        notes.append(
            f"The comparison ends at {comparison.after}, but {reported} has been evaluated since; "
            f"grpo-mmpc report {run.path} brings it up to date."
        )
    return notes


def _set_aside(run: RunFolder) -> list[dict[str, Any]]:
    path = run.path / SET_ASIDE_FILE
    return read_json_lines(path, skip_broken=True) if path.is_file() else []


def _subtitle(run: RunFolder, weights: Mapping[str, float]) -> list[str]:
    trained = [f"{name} {weight:g}" for name, weight in weights.items() if weight]
    model = section(run.config, "model")
    parts = [str(model.get("name_or_path") or "") + (f" from {start}" if (start := model.get("init_from")) else "")]
    parts.append(f"trained on {', '.join(trained)}" if trained else "")
    if run.comparison:
        parts.append(f"{run.comparison.before} against {run.comparison.after}")
        best = run.comparison.best
        if best:
            parts.append(f"{run.comparison.after} chosen by {best.metric} on {best.num_items} other items")
    return [*parts, date(str(run.manifest.get("started") or ""))]


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    data = section(run.manifest, "data")
    products = data.get("held_out_products")
    counts = {
        "Training items": data.get("train_items"),
        "Held-out items": data.get("held_out_items"),
        "Held-out products": products if products != data.get("held_out_items") else None,
        "Rows quarantined": data.get("quarantined"),
        "Prompts set aside": len(_set_aside(run)) or None,
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
