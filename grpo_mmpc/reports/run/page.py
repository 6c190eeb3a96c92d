"""Assembles the report of a run into one HTML file that needs nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.recbench import STYLES, recommendation_view
from grpo_mmpc.reports.common.labels import date, duration, logged_name, metric_label, plural, task_label, words
from grpo_mmpc.reports.common.templates import style, template
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.reports.run import gallery
from grpo_mmpc.reports.run.controls import ControlsView, controls_view
from grpo_mmpc.reports.run.curves import curve_groups
from grpo_mmpc.reports.run.headline import Headline, headline
from grpo_mmpc.reports.run.run_files import RunFiles, finite, read_run, section
from grpo_mmpc.reports.run.views import PanelView, TableView, attribute_panel, category_panels, key_numbers
from grpo_mmpc.utils.files import write_text

_IMAGE_BUDGET = 1_800_000
"""Bytes of all thumbnails together; with it the page stays under 3 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task as the template shows it."""

    name: str
    label: str
    n: int
    unpaired: str
    """Items that were left out, in words; empty when none were."""
    headline: Headline
    table: TableView
    why_unscored: str
    """What was not available to the evaluation, in words; empty when everything was scored."""
    controls: ControlsView | None
    attributes: PanelView | None
    panels: list[PanelView]
    more_panels: list[PanelView]
    num_categories: int
    metric: str
    """Label of the metric that orders the gallery."""
    groups: list[gallery.Group]
    is_rendered: bool
    """The answer is a picture."""


def build_report(run: Path, *, out: Path | None = None) -> Path:
    """Write a run's report.

    Only files of the run folder are read, and every one of them may be missing: the page then says
    so.

    Args:
        run: Run folder.
        out: Where to write; ``RUN/report.html`` if None.

    Returns:
        The path of the page.

    Raises:
        EvaluationError: ``run`` is not a folder.
    """
    if not run.is_dir():
        raise EvaluationError(f"{run} is not a folder; expected a run folder as `grpo-mmpc train` writes it")
    html = render(read_run(run))
    path = out or run / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, html)
    return path


def render(run: RunFiles) -> str:
    """The page as text; the same files give the same text."""
    notes = list(run.notes)
    tasks = _tasks(run, notes)
    paths = [path for task in tasks for group in task.groups for item in group.items for path in _pictures(item)]
    return template("reports/run/page.html").render(
        style=style(*STYLES),
        title=_name(run),
        subtitle=_subtitle(run),
        facts=_facts(run),
        comparison=run.comparison,
        recommendation=recommendation_view(run.recommendation) if run.recommendation else None,
        tasks=tasks,
        curve_groups=curve_groups(run),
        images=thumbnails(paths, budget=_IMAGE_BUDGET),
        answer_text=gallery.answer_text,
        plain_text=gallery.plain_text,
        command=str(run.manifest.get("command") or ""),
        config_text=run.config_text,
        provenance=_provenance(run.manifest),
        notes=notes,
    )


def _tasks(run: RunFiles, notes: list[str]) -> list[TaskView]:
    if run.comparison is None:
        return []
    count = gallery.MAX_ITEMS // (3 * max(1, len(run.comparison.tasks)))
    views = []
    for task in run.comparison.tasks:
        words_of = headline(task, comparison=run.comparison, config=run.config)
        panels, more_panels = category_panels(task, lead=words_of.lead)
        left_out = [
            f"{plural(number_, 'item')} evaluated only {when}"
            for number_, when in ((task.before_only, "before"), (task.after_only, "after"))
            if number_
        ]
        table = key_numbers(task)
        if task.held_back:
            left_out.append(f"{plural(task.held_back, 'item')} that chose the checkpoint")
        groups = _groups(run, task.task, words_of.lead, count=count, notes=notes)
        views.append(
            TaskView(
                name=task.task,
                label=task_label(task.task),
                n=task.n,
                unpaired=" and ".join(left_out),
                headline=words_of,
                table=table,
                why_unscored=_why_unscored(run) if table.unscored else "",
                controls=controls_view(task, run.comparison, lead=words_of.lead),
                attributes=attribute_panel(task),
                panels=panels,
                more_panels=more_panels,
                num_categories=len(task.categories),
                metric=metric_label(words_of.lead) if words_of.lead else "",
                groups=groups,
                is_rendered=task.task == "text_to_image",
            )
        )
    return views


def _groups(run: RunFiles, task: str, metric: str | None, *, count: int, notes: list[str]) -> list[gallery.Group]:
    import pyarrow as pa  # heavy: imported on use

    if run.comparison is None or metric is None:
        return []
    before, after = run.samples(run.comparison.before), run.samples(run.comparison.after)
    try:
        items = gallery.read_items(before=before, after=after, task=task, metric=metric)
    except (OSError, pa.ArrowException, KeyError) as error:
        notes.append(f"The gallery of {words(task)} is empty: the samples cannot be read ({error}).")
        return []
    return gallery.choose(items, count=count)


def _why_unscored(run: RunFiles) -> str:
    after = run.summaries.get(run.comparison.after, {}) if run.comparison else {}
    return "; ".join(f"{name}: {reason}" for name, reason in section(after, "missing").items())


def _pictures(item: gallery.Item) -> list[Path]:
    return [path for path in (item.image, item.before.rendered, item.after.rendered) if path is not None]


def _name(run: RunFiles) -> str:
    return run.folder.resolve().name


def _subtitle(run: RunFiles) -> list[str]:
    """Model, mix, what was compared."""
    parts = []
    model = section(run.config, "model").get("name_or_path")
    if model:
        parts.append(str(model))
    mix = section(run.config, "rewards").get("mix")
    if isinstance(mix, list):
        specs = [spec for spec in mix if isinstance(spec, Mapping)]
        trained = [f"{logged_name(str(spec.get('name')))} {spec.get('weight')}" for spec in specs if spec.get("weight")]
        if trained:
            parts.append(f"trained on {', '.join(trained)}")
    if run.comparison:
        parts.append(f"{run.comparison.before} against {run.comparison.after}")
        best = run.comparison.best
        if best:
            parts.append(f"{run.comparison.after} chosen by {best.metric} on {best.num_items} other items")
    started = run.manifest.get("started")
    if started:
        parts.append(date(str(started)))
    return parts


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """The few numbers that say how big the run was."""
    data = section(run.manifest, "data")
    last_step = finite(run.steps[-1]["step"]) if run.steps else None
    counts = [
        ("Training items", finite(data.get("train_items"))),
        ("Held-out items", finite(data.get("held_out_items"))),
        ("Rows quarantined", finite(data.get("quarantined"))),
        ("Steps", last_step),
        ("Trainable parameters", finite(run.manifest.get("trainable_parameters"))),
    ]
    facts = [(label, f"{value:,.0f}") for label, value in counts if value is not None]
    seconds = finite(run.manifest.get("seconds"))
    if seconds is not None:
        facts.append(("Time", duration(seconds)))
    return facts


def _provenance(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of what ran: (title, rows)."""
    single = [
        (words(key).capitalize(), _plain(manifest[key]))
        for key in ("started", "finished", "seed", "git_revision", "trainable_parameters")
        if manifest.get(key) is not None
    ]
    tables = [("Run", single)]
    for key in ("data", "hardware", "versions"):
        tables.append(
            (key.capitalize(), [(str(name), _plain(value)) for name, value in section(manifest, key).items()])
        )
    return [(title, rows) for title, rows in tables if rows]


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
