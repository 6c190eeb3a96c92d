"""The run of a suite on a policy: complete, parse, render, score, write."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.completions import COMPLETIONS_FILE, CompletionLog, complete
from grpo_mmpc.evaluation.evaluation_folder import write_evaluation
from grpo_mmpc.evaluation.predictions import Prediction, Reference
from grpo_mmpc.evaluation.scorers import Scorers
from grpo_mmpc.evaluation.scoring import score_items
from grpo_mmpc.evaluation.suite import MALFORMED, VERSION, Suite
from grpo_mmpc.rendering.store import render_into
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.files import write_json_lines
from grpo_mmpc.utils.single_out import SET_ASIDE_FILE, Failure

if TYPE_CHECKING:
    from grpo_mmpc.rollout.engine import Engine

logger = logging.getLogger(__name__)

ShowProgress = Callable[[str, int, int], None]
"""(piece of work, done, total)."""


def run_suite(
    suite: Suite,
    engine: "Engine",
    *,
    folder: Path,
    checkpoint: str,
    policy: str,
    scorers: Callable[[], Scorers],
    ranks: Ranks = ONE,
    progress: ShowProgress | None = None,
) -> None:
    """Run a suite into a folder; ask ``evaluation_folder.finished`` first to repeat nothing.

    Every rank takes part in generation; the main process alone calls ``scorers``, renders, scores
    and writes. Completions and renders are kept as they come, so that a run that was killed goes on
    with the items that are missing; those of another ``policy`` are not reused.
    """
    started = time.monotonic()
    logs: list[CompletionLog] = []
    # On the main process, and so that a file that cannot be read ends all ranks.
    ranks.on_main(lambda: logs.append(CompletionLog(folder / COMPLETIONS_FILE)))
    completions = {
        task: complete(
            suite.rows_of(task),
            suite.sampling[task],
            engine,
            log=logs[0] if logs else None,
            policy=policy,
            ranks=ranks,
            progress=None if progress is None else partial(progress, f"completing {task}"),
        )
        for task in suite.tasks
    }

    def score_and_write() -> None:
        loaded = scorers()
        answers = {task: _answers(suite.rows_of(task), completions[task]) for task in suite.tasks}
        set_aside = [
            {"task": task, "item_id": row.item_id, "reason": text.reason}
            for task in suite.tasks
            for row, text in zip(suite.rows_of(task), completions[task], strict=True)
            if isinstance(text, Failure)
        ]
        if set_aside:
            write_json_lines(folder / SET_ASIDE_FILE, set_aside)
            logger.warning(
                "%d prompts set aside, see %s: %s", len(set_aside), folder / SET_ASIDE_FILE, set_aside[0]["reason"]
            )
        missing = dict(loaded.missing)
        scored = {
            task: _score(suite, task, answers[task], folder=folder, scorers=loaded, missing=missing, progress=progress)
            for task in suite.tasks
        }
        summary = {
            "suite": suite.name,
            "version": VERSION,
            "mode": suite.mode,
            "checkpoint": checkpoint,
            "policy": policy,
            "key": suite.key,
            "settings": suite.settings,
            "seconds": round(time.monotonic() - started, 2),
            "missing": missing,
            "set_aside": dict(Counter(entry["task"] for entry in set_aside)),
            "rendering": {task: rendering for task, (_, _, rendering) in scored.items() if rendering is not None},
            "tasks": {task: cells for task, (_, cells, _) in scored.items()},
        }
        write_evaluation(folder, summary, [samples for samples, _, _ in scored.values()])

    ranks.on_main(score_and_write)


def _answers(rows: Sequence[PromptRow], completions: Sequence[str | Failure]) -> list[tuple[PromptRow, str]]:
    """Return the rows that have a completion, with it."""
    answers = [(row, text) for row, text in zip(rows, completions, strict=True) if isinstance(text, str)]
    reasons = [text.reason for text in completions if isinstance(text, Failure)]
    if reasons and not answers:
        raise EvaluationError(f"none of {len(rows)} prompts of {rows[0].task} could be completed: {reasons[0]}")
    return answers


def _score(
    suite: Suite,
    task: str,
    answers: Sequence[tuple[PromptRow, str]],
    *,
    folder: Path,
    scorers: Scorers,
    missing: dict[str, str],
    progress: ShowProgress | None,
) -> tuple[dict[str, list[Any]], dict[str, Any], dict[str, Any] | None]:
    """Return columns of ``samples.parquet``, the summary, and counts of renders where there are.

    ``missing`` receives encoders that raise, with the reason.
    """
    rows = [row for row, _ in answers]
    parsed = [suite.known_tasks[task].parse(completion) for _, completion in answers]
    rendered: list[str | None] = [None] * len(rows)
    rendering = None
    is_rendered = scorers.renderer is not None
    if suite.known_tasks[task].kind == "image" and is_rendered:
        rendered, rendering = _render(
            rows,
            [p.prediction or MALFORMED[suite.mode] for p in parsed],
            folder=folder,
            scorers=scorers,
            progress=progress,
        )

    def shown(metric: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"scoring {task}: {metric}", done, total)

    scored = score_items(
        suite.metrics(task),
        [
            Prediction(
                item_id=row.item_id,
                prediction=p.prediction,
                completion=completion,
                format=p.format,
                image=None if image is None else folder / image,
            )
            for (row, completion), p, image in zip(answers, parsed, rendered, strict=True)
        ],
        [
            Reference(
                item_id=row.item_id,
                text=row.truth,
                more=row.more_references,
                category=row.category,
                attributes=row.attributes,
                image=row.image_path,
                group=suite.groups.get(row.item_id),
            )
            for row in rows
        ],
        task=task,
        target=suite.known_tasks[task].kind,
        mode=suite.mode,
        scorers=scorers,
        has_images=is_rendered,
        progress=shown,
    )
    if progress is not None:
        progress(f"scoring {task}", 1, 1)  # the bar is gone before a result is printed
    missing |= scored.inputs.failures
    return scored.samples | {"rendered_image": rendered}, scored.summary, rendering


def _render(
    rows: Sequence[PromptRow],
    prompts: Sequence[str | None],
    *,
    folder: Path,
    scorers: Scorers,
    progress: ShowProgress | None,
) -> tuple[list[str | None], dict[str, Any]]:
    """Render prompts; return paths relative to the folder (None: failed), and counts."""
    assert scorers.renderer is not None
    result = render_into(
        folder / "images",
        scorers.renderer,
        {row.item_id: prompt for row, prompt in zip(rows, prompts, strict=True) if prompt is not None},
        identity=scorers.renderer_identity,
        progress=None if progress is None else partial(progress, "rendering"),
    )
    paths = [result.paths.get(row.item_id) for row in rows]
    counts = {
        "failures": dict(result.failures),
        "over_token_limit": result.num_over_limit,
        "token_limit": result.token_limit,
    }
    return [None if path is None else str(path.relative_to(folder)) for path in paths], counts
