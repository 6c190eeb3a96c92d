"""Runs a suite on a policy: generate, parse, render, score, write ``samples.parquet`` and ``summary.json``."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.evaluation.completions import FILE as COMPLETIONS_FILE
from grpo_mmpc.evaluation.completions import CompletionLog, complete
from grpo_mmpc.evaluation.suite import MALFORMED, VERSION, Suite
from grpo_mmpc.evaluation.summaries import summarise
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.rendering.store import RenderJob, render_into, render_seed
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.files import replace_atomically, without_nan, write_json

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer
    from grpo_mmpc.rollout.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorers:
    """What metrics need besides the texts; None leaves the metrics that need it unscored."""

    bertscore: Any = None
    clip: Any = None
    sentence: Any = None
    dinov2: Any = None
    lpips: Any = None
    inception: Any = None
    renderer: "Renderer | None" = None
    renderer_identity: str = ""
    """Name and arguments of the renderer: pictures of another one are not reused."""
    missing: Mapping[str, str] | None = None
    """Why a scorer is absent, by name."""


def finished(folder: Path, suite: Suite, *, policy: str) -> bool:
    """True if this very suite (same items, prompts, sampling, scorers) was already run into the folder on this policy."""
    path = folder / "summary.json"
    if not path.is_file() or not (folder / "samples.parquet").is_file():
        return False
    summary = json.loads(path.read_text("utf-8"))
    return bool(summary.get("key") == suite.key and summary.get("policy") == policy)


def run_suite(
    suite: Suite,
    engine: "Engine",
    *,
    folder: Path,
    checkpoint: str,
    policy: str,
    scorers: Callable[[], Scorers],
    ranks: Ranks = ONE,
    progress: Progress | None = None,
) -> None:
    """Run a suite into a folder. Ask ``finished`` first to not repeat what is there.

    Every rank takes part in generation; the main process alone renders, scores and writes.
    Completions and renders are kept as they come, so that a run that was killed goes on with the
    items that are missing; ``summary.json`` is written last, so that it does not count as finished.

    Args:
        suite: What to run.
        engine: Completions of rows; a collective on several ranks.
        folder: ``RUN/evaluations/<checkpoint>/<suite>``.
        checkpoint: Name of what is evaluated.
        policy: Identity of what is evaluated: completions of another one are not reused.
        scorers: Loads encoders and renderer, called on the main process only.
        ranks: This process among the others.
        progress: Called on the main process.
    """
    started = time.monotonic()
    logs: list[CompletionLog] = []
    ranks.on_main(
        lambda: logs.append(CompletionLog(folder / COMPLETIONS_FILE))
    )  # a file that cannot be read ends all ranks
    completions = {
        task: complete(
            suite.rows_of(task),
            suite.sampling[task],
            engine,
            log=logs[0] if logs else None,
            policy=policy,
            ranks=ranks,
            progress=_labelled(progress, f"completing {task}"),
        )
        for task in suite.tasks
    }
    ranks.on_main(
        lambda: _score(
            suite, completions, folder, scorers, progress, started=started, checkpoint=checkpoint, policy=policy
        )
    )


def _score(
    suite: Suite,
    completions: Mapping[str, list[str]],
    folder: Path,
    scorers: Callable[[], Scorers],
    progress: Progress | None,
    *,
    started: float,
    checkpoint: str,
    policy: str,
) -> None:
    """Render, score and write."""
    folder.mkdir(parents=True, exist_ok=True)
    tools = scorers()
    scored = {task: _score_task(suite, task, completions[task], tools, folder, progress) for task in suite.tasks}
    # An older summary must not stand beside newer samples, whenever this is killed.
    (folder / "summary.json").unlink(missing_ok=True)
    _write_samples([table for table, _, _ in scored.values()], folder / "samples.parquet")
    summary = {
        "suite": suite.name,
        "version": VERSION,
        "mode": suite.mode,
        "checkpoint": checkpoint,
        "policy": policy,
        "key": suite.key,
        "settings": suite.settings,
        "seconds": round(time.monotonic() - started, 2),
        "missing": dict(tools.missing or {}),
        "rendering": {task: rendering for task, (_, rendering, _) in scored.items() if rendering is not None},
        "tasks": {task: summary for task, (_, _, summary) in scored.items()},
    }
    write_json(folder / "summary.json", without_nan(summary), indent=2)


def _score_task(
    suite: Suite, task: str, completions: list[str], tools: Scorers, folder: Path, progress: Progress | None
) -> tuple[dict[str, list[Any]], dict[str, Any] | None, dict[str, Any]]:
    """Columns of ``samples.parquet`` for one task, what rendering came to, and the task's part of the summary."""
    rows = suite.rows_of(task)
    parsed = [TASKS[task].parse(completion) for completion in completions]
    rendered: list[str | None] = [None] * len(rows)
    rendering = None
    if TASKS[task].target_modality == "image" and tools.renderer is not None:
        prompts = [p.prediction or MALFORMED[suite.mode] for p in parsed]
        rendered, rendering = _render(rows, prompts, tools, folder, _labelled(progress, "rendering"))
    inputs = MetricInputs(
        task=task,
        predictions=[p.prediction for p in parsed],
        # In text_to_image the title is what a picture is compared with; nothing else is a text
        # reference.
        references=[row.title for row in rows],
        attributes=[row.attributes for row in rows],
        real_images=[row.image_path for row in rows],
        categories=[row.category for row in rows],
        # Without a renderer nothing is known about the picture, which is not the same as a failed
        # render.
        rendered_images=[None if name is None else str(folder / name) for name in rendered] if tools.renderer else (),
        bertscore=tools.bertscore,
        clip=tools.clip,
        sentence=tools.sentence,
        dino=tools.dinov2,
        lpips=tools.lpips,
        inception=tools.inception,
        read_image=open_image,
    )
    table: dict[str, list[Any]] = {
        "item_id": [row.item_id for row in rows],
        "category": [row.category for row in rows],
        "task": [task] * len(rows),
        "reference": [row.title for row in rows],
        "attributes": [json.dumps(dict(row.attributes), ensure_ascii=False, sort_keys=True) for row in rows],
        "image_path": [row.image_path for row in rows],
        "completion": completions,
        "prediction": [p.prediction for p in parsed],
        "format": [p.format for p in parsed],
        "rendered_image": rendered,
    }
    metrics = suite.metrics(task)
    for done, (name, metric) in enumerate(metrics.items()):
        if progress is not None:
            progress(f"scoring {task}: {name}", done, len(metrics))
        table[f"score/{name}"] = [float(score) for score in metric.score(inputs)]
        if metric.statistics is not None:
            table[f"stat/{name}"] = metric.statistics(inputs).astype(float).tolist()
    return table, rendering, summarise(metrics, table, inputs)


