"""One task of a comparison, with everything that pages show of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.records import Comparison, TaskComparison
from grpo_mmpc.reports.common.gallery import Item, ItemGroup, read_items
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label, plural, task_label, words
from grpo_mmpc.reports.common.panels import Panel
from grpo_mmpc.reports.run.before_after import NumbersTable, attribute_panel, category_panels, key_numbers
from grpo_mmpc.reports.run.controls import ControlsTable, controls_table
from grpo_mmpc.reports.run.examples import AFTER, BEFORE, MAX_ITEMS, choose
from grpo_mmpc.reports.run.headline import Headline, headline
from grpo_mmpc.reports.run.plain import plain_sentences, task_troubles

_NEEDS = {
    **{"bertscore": "bertscore", "clip_": "clip", "embedding_": "sentence", "dino_": "dinov2"},
    **{"lpips": "lpips", "kid": "inception", "fid": "inception"},
}
"""By the beginning of a metric's name, the encoder without which it is not scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """What pages show of a task."""

    task: TaskComparison
    label: str
    left_out: str
    """Items that were not compared, with the reasons."""
    headline: Headline
    plain: list[str]
    troubles: list[str]
    table: NumbersTable
    unscored: list[str]
    """Metrics that could not be scored, with the reasons."""
    controls: ControlsTable | None
    attributes: Panel | None
    panels: list[Panel]
    more_panels: list[Panel]
    metric: str
    """Label of the metric that items are chosen by."""
    groups: list[ItemGroup]
    pairs: list[Item]
    """One item of each group, shown first."""
    pairs_rule: str
    """How they were chosen."""

    @property
    def is_rendered(self) -> bool:
        """True if answers are prompts that images were rendered from."""
        return "render_rate" in self.task.metrics


def task_view(
    task: TaskComparison,
    comparison: Comparison,
    *,
    samples: tuple[Path, Path],
    weights: Mapping[str, float],
    missing: Mapping[str, Any],
    unreadable: Callable[[str, bool], None],
) -> TaskView:
    """Look at a task from all sides.

    Args:
        task: One of the comparison's.
        comparison: The whole.
        samples: ``samples.parquet`` before and after.
        weights: Of the reward mix, by the name that rewards are logged under.
        missing: By encoder, the reason why the evaluation had none.
        unreadable: Takes a sentence about samples that cannot be read, and whether they are
            missing.
    """
    said = headline(task, weights=weights, percent=comparison.percent)
    panels, more_panels = category_panels(task, lead=said.lead, mode=comparison.mode)
    left_out = [
        f"{plural(count, 'item')} {why}"
        for count, why in (
            (task.before_only, "evaluated only before"),
            (task.after_only, "evaluated only after"),
            (task.held_back, f"that chose {comparison.after} as the best checkpoint"),
        )
        if count
    ]
    items = _items(task, samples, metric=said.lead, unreadable=unreadable)
    controls = controls_table(task, comparison, lead=said.lead)
    on_the_title = [controls.title_as_prompt] if controls is not None and controls.title_as_prompt else []
    groups = choose(items, count=MAX_ITEMS // (3 * len(comparison.tasks)))
    titles = [group.title for group in groups]
    return TaskView(
        task=task,
        label=task_label(task.task),
        left_out=", ".join(left_out),
        headline=said,
        plain=[*plain_sentences(task, items, lead=said.lead), *on_the_title],
        troubles=task_troubles(task, items, lead=said.lead),
        table=key_numbers(task),
        unscored=[
            f"{metric_label(name)}{_why(name, missing)}"
            for name, cell in task.metrics.items()
            if not cell.n_scored and attribute_kind(name) is None
        ],
        controls=controls,
        attributes=attribute_panel(task),
        panels=panels,
        more_panels=more_panels,
        metric=metric_label(said.lead) if said.lead else "",
        groups=groups,
        pairs=[item for group in groups for item in group.items[: 1 if len(groups) > 1 else 3]],
        pairs_rule=titles[0] if len(titles) == 1 else f"One item of each kind ({'; '.join(titles).lower()})",
    )


def _items(
    task: TaskComparison, samples: tuple[Path, Path], *, metric: str | None, unreadable: Callable[[str, bool], None]
) -> list[Item]:
    import pyarrow as pa  # heavy: imported on use

    if metric is None:
        return []
    try:
        return read_items(dict(zip((BEFORE, AFTER), samples, strict=True)), task=task.task, metric=metric)
    except (OSError, pa.ArrowException, KeyError) as error:
        sentence = f"The gallery of {words(task.task)} is empty: the samples cannot be read ({error})."
        unreadable(sentence, isinstance(error, FileNotFoundError))
        return []


def _why(metric: str, missing: Mapping[str, Any]) -> str:
    needed = next((encoder for start, encoder in _NEEDS.items() if metric.startswith(start)), None)
    if needed is not None and needed in missing:
        return f" ({needed}: {missing[needed]})"
    return " (the catalogue states no attributes)" if "attribute" in metric else ""
