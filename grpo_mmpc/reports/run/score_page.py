"""The page of ``grpo-mmpc score``: anybody's answers, every metric with its interval, and items."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.metric_tables import find_metric, range_of
from grpo_mmpc.evaluation.score import Scores
from grpo_mmpc.reports.common.figures import Scale, scale_for
from grpo_mmpc.reports.common.gallery import Answer, Item, most, without
from grpo_mmpc.reports.common.labels import metric_label, task_label
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.reports.run.comparison_page import image_folders
from grpo_mmpc.statistics.clustered import mean_interval
from grpo_mmpc.utils.files import write_text
from grpo_mmpc.utils.manifest import command_line

_PER_GROUP = 3
ANSWER = "Answer"
_IMAGE_BUDGET = 500_000


def write_score_page(path: Path, scores: Scores, *, notes: Sequence[str], sources: Sequence[Path]) -> None:
    """Write the page; ``sources`` are the files and folders of references and predictions."""
    summary = scores.summary
    means = {name: cell for name, cell in summary["metrics"].items() if cell["mean"] is not None}
    lead = next((name for name in means if name not in ("parse_rate", "render_rate")), None)
    chosen = _groups(scores, lead) if lead else {}
    groups = [reference.group or reference.item_id for reference in scores.references]
    images = [path for items in chosen.values() for item in items for path in item.images]
    folders = [folder for source in sources for folder in image_folders(source)]
    page = render_page(
        "reports/run/score.html",
        subtitle=[f"{summary['items']:,} items", f"{summary['mode']} mode"],
        label=task_label(summary["task"]),
        metrics={
            metric_label(name): (
                cell,
                mean_interval(scores.by_metric[name], groups, bounds=range_of(name, mode=summary["mode"])),
                summary["macro"][name],
            )
            for name, cell in means.items()
        },
        scale=_scale(means),
        categories={
            category: [cells.get(name, {}).get("mean") for name in means]
            for category, cells in summary["categories"].items()
        },
        notes=notes,
        lead=metric_label(lead) if lead else "",
        groups=chosen,
        images=thumbnails(images, folders=folders, budget=_IMAGE_BUDGET),
        is_rendered=summary["task"] == "text_to_image",
        command=command_line(),
    )
    write_text(path, page)


def _scale(means: Mapping[str, Mapping[str, Any]]) -> Scale:
    shares = [cell["mean"] for cell in means.values() if abs(cell["mean"]) <= 1]
    return scale_for(shares, include=(0.0, 1.0), bounds=(0.0 if min(shares, default=0.0) >= 0 else None, 1.0))


def _groups(scores: Scores, lead: str) -> dict[str, list[Item]]:
    items = [
        Item(
            item_id=reference.item_id,
            category=reference.category,
            reference=reference.text,
            more=reference.more,
            image=Path(reference.image) if reference.image else None,
            answers={
                ANSWER: Answer(
                    prediction=answer.prediction,
                    completion=answer.completion or answer.prediction or "",
                    score=value,
                    rendered=answer.image,
                )
            },
        )
        for answer, reference, value in zip(scores.answers, scores.references, scores.by_metric[lead], strict=True)
        if math.isfinite(value)
    ]
    metric = find_metric(lead, mode=scores.summary["mode"])
    sign = 1 if metric is None or metric.higher_is_better else -1
    best = most(items, lambda item: sign * item.answers[ANSWER].score, count=_PER_GROUP)
    left = without(items, best)
    worst = most(left, lambda item: -sign * item.answers[ANSWER].score, count=_PER_GROUP)
    return {title: chosen for title, chosen in (("Best answers", best), ("Worst answers", worst)) if chosen}
