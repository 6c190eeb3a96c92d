"""Evaluations written by hand, and their comparison."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grpo_mmpc.evaluation.comparison import compare_evaluations

NAN = math.nan


def write_evaluation(
    folder: Path,
    *,
    scores: Mapping[str, Sequence[float | None]],
    statistics: Mapping[str, Sequence[Sequence[float] | None]] | None = None,
    item_ids: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    task: str = "image_to_text",
    suite: str = "cqbench",
    version: str = "1",
    checkpoint: str = "base",
) -> Path:
    count = len(next(iter(scores.values())))
    columns: dict[str, Any] = {
        "item_id": item_ids or [f"item-{number}" for number in range(count)],
        "category": categories or ["Toys"] * count,
        "task": [task] * count,
    }
    columns |= {f"score/{name}": pa.array(values, pa.float64()) for name, values in scores.items()}
    columns |= {f"stat/{name}": pa.array(values, pa.list_(pa.float64())) for name, values in (statistics or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    summary = {"suite": suite, "version": version, "checkpoint": checkpoint, "tasks": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def compare(before: Path, after: Path, **options: Any) -> Any:
    [comparison] = compare_evaluations(before, [after], **({"resamples": 4000} | options))
    return comparison.to_json()["tasks"]["image_to_text"]
