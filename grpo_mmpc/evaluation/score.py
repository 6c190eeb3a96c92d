"""The scores of any system's answers against references: per item, per category and in total."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo_mmpc.config import nearest
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import SCORE_PREFIX, SUMMARY_FILE, write_evaluation
from grpo_mmpc.evaluation.metric_tables import METRICS_OF_MODE, metrics_of
from grpo_mmpc.evaluation.official_layout import safe_name, write_official
from grpo_mmpc.evaluation.predictions import Prediction, Predictions, Reference
from grpo_mmpc.evaluation.scorers import Scorers, encoder_of
from grpo_mmpc.evaluation.scoring import score_items
from grpo_mmpc.evaluation.suite import VERSION, scores_by
from grpo_mmpc.metrics.metric import Metric
from grpo_mmpc.metrics.official.text import aborted_categories
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.files import build_folder, names_in, read_object, without_nan
from grpo_mmpc.utils.hashing import json_digest

_NOTHING_TO_COMPARE = "no item has what it compares with (a true title, a real image, known attributes, a render)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of all items, and the summary."""

    answers: Sequence[Prediction]
    """One per reference, in the order of the references."""
    references: Sequence[Reference]
    by_metric: Mapping[str, list[float]]
    """NaN = unscored."""
    summary: Mapping[str, Any]
    """The content of ``--out``; null where nothing was scored."""
    samples: Mapping[str, list[Any]]
    """Columns of ``samples.parquet``."""
    cells: Mapping[str, Any]
    """The task's part of an evaluation's ``summary.json``."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a flat record per item: item_id, category, prediction, each metric by name."""
        for i, (answer, reference) in enumerate(zip(self.answers, self.references, strict=True)):
            scores = {name: values[i] for name, values in self.by_metric.items()}
            yield {
                "item_id": reference.item_id,
                "category": reference.category,
                "prediction": answer.prediction,
                **without_nan(scores),
            }


def choose_metrics(
    names: Sequence[str] | None, *, task: str, mode: str, references: Sequence[Reference], answers: Predictions
) -> dict[str, Metric]:
    """Return the metrics to score by, in the order of the mode's table.

    ``names`` is what was asked for; None means all of the task, but ``parse_rate`` for answers
    without prompts. ``attribute_recall`` brings one metric per kind that ``references`` know.

    Raises:
        EvaluationError: A name is unknown, or belongs to another task or mode.
    """
    kinds = [kind for reference in references for kind in reference.attributes]
    table = metrics_of(TASKS[task].kind, mode=mode, attribute_kinds=kinds)
    if names is None:
        return {name: metric for name, metric in table.items() if answers.has_prompts or name != "parse_rate"}
    for name in names:
        if name in table:
            continue
        problem = f"metric {name!r} is unknown for {task} in {mode} mode; {nearest(name, table)}"
        others = {
            other_mode: [task for task in TASKS if TASKS[task].kind in metrics[name].targets]
            for other_mode, metrics in METRICS_OF_MODE.items()
            if name in metrics
        }
        if others:
            known = "; ".join(f"{' and '.join(tasks)} in {other_mode} mode" for other_mode, tasks in others.items())
            problem = f"metric {name!r} is for {known}, not for {task} in {mode} mode; change --task or --mode"
        raise EvaluationError(problem)
    return metrics_of(TASKS[task].kind, mode=mode, attribute_kinds=kinds, chosen=set(names))


