"""Runs a suite on a policy: generate, parse, render, score, write ``samples.parquet`` and ``summary.json``."""

import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_mmpc.evaluation.suite import VERSION, Suite
from grpo_mmpc.metrics.table import Metric, MetricInputs
from grpo_mmpc.scoring.images import open_image
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import ParsedCompletion, PromptRow, SamplingConfig

if TYPE_CHECKING:
    from grpo_mmpc.rendering import Renderer

logger = logging.getLogger(__name__)

Generate = Callable[[Sequence[PromptRow], SamplingConfig], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorers:
    """What metrics need besides the texts; None leaves the metrics that need it unscored."""

    bertscore: Any = None
    clip: Any = None
    sentence: Any = None
    renderer: "Renderer | None" = None
    missing: Mapping[str, str] | None = None
    """Why a scorer is absent, by name."""


def finished(folder: Path, suite: Suite) -> bool:
    """True if this very suite (same items, prompts, sampling, scorers) was already run into the folder."""
    path = folder / "summary.json"
    if not path.is_file() or not (folder / "samples.parquet").is_file():
        return False
    return bool(json.loads(path.read_text("utf-8")).get("key") == suite.key)


def run_suite(
    suite: Suite,
    generate: Generate,
    *,
    folder: Path,
    checkpoint: str,
    scorers: Callable[[], Scorers],
    is_main_process: bool = True,
) -> None:
    """Run a suite into a folder. Ask ``finished`` first to not repeat what is there.

    Every rank takes part in generation; the main process alone renders, scores and writes. ``summary.json`` is written
    last, so that a run that was cut off does not count as finished.

    Args:
        suite: What to run.
        generate: Completions of rows, in order; a collective on several ranks.
        folder: ``RUN/evaluations/<checkpoint>/<suite>``.
        checkpoint: Name of what is evaluated.
        scorers: Loads encoders and renderer, called on the main process only.
        is_main_process: Whether this rank scores and writes.
    """
    started = time.monotonic()
    completions = {task: generate(_rows(suite, task), suite.sampling[task]) for task in suite.tasks}
    if not is_main_process:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tools = scorers()
    tables = [_score_task(suite, task, completions[task], tools, folder) for task in suite.tasks]
    _write_samples(tables, folder / "samples.parquet")
    summary = {
        "suite": suite.name,
        "version": VERSION,
        "checkpoint": checkpoint,
        "key": suite.key,
        "seconds": round(time.monotonic() - started, 2),
        "missing": dict(tools.missing or {}),
        "tasks": {
            task: _summarise(suite.metrics(task), table) for task, table in zip(suite.tasks, tables, strict=True)
        },
    }
    partial = folder / "summary.json.part"
    partial.write_text(json.dumps(_without_nan(summary), indent=2), encoding="utf-8")
    partial.replace(folder / "summary.json")


def _rows(suite: Suite, task: str) -> list[PromptRow]:
    return [row for row in suite.rows if row.task == task]


def _score_task(suite: Suite, task: str, completions: list[str], tools: Scorers, folder: Path) -> dict[str, list[Any]]:
    """Columns of ``samples.parquet`` for one task."""
    rows = _rows(suite, task)
    parsed = [TASKS[task].parse(completion) for completion in completions]
    rendered = (
        _render(rows, parsed, tools.renderer, folder) if TASKS[task].target_modality == "image" else [None] * len(rows)
    )
    inputs = MetricInputs(
        task=task,
        predictions=[p.prediction for p in parsed],
        # In text_to_image the title is what a picture is compared with; nothing else is a text reference.
        references=[row.title for row in rows],
        attributes=[row.attributes for row in rows],
        real_images=[row.image_path for row in rows],
        # Without a renderer nothing is known about the picture, which is not the same as a failed render.
        rendered_images=[None if name is None else str(folder / name) for name in rendered] if tools.renderer else (),
        bertscore=tools.bertscore,
        clip=tools.clip,
        sentence=tools.sentence,
        read_image=open_image,
    )
    table: dict[str, list[Any]] = {
        "item_id": [row.item_id for row in rows],
        "category": [row.category for row in rows],
        "task": [task] * len(rows),
        "reference": [row.title for row in rows],
        "image_path": [row.image_path for row in rows],
        "completion": completions,
        "prediction": [p.prediction for p in parsed],
        "format": [p.format for p in parsed],
        "rendered_image": rendered,
    }
    for name, metric in suite.metrics(task).items():
        table[f"score/{name}"] = [float(score) for score in metric.score(inputs)]
        if metric.statistics is not None:
            table[f"stat/{name}"] = metric.statistics(inputs).astype(float).tolist()
    return table


def _render(
    rows: Sequence[PromptRow], parsed: Sequence[ParsedCompletion], renderer: "Renderer | None", folder: Path
) -> list[str | None]:
    """Render the predicted prompts; paths relative to the folder, None for malformed completions and failed renders."""
    if renderer is None:
        return [None] * len(rows)
    wanted = [(i, p.prediction) for i, p in enumerate(parsed) if p.prediction is not None]
    pictures = renderer.render([prompt for _, prompt in wanted], seeds=[i for i, _ in wanted])
    (folder / "images").mkdir(exist_ok=True)
    paths: list[str | None] = [None] * len(rows)
    for (i, _), picture in zip(wanted, pictures, strict=True):
        if picture is not None:
            name = f"images/{i:05d}-{re.sub(r'[^A-Za-z0-9_-]', '_', rows[i].item_id)[:80]}.png"
            picture.save(folder / name)
            paths[i] = name
    return paths


def _summarise(metrics: Mapping[str, Metric], table: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Means over all items and per category; corpus-level metrics from summed statistics."""
    by_category: dict[str, list[int]] = defaultdict(list)
    for i, category in enumerate(table["category"]):
        by_category[category].append(i)

    def values(positions: Sequence[int]) -> dict[str, dict[str, float | int]]:
        return {name: _mean(metric, name, table, positions) for name, metric in metrics.items()}

    return {
        "metrics": values(range(len(table["category"]))),
        "categories": {category: values(by_category[category]) for category in sorted(by_category)},
    }


def _mean(
    metric: Metric, name: str, table: Mapping[str, list[Any]], positions: Sequence[int]
) -> dict[str, float | int]:
    scores = np.array([table[f"score/{name}"][i] for i in positions], dtype=float)  # [N]
    scored = int(np.isfinite(scores).sum())
    if metric.statistics is not None and metric.aggregate is not None and scored:
        statistics = np.array([table[f"stat/{name}"][i] for i in positions])  # [N, S]
        mean = float(metric.aggregate(statistics[np.isfinite(scores)].sum(axis=0)))
    else:
        mean = float(np.nanmean(scores)) if scored else float("nan")
    return {"mean": mean, "n": len(positions), "n_scored": scored}


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
    pq.write_table(pa.concat_tables(arrow, promote_options="default"), path)


def _without_nan(value: Any) -> Any:
    """NaN as null: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
