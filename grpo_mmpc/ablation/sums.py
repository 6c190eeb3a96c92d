"""Contributions of every item to a metric in every run, by which a whole ablation is resampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import Evaluation, TaskScores
from grpo_mmpc.evaluation.metric_tables import find_metric, table_position
from grpo_mmpc.metrics.metric import Metric
from grpo_mmpc.statistics.verdicts import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSums:
    """Contributions to a metric of the N items that are scored in all K runs."""

    values: Floats
    """``[K, N, C]``."""
    groups: NDArray[np.int64] | None
    """The group of every item, ``[N]``; None where no two of all items hang together."""
    num_items: int
    """Those that are not scored included."""

    @property
    def num_products(self) -> int | None:
        """The number of groups; None where no two items hang together."""
        return None if self.groups is None else len(np.unique(self.groups))


def item_sums(tables: Sequence[TaskScores], name: str) -> ItemSums:
    """Return every item's contribution in every run."""
    columns = [table.statistics[name] if name in table.statistics else table.scores[name][:, None] for table in tables]
    positions = [{item_id: row for row, item_id in enumerate(table.item_ids)} for table in tables]
    shared = [item_id for item_id in tables[0].item_ids if all(item_id in rows for rows in positions)]
    width = min(column.shape[1] for column in columns)
    stacked = np.stack(
        [column[[rows[item_id] for item_id in shared], :width] for column, rows in zip(columns, positions, strict=True)]
    )
    scored = np.isfinite(stacked).all(axis=(0, 2))
    groups = None
    for table, rows in zip(tables, positions, strict=True):
        if groups is None and table.groups is not None:
            groups = table.groups[[rows[item_id] for item_id in shared]][scored]
    return ItemSums(values=stacked[:, scored], groups=groups, num_items=len(shared))


def metrics_of(table: TaskScores, *, mode: str) -> dict[str, Metric]:
    """Return the metrics of a task that have a value per item, in the order of the metric table."""
    names = dict.fromkeys([*table.scores, *table.statistics])
    known = {name: metric for name in names if (metric := find_metric(name, mode=mode)) is not None}
    kept = {name: metric for name, metric in known.items() if metric.of_set is None}
    return dict(sorted(kept.items(), key=lambda item: table_position(item[0], mode=mode)))


def check_alike(evaluations: Sequence[Evaluation]) -> None:
    """Refuse evaluations that were scored in different ways.

    Raises:
        EvaluationError: Two of them differ; says which, and in what.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        for what in ("suite", "version", "mode", "settings"):
            ours, theirs = getattr(first, what), getattr(other, what)
            if ours != theirs:
                raise EvaluationError(
                    f"runs of this ablation were evaluated differently and cannot be compared: {what} is {ours} in "
                    f"{first.folder} and {theirs} in {other.folder}"
                )