def score_predictions(
    answers: Predictions,
    references: Sequence[Reference],
    *,
    task: str,
    mode: str,
    metrics: Mapping[str, Metric],
    scorers: Scorers,
    progress: Callable[[str, int, int], None] | None = None,
) -> Scores:
    """Score one answer per reference.

    A reference without an answer counts as malformed, a wrong answer; an answer without a reference
    is left out. Both are counted in the summary. ``metrics`` come from ``choose_metrics``, and
    ``scorers`` from ``scorers.scorers_for``.

    Raises:
        EvaluationError: No item has both an answer and a reference.
    """
    asked = [r for r in references if r.item_id in answers.by_item or not answers.is_whole]
    given = [answers.by_item[reference.item_id] for reference in asked if reference.item_id in answers.by_item]
    if not given:
        first, other = next(iter(answers.by_item), "none"), references[0].item_id if references else "none"
        raise EvaluationError(
            f"{answers.source}: no item has both a prediction and a reference ({len(answers.by_item)} predictions, "
            f"the first for {first!r}; {len(references)} references, the first for {other!r}); "
            "the item_ids must be the same, and true titles known: grpo-mmpc data mask takes some away to be completed"
        )
    nothing = Prediction(item_id="", prediction=None)
    paired = [answers.by_item.get(r.item_id, replace(nothing, item_id=r.item_id)) for r in asked]
    scored = score_items(
        metrics,
        paired,
        asked,
        task=task,
        target=TASKS[task].kind,
        mode=mode,
        scorers=scorers,
        has_images=answers.has_images,
        progress=progress,
    )
    summary = scored.summary
    reasons = {
        name: (dict(scorers.missing) | scored.inputs.failures).get(encoder_of(name) or "", _NOTHING_TO_COMPARE)
        for name, cell in summary["metrics"].items()
        if not cell["n_scored"]
    }
    is_paper_text = mode == "paper" and task == "image_to_text"
    content = {
        "mode": mode,
        "task": task,
        "metrics": {name: _cell(cell) for name, cell in summary["metrics"].items()},
        "macro": summary["macro"],
        "categories": {
            category: {name: _cell(cell) for name, cell in cells.items()}
            for category, cells in summary["categories"].items()
        },
        "missing": reasons,
        "unscored_categories": aborted_categories(scored.inputs) if is_paper_text else {},
        "items": len(asked),
        "malformed": sum(answer.prediction is None and answer.prompt_known for answer in given),
        "references_without_prediction": len(asked) - len(given),
        "predictions_without_reference": len(answers.by_item) - len(given),
    }
    by_metric = {name: scored.samples[f"{SCORE_PREFIX}{name}"] for name in metrics}
    return Scores(
        answers=paired,
        references=asked,
        by_metric=by_metric,
        summary=without_nan(content),
        samples=scored.samples,
        cells=summary,
    )


def write_as_evaluation(
    folder: Path, scores: Scores, answers: Predictions, *, encoders: Mapping[str, Any], catalogue: Path
) -> None:
    """Write scores as a whole evaluation that ``grpo-mmpc compare`` takes as a side, or nothing.

    ``encoders`` are the arguments of those that were used; ``catalogue`` has the true images, if
    the references were read from one. Rendered images are copied into the folder; earlier scores of
    the same predictions are replaced, other content must not be there.
    """
    task, images = scores.summary["task"], []
    with build_folder(folder) as made:
        for answer in scores.answers:
            name = None
            if answer.image is not None:
                name = f"images/{safe_name(answer.item_id, what='item_id')}{answer.image.suffix}"
                (made / "images").mkdir(exist_ok=True)
                shutil.copyfile(answer.image, made / name)
            images.append(name)
        summary = {
            "suite": "cqbench",
            "version": VERSION,
            "mode": scores.summary["mode"],
            "checkpoint": folder.name,
            "catalogue": str(catalogue),
            "policy": _policy(answers),
            "settings": {"encoders": {name: scores_by(options) for name, options in encoders.items()}},
            "missing": scores.summary["missing"],
            "tasks": {task: scores.cells},
        }
        write_evaluation(made, summary, [dict(scores.samples) | {"rendered_image": images}])
        if folder.is_dir():  # see check_evaluation_folder
            shutil.rmtree(folder)


def check_evaluation_folder(folder: Path, answers: Predictions) -> None:
    """Refuse a folder that holds something else than scores of these predictions, before any work.

    Raises:
        EvaluationError: It does.
    """
    if names_in(folder) and read_object(folder / SUMMARY_FILE).get("policy") != _policy(answers):
        raise EvaluationError(
            f"--as-evaluation: {folder} is not empty and holds no scores of these predictions; remove it or name "
            "another folder"
        )


def _policy(answers: Predictions) -> str:
    rows = [(one.item_id, one.prediction, str(one.image)) for one in answers.by_item.values()]
    return f"predictions of {answers.source}, {json_digest(rows)}"


def export_official(folder: Path, answers: Predictions, references: Sequence[Reference], *, task: str) -> int:
    """Write predictions in the official layout; return the number of files.

    Raises:
        EvaluationError: A category is unknown, or see ``write_official``.
    """
    categories = {reference.item_id: reference.category for reference in references}
    items = []
    for answer in answers.by_item.values():
        category = answer.category or categories.get(answer.item_id)
        if category is None:
            raise EvaluationError(
                f"--export-official: the category of item {answer.item_id!r} is unknown; give it in the predictions "
                "or with --references"
            )
        items.append(replace(answer, category=category))
    return write_official(folder, items, titles=task == "image_to_text")


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {"mean": cell["mean"], "n_scored": cell["n_scored"], "n_total": cell["n"]}
