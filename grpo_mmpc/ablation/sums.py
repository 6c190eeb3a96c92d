"""What every item adds to a metric in every run: the form in which a whole ablation can be resampled."""

from collections.abc import Sequence

import numpy as np

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import Evaluation, TaskScores
from grpo_mmpc.evaluation.metric_tables import find_metric, table_position
from grpo_mmpc.metrics.metric import Metric
from grpo_mmpc.statistics.bootstrap import Aggregate
from grpo_mmpc.statistics.verdicts import Floats


def item_sums(tables: Sequence[TaskScores], name: str) -> tuple[Floats, int]:
    """What every item adds in every run, ``[K, N, C]``, for items scored in all of them; and how many items there are."""
    columns = [table.statistics[name] if name in table.statistics else table.scores[name][:, None] for table in tables]
    positions = [{item_id: row for row, item_id in enumerate(table.item_ids)} for table in tables]
    shared = [item_id for item_id in tables[0].item_ids if all(item_id in rows for rows in positions)]
    width = min(column.shape[1] for column in columns)
    stacked = np.stack(
        [column[[rows[item_id] for item_id in shared], :width] for column, rows in zip(columns, positions, strict=True)]
    )
    scored = np.isfinite(stacked).all(axis=(0, 2))
    return stacked[:, scored], len(shared)


def metrics_of(table: TaskScores, task: str, *, mode: str) -> dict[str, Metric]:
    """Metrics of a task that have a value per item, in the order of the metric table."""
    names = dict.fromkeys([*table.scores, *table.statistics])
    known = {name: metric for name in names if (metric := find_metric(name, mode=mode)) is not None}
    found = {name: metric for name, metric in known.items() if task in metric.tasks and metric.of_set is None}
    return dict(sorted(found.items(), key=lambda item: table_position(item[0], mode=mode)))


def aggregate_of(metric: Metric) -> Aggregate:
    """Column sums and number of items to values: a mean, unless the metric is one of the whole corpus."""
    if metric.aggregate is None:
        return lambda sums, count: sums[..., 0] / count
    aggregate = metric.aggregate
    return lambda sums, _: np.asarray(aggregate(sums), dtype=np.float64)


def check_alike(evaluations: Sequence[Evaluation]) -> None:
    """Refuse evaluations that were scored in different ways.

    Raises:
        EvaluationError: Which two, and in what they differ.
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
