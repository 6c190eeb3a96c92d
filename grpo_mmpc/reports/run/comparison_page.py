"""The page of ``grpo-mmpc compare``: any two evaluations, as a run's page shows its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.evaluation_folder import SAMPLES_FILE, SUMMARY_FILE, read_summary, run_of
from grpo_mmpc.evaluation.records import Comparison
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.reports.run.before_after import change_figure
from grpo_mmpc.reports.run.examples import delta
from grpo_mmpc.reports.run.task_view import TaskView, task_view
from grpo_mmpc.rewards.troubles import nano_troubles
from grpo_mmpc.utils.files import read_object, write_text
from grpo_mmpc.utils.manifest import command_line
from grpo_mmpc.utils.sections import section

_IMAGE_BUDGET = 1_800_000
"""Bytes of all thumbnails together; with it the page stays under 3 MB."""


def comparison_content(
    tasks: Sequence[TaskView], comparison: Comparison | None, *, folders: Sequence[Path]
) -> dict[str, Any]:
    """Return what the template shows of a comparison, and nothing for the rest of a run's page."""
    images = [path for task in tasks for group in task.groups for item in group.items for path in item.images]
    return {
        "tasks": tasks,
        "comparison": comparison,
        "images": thumbnails(images, folders=folders, budget=_IMAGE_BUDGET),
        "delta": delta,
        "change_figure": change_figure,
        **dict.fromkeys(("notes", "facts", "curve_groups", "provenance", "subtitle"), ()),
        **dict.fromkeys(("recommendation", "config_text", "continued"), ""),
        "base": {},
        "kind": "comparison",
    }


def write_comparison_page(path: Path, comparison: Comparison) -> None:
    """Write the page of one comparison of two evaluation folders."""
    before, after = Path(comparison.before_folder), Path(comparison.after_folder)
    notes: list[str] = []
    tasks = [
        task_view(
            task,
            comparison,
            samples=(before / SAMPLES_FILE, after / SAMPLES_FILE),
            weights={},
            missing=section(read_summary(after), "missing"),
            unreadable=lambda sentence, _: notes.append(sentence),
        )
        for task in comparison.tasks
    ]
    item_ids = [item.item_id for task in tasks for group in task.groups for item in group.items]
    runs = [RunFolder(run, notes=[]) for side in (before, after) if (run := run_of(side)) is not None]
    known = dict.fromkeys(text for run in runs for text in nano_troubles(run.config, item_ids).values())
    content = comparison_content(tasks, comparison, folders=[*image_folders(before), *image_folders(after)]) | {
        "name": f"{comparison.before} against {comparison.after}",
        "subtitle": [str(before), str(after)],
        "notes": notes,
        "troubles": [*known, *(text for task in tasks for text in task.troubles)],
        "command": command_line(),
    }
    write_text(path, render_page("reports/run/page.html", **content))


def image_folders(source: Path) -> list[Path]:
    """Return where images may lie: in a run or the folder itself, and in the catalogue it names."""
    run = run_of(source) or run_of(source / "suite")  # RUN/evaluations/NAME does as well
    if run is not None:
        return RunFolder(run, notes=[]).image_folders
    if not source.is_dir():
        return []
    named = Path(str(read_object(source / SUMMARY_FILE).get("catalogue") or source))
    return [source, named] if any(named.glob("items.*")) else [source]
