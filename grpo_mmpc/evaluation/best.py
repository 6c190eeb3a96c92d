"""Which checkpoint of a run is the best one, chosen on items that the comparison then leaves out."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.checkpoints import checkpoint_order
from grpo_mmpc.evaluation.pairing import SUMMARY_FILE, TaskScores, read_evaluation
from grpo_mmpc.evaluation.records import Best
from grpo_mmpc.metrics.table import METRICS

FILE = "best.json"


def choose_best(run: Path, *, suite: str, metric: str, items: float) -> Best:
    """Choose among the evaluated checkpoints by one metric on the deciding items.

    Choosing the best of several noisy values and then reporting that value flatters it; the other
    items know nothing of the choice.

    Args:
        run: Run folder.
        suite: Name of the suite.
        metric: ``TASK.METRIC``.
        items: Share of the items that decide.

    Raises:
        EvaluationError: No checkpoint was evaluated, or the metric is unscored.
    """
    task, _, name = metric.partition(".")
    values: dict[str, float] = {}
    num_items = 0
    for folder in _candidates(run, suite):
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
    """Whether an item is one of the share that chooses: by hash, the same in every run."""
    digest = hashlib.blake2b(f"best\0{item_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < items * 2**64


def write_best(run: Path, best: Best) -> None:
    """Write ``best.json`` and link ``checkpoints/best`` to the checkpoint, if that was saved."""
    (run / FILE).write_text(json.dumps(asdict(best), indent=1) + "\n", encoding="utf-8")
    link, saved = run / "checkpoints" / "best", run / "checkpoints" / best.checkpoint
    link.unlink(missing_ok=True)
    if saved.is_dir():
        link.symlink_to(saved.name)


def read_best(run: Path) -> Best | None:
    """What ``write_best`` wrote; None where nothing was chosen.

    Raises:
        EvaluationError: The file is broken.
    """
    try:
        return Best(**json.loads((run / FILE).read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise EvaluationError(
            f"{run / FILE} cannot be read ({error}); remove it to report the last checkpoint"
        ) from error


def _candidates(run: Path, suite: str) -> list[Path]:
    """Evaluated checkpoints in order; the final policy too, unless it is one of them."""
    folders = [path.parent for path in (run / "evaluations").glob(f"*/{suite}/{SUMMARY_FILE}")]
    folders = [folder for folder in folders if checkpoint_order(folder.parent.name)[0] >= 2]
    policies = {folder: _policy(folder) for folder in folders}
    numbered = {policies[folder] for folder in folders if folder.parent.name != "final"}
    kept = [f for f in folders if f.parent.name != "final" or policies[f] not in numbered]
    return sorted(kept, key=lambda folder: checkpoint_order(folder.parent.name))


def _policy(folder: Path) -> object:
    return json.loads((folder / SUMMARY_FILE).read_text("utf-8")).get("policy")


def _value(scores: TaskScores, name: str, rows: Sequence[int]) -> float:
    """A metric's value on some items; NaN where it is not there or not scored."""
    if name in scores.scores:
        chosen = scores.scores[name][list(rows)]
        return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")
    aggregate = METRICS[name].aggregate if name in METRICS else None
    if aggregate is None or name not in scores.statistics:
        return float("nan")
    statistics = scores.statistics[name][list(rows)]
    statistics = statistics[np.isfinite(statistics).all(axis=1)]
    return float(aggregate(statistics.sum(axis=0))) if len(statistics) else float("nan")
