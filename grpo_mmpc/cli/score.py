"""``grpo-mmpc score``: score the outputs of any system; read and write the official layout."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.console import Progress, next_command, printable, printer, reading
from grpo_mmpc.utils.files import write_json, write_json_lines
from grpo_mmpc.utils.options import output_file, output_folder

if TYPE_CHECKING:
    from grpo_mmpc.evaluation.predictions import Predictions, Reference
    from grpo_mmpc.evaluation.score import Scores

say = printer(True)
_SHOWN = 5
"""Rows set aside that are shown."""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "score",
        help="score any system's outputs, per item and in total",
        description=(
            "Scores predictions against true titles, or rendered against real images. A reference without a prediction "
            "and a malformed prediction are wrong answers; a metric without its encoder is unscored, with the reason."
        ),
        epilog=(
            "examples:\n"
            "grpo-mmpc score --predictions P.jsonl --references R.jsonl --bertscore-model nano:minilm --out s.json\n"
            "grpo-mmpc score --official outputs/qwen_vl_7b --references CATALOGUE --mode paper\n"
            "grpo-mmpc score --predictions runs/nano/evaluations/base --export-official outputs/nano"
        ),
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--predictions",
        type=Path,
        metavar="P",
        help="JSON lines with item_id and prediction (null = malformed) or completion; or an evaluation folder; or a "
        "completed catalogue, of which the gaps are scored",
    )
    source.add_argument(
        "--official", type=Path, metavar="DIR", help="a model's folder with titles/CATEGORY.tsv, CATEGORY/ITEM_ID.jpg"
    )
    parser.add_argument(
        "--references",
        type=Path,
        metavar="R",
        help="JSON lines with item_id, reference (a text or a list)[, category, attributes], or a catalogue folder "
        "(default: those of the evaluation folder)",
    )
    parser.add_argument(
        "--task",
        choices=("image_to_text", "text_to_image"),
        help="what was predicted (default: image_to_text, but text_to_image with --images)",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="rendered images, DIR/CATEGORY/ITEM_ID.jpg")
    parser.add_argument(
        "--metrics", nargs="+", metavar="A,B", help="names, separated by commas or spaces (default: all of the task)"
    )
    parser.add_argument(
        "--mode",
        choices=("corrected", "paper"),
        default="corrected",
        help="paper reproduces the official benchmark's numbers, its flaws included (%(default)s)",
    )
    parser.add_argument("--bertscore-model", metavar="MODEL", help="hub name, folder or nano:minilm (roberta-large)")
    parser.add_argument("--bertscore-layers", type=int, metavar="N", help="hidden layer; needed for unknown models")
    parser.add_argument("--sentence-model", metavar="MODEL", help="sentence encoder: hub name, folder or nano:minilm")
    parser.add_argument("--clip-model", metavar="MODEL", help="CLIP: hub name, folder or nano:clip")
    parser.add_argument("--out", type=output_file, metavar="FILE", help="write the summary as JSON")
    parser.add_argument(
        "--per-item", type=output_file, metavar="FILE", help="write the scores of every item as JSON lines"
    )
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write a page: metrics with intervals, categories, items"
    )
    parser.add_argument(
        "--export-official", type=output_folder, metavar="DIR", help="write the predictions in the official layout"
    )
    parser.add_argument(
        "--as-evaluation",
        type=output_folder,
        metavar="DIR",
        help="write an evaluation folder, which grpo-mmpc compare takes as a side",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, score, print, write."""
    reading(arguments.predictions or arguments.official)
    # heavy: imported on use
    from grpo_mmpc.completion.predictions import completed_predictions, is_completed, words_of_a_policy
    from grpo_mmpc.errors import EvaluationError
    from grpo_mmpc.evaluation.prediction_files import is_evaluation, read_predictions, read_references, with_images
    from grpo_mmpc.evaluation.score import check_evaluation_folder, export_official
    from grpo_mmpc.tasks import TASKS

    task = arguments.task or ("text_to_image" if arguments.images else "image_to_text")
    if arguments.images and task != "text_to_image":
        raise EvaluationError(
            "--images are renders of text_to_image, but --task is image_to_text; leave one of them out"
        )
    source = arguments.predictions or arguments.official
    set_aside: list[str] = []
    if is_completed(source):
        answers = completed_predictions(source, task=task)
    else:
        answers = read_predictions(source, task=task, webp=arguments.mode == "corrected", set_aside=set_aside)
    if arguments.images:
        answers = with_images(answers, arguments.images, webp=arguments.mode == "corrected")
    references_from = arguments.references or (source if is_evaluation(source) else None)
    references = None
    if references_from is not None:
        if is_completed(source) and references_from.exists() and references_from.samefile(source):
            raise EvaluationError(
                f"--references {references_from} is the completed catalogue itself; give the one that has the true "
                "titles and images"
            )
        grouped = arguments.as_evaluation is not None
        references = read_references(references_from, task=task, set_aside=set_aside, grouped=grouped)
    if references is None and arguments.export_official is None:
        raise EvaluationError(
            "--references is missing: give JSON lines with item_id and reference, or a catalogue folder"
        )
    if arguments.as_evaluation is not None:
        check_evaluation_folder(arguments.as_evaluation, answers)
    if arguments.export_official is not None:  # first, since an occupied folder is refused
        written = export_official(arguments.export_official, answers, references or [], task=task)
        print(f"official layout: {written:,} files in {arguments.export_official}")
    if references is not None:
        _score(arguments, task=task, answers=answers, references=references, set_aside=set_aside)
        if references_from is not None and (warning := words_of_a_policy(references_from, fields=[TASKS[task].target])):
            say(warning)
    if set_aside:
        print(f"set aside, as if they were not there: {len(set_aside):,} rows")
        say("\n".join(f"  {printable(reason)}" for reason in set_aside[:_SHOWN]))
        if len(set_aside) > _SHOWN:
            print(f"  and {len(set_aside) - _SHOWN:,} more")
    return 0


