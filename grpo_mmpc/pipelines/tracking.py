"""What of an evaluation goes to the trackers of a run: means with their intervals, and samples."""

from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.evaluation_folder import SAMPLES_FILE, SCORE_PREFIX, TaskScores, read_evaluation
from grpo_mmpc.evaluation.run_folder import finite
from grpo_mmpc.reports.common.labels import attribute_kind
from grpo_mmpc.reports.run.curves import mean_intervals
from grpo_mmpc.training.trackers import SampleTable, report
from grpo_mmpc.utils.hashing import stable_order
from grpo_mmpc.utils.parquet import open_parquet
from grpo_mmpc.utils.sections import section

SAMPLES = 8
"""Items of each task, the same at every evaluation."""


def report_evaluation(trainer: Any, folder: Path, *, step: int) -> None:
    """Send an evaluation to the trackers of ``trainer.report_to``."""
    evaluation = read_evaluation(folder)
    scalars: dict[str, float] = {}
    for task, scores in evaluation.tasks.items():
        scalars |= _scalars(folder, task, scores, mode=evaluation.mode)
    tables = [_samples(folder, task, scores) for task, scores in evaluation.tasks.items()]
    report(trainer, scalars, tables, step=step)


def _scalars(folder: Path, task: str, scores: TaskScores, *, mode: str) -> dict[str, float]:
    """Return ``eval_TASK/METRIC`` with ``.../low`` and ``.../high``, the ends of its interval."""
    metrics = section(scores.summary, "metrics")
    known = {name: mean for name in metrics if (mean := finite(section(metrics, name).get("mean"))) is not None}
    scalars = {f"eval_{task}/{name}": mean for name, mean in known.items()}
    for name, ends in mean_intervals(folder / SAMPLES_FILE, task, list(known), mode=mode).items():
        scalars |= {f"eval_{task}/{name}/low": ends.low, f"eval_{task}/{name}/high": ends.high}
    return scalars


def _samples(folder: Path, task: str, scores: TaskScores) -> SampleTable:
    import pyarrow.compute as pc  # heavy: imported on use

    chosen = [scores.item_ids[i] for i in stable_order(scores.item_ids, salt="tracked")[:SAMPLES]]
    wanted = (pc.field("task") == task) & pc.field("item_id").isin(chosen)
    samples = open_parquet(folder / SAMPLES_FILE)
    batches = (batch.filter(wanted) for batch in samples.batches())
    rows = [row for batch in batches for row in batch.to_pylist()]
    rows.sort(key=lambda row: chosen.index(row["item_id"]))
    metrics = [SCORE_PREFIX + name for name in scores.scores if attribute_kind(name) is None]
    shown = ("item_id", "category", "reference", "prediction", "completion")
    rendered = [folder / row["rendered_image"] if row.get("rendered_image") else None for row in rows]
    images = {"image": [Path(row["image_path"]) if row["image_path"] else None for row in rows]}
    return SampleTable(
        name=f"{task} samples",
        rows=[
            {name: row.get(name) for name in shown} | {key.removeprefix(SCORE_PREFIX): row.get(key) for key in metrics}
            for row in rows
        ],
        images=images | ({"rendered": rendered} if any(rendered) else {}),
    )
