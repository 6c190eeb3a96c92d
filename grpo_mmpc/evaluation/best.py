"""The choice of the best checkpoint of a run, on items that the comparison then leaves out."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import TaskScores, read_evaluation
from grpo_mmpc.evaluation.records import Best
from grpo_mmpc.evaluation.run_folder import RunFolder, checkpoint_order
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.utils.files import write_json
from grpo_mmpc.utils.hashing import in_share


def choose_best(run: Path, *, suite: str, metric: str, items: float) -> Best:
    """Choose among the evaluated checkpoints by one metric, ``TASK.METRIC``, on the deciding items.

    Raises:
        EvaluationError: No checkpoint was evaluated, or the metric is unscored.
    """
    task, _, name = metric.partition(".")
    values: dict[str, float] = {}
    num_items = 0
    for folder in _candidates(RunFolder(run, suite=suite)):
        scores = read_evaluation(folder).tasks.get(task)
        if scores is None:
            continue
        rows = [i for i, item_id in enumerate(scores.item_ids) if decides(item_id, items=items)]
        value = _value(scores, name, rows)
        if np.isfinite(value):
            values[folder.parent.name], num_items = value, len(rows)
    if not values:
        raise EvaluationError(f"{run}: no evaluated checkpoint has {metric}, by which evaluation.best chooses")
    sign = 1.0 if name not in METRICS or METRICS[name].higher_is_better else -1.0
    # The earliest of equals: it has drifted least from the base model.
    best = max(values, key=lambda checkpoint: sign * values[checkpoint])
    return Best(checkpoint=best, metric=metric, values=values, num_items=num_items, items=items)


def decides(item_id: str, *, items: float) -> bool:
    """Return whether an item is one of the share that chooses: by hash, the same in every run."""
    return in_share(f"best\0{item_id}", share=items)


def write_best(run: Path, best: Best) -> None:
    """Write ``best.json`` and link ``checkpoints/best`` to the checkpoint, if that was saved."""
    write_json(run / "best.json", asdict(best))
    link, saved = run / "checkpoints" / "best", run / "checkpoints" / best.checkpoint
    link.unlink(missing_ok=True)
    if saved.is_dir():
        link.symlink_to(saved.name)


def _candidates(run: RunFolder) -> list[Path]:
    """Return the evaluated checkpoints in order; the final policy too, unless it is one of them.

    Those that ``save_total_limit`` has deleted are none: nobody could use the best one.
    """
    saved = {path.name for path in (run.path / "checkpoints").glob("checkpoint-*")}
    folders = {
        name: folder
        for name, folder in run.evaluations.items()
        if checkpoint_order(name)[0] >= 2 and (name in saved or name == "final" or not saved)
    }
    policies = {name: run.summary(name).get("policy") for name in folders}
    if policies.get("final") in [policies[name] for name in folders if name != "final"]:
        del folders["final"]
    return list(folders.values())


def _value(scores: TaskScores, name: str, rows: Sequence[int]) -> float:
    if name in scores.scores:
        chosen = scores.scores[name][list(rows)]
        return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")
    aggregate = METRICS[name].aggregate if name in METRICS else None
    if aggregate is None or name not in scores.statistics:
        return float("nan")
    statistics = scores.statistics[name][list(rows)]
    statistics = statistics[np.isfinite(statistics).all(axis=1)]
    return float(aggregate(statistics.sum(axis=0))) if len(statistics) else float("nan")
