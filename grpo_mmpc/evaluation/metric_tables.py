"""The metrics of each scoring mode by name, and the choice of those that a task is scored by."""

import math
from collections.abc import Collection, Iterable

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.metrics.metric import Metric
from grpo_mmpc.metrics.official.images import PAPER_IMAGE_METRICS
from grpo_mmpc.metrics.official.text import PAPER_METRICS
from grpo_mmpc.metrics.table import METRICS, attribute_exact_metrics, attribute_recall_metrics
from grpo_mmpc.types import TargetKind

METRICS_OF_MODE: dict[str, dict[str, Metric]] = {
    "corrected": METRICS,
    # How many completions can be judged at all is shown in every mode.
    "paper": PAPER_METRICS | PAPER_IMAGE_METRICS | {name: METRICS[name] for name in ("render_rate", "parse_rate")},
}
"""Every metric by name, by mode; see ``attribute_recall_metrics`` for those that depend on the
catalogue."""


def metrics_of(
    target: TargetKind, *, mode: str, attribute_kinds: Iterable[str], chosen: Collection[str] | None = None
) -> dict[str, Metric]:
    """Return the metrics of a kind of answer in the order of the table, recall of facts last.

    Each of ``attribute_kinds``, which the items know, has a recall of its own. ``chosen`` are the
    names wanted, where ``attribute_recall`` and ``attribute_exact`` stand for their kinds too; None
    means all.
    """
    metrics = {name: metric for name, metric in METRICS_OF_MODE[mode].items() if target in metric.targets}
    if "attribute_recall" in metrics:
        metrics |= attribute_recall_metrics(dict.fromkeys(attribute_kinds))
    if "attribute_exact" in metrics:
        metrics |= attribute_exact_metrics(dict.fromkeys(attribute_kinds))
    if chosen is None:
        return metrics
    by_kind = tuple(f"{name}_" for name in ("attribute_recall", "attribute_exact") if name in chosen)
    return {name: metric for name, metric in metrics.items() if name in chosen or name.startswith(by_kind)}


def find_metric(name: str, *, mode: str) -> Metric | None:
    """Return the metric of this name, or the one it is a part of: ``attribute_recall_color``.

    Raises:
        EvaluationError: The mode is unknown to this version.
    """
    table = _table(mode)
    whole = [known for known in table if name == known or name.startswith(f"{known}_")]
    return table[max(whole, key=len)] if whole else None


def range_of(name: str, *, mode: str) -> tuple[float, float]:
    """Return the least and the greatest value of a metric, infinite where it has none.

    Paper mode cuts no values: its BERTScore and LPIPS may leave the range that the table names.
    """
    metric = find_metric(name, mode=mode)
    if metric is None or mode == "paper":
        return -math.inf, math.inf
    return min(metric.worst, metric.best), max(metric.worst, metric.best)


def table_position(name: str, *, mode: str) -> int:
    """Return a metric's position in the table; those it does not list come last."""
    table = _table(mode)
    return list(table).index(name) if name in table else len(table)


def _table(mode: str) -> dict[str, Metric]:
    if mode not in METRICS_OF_MODE:
        raise EvaluationError(
            f"the evaluations were scored in mode {mode!r}, which this version does not know "
            f"({', '.join(METRICS_OF_MODE)}); compare with the version that evaluated"
        )
    return METRICS_OF_MODE[mode]