def _score(
    arguments: argparse.Namespace,
    *,
    task: str,
    answers: "Predictions",
    references: "list[Reference]",
    set_aside: list[str],
) -> None:
    from grpo_mmpc.config import EncodersSection
    from grpo_mmpc.errors import EvaluationError
    from grpo_mmpc.evaluation.score import choose_metrics, score_predictions, write_as_evaluation
    from grpo_mmpc.evaluation.scorers import scorers_for
    from grpo_mmpc.reports.run.score_page import write_score_page

    names = None
    if arguments.metrics is not None:
        names = " ".join(arguments.metrics).replace(",", " ").split()
        if not names:
            raise EvaluationError("--metrics names no metric; give some, or leave it out for all")
    metrics = choose_metrics(names, task=task, mode=arguments.mode, references=references, answers=answers)
    with Progress() as progress:
        progress("loading encoders", 0)
        options, defaults = _encoder_options(arguments), EncodersSection().model_dump()
        scorers = scorers_for(metrics, options=options)
        scores = score_predictions(
            answers,
            references,
            task=task,
            mode=arguments.mode,
            metrics=metrics,
            scorers=scorers,
            progress=lambda name, done, total: progress(
                f"metrics of {len(references):,} items", done, total, detail=name
            ),
        )
    say("\n".join(_table(scores)))
    if arguments.out is not None:
        write_json(arguments.out, {**scores.summary, "set_aside": set_aside}, indent=2)
        print(f"summary: {arguments.out}")
    if arguments.per_item is not None:
        write_json_lines(arguments.per_item, scores.rows())
        print(f"per item: {arguments.per_item}")
    if arguments.as_evaluation is not None:
        used = {name: defaults[name] | options.get(name, {}) for name in defaults if getattr(scorers, name)}
        write_as_evaluation(
            arguments.as_evaluation, scores, answers, encoders=used, catalogue=arguments.references or answers.source
        )
        say(f"evaluation: {arguments.as_evaluation}\n{next_command('compare', 'OTHER', arguments.as_evaluation)}")
    if arguments.html is not None:
        named = (arguments.references, arguments.predictions, arguments.official, arguments.images)
        sources = [source for source in named if source is not None]
        write_score_page(arguments.html, scores, notes=list(_notes(scores.summary)), sources=sources)
        print(f"page: {arguments.html}")


def _encoder_options(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    from grpo_mmpc.config.sections import BertScoreSection

    options: dict[str, dict[str, Any]] = {}
    if arguments.bertscore_model or arguments.bertscore_layers is not None:
        options["bertscore"] = {
            "model": arguments.bertscore_model or BertScoreSection().model,
            "num_layers": arguments.bertscore_layers,
        }
    if arguments.sentence_model:
        options["sentence"] = {"model": arguments.sentence_model}
    if arguments.clip_model:
        options["clip"] = {"model": arguments.clip_model}
    return options


def _table(scores: "Scores") -> list[str]:
    """Return a line per metric, and everything that a reader could take for something else."""
    from grpo_mmpc.reports.common.labels import plural
    from grpo_mmpc.reports.common.tables import text_table

    summary = scores.summary
    rows = [
        (name, _number(cell["mean"]), _number(summary["macro"][name]), f"{cell['n_scored']:,}/{cell['n_total']:,}")
        for name, cell in summary["metrics"].items()
    ]
    return [
        f"{summary['task']}, {summary['mode']} mode: {plural(summary['items'], 'item')} in "
        f"{plural(len(summary['categories']), 'category')}",
        *text_table(("metric", "mean", "macro", "scored"), rows),
        "mean: over items; macro: mean of the categories' means",
        *_notes(summary),
    ]


def _notes(summary: Mapping[str, Any]) -> Iterator[str]:
    wrong = "wrong answers"
    if summary["mode"] == "paper":  # the official scripts treat the two directions differently
        wrong = 'scored as the text "error"' if summary["task"] == "image_to_text" else "unscored without an image"
    for count, what, consequence in (
        (summary["malformed"], "malformed predictions", wrong),
        (summary["references_without_prediction"], "references without a prediction", wrong),
        (summary["predictions_without_reference"], "predictions without a reference", "left out"),
    ):
        if count:
            yield f"{what}: {count:,} ({consequence})"
    for category, reason in summary["unscored_categories"].items():
        yield f"unscored, as in the official script: category {category}: {reason}"
    by_reason: dict[str, list[str]] = {}
    for name, reason in summary["missing"].items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        yield f"unscored: {', '.join(names)}: {reason}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