def _render(
    rows: Sequence[PromptRow],
    prompts: Sequence[str | None],
    tools: Scorers,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[str | None], dict[str, Any]]:
    """Render the predicted prompts; paths relative to the folder (None: malformed or failed), and counts."""
    assert tools.renderer is not None
    jobs = [
        RenderJob(item_id=row.item_id, prompt=prompt, seed=render_seed(row.item_id))
        for row, prompt in zip(rows, prompts, strict=True)
        if prompt is not None
    ]
    result = render_into(folder / "images", tools.renderer, jobs, identity=tools.renderer_identity, progress=progress)
    paths = [result.paths.get(row.item_id) for row in rows]
    counts = {
        "failures": dict(result.summary.failures),
        "over_token_limit": result.summary.num_over_limit,
        "token_limit": result.summary.token_limit,
    }
    return [None if path is None else str(path.relative_to(folder)) for path in paths], counts


def _labelled(progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(label, done, total)


def _write_samples(tables: Sequence[Mapping[str, list[Any]]], path: Path) -> None:
    # heavy: imported on use
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[str, Any] = {"rendered_image": pa.string(), "prediction": pa.string(), "reference": pa.string()}
    arrow = [
        pa.table(
            {
                name: pa.array(
                    column, pa.float64() if name.startswith("score/") else types.get(name), from_pandas=False
                )
                for name, column in table.items()
            }
        )
        for table in tables
    ]
    with replace_atomically(path) as temporary:
        pq.write_table(pa.concat_tables(arrow, promote_options="default"), temporary)
