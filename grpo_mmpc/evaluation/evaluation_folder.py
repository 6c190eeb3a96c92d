"""The files of one evaluation, ``RUN/evaluations/CHECKPOINT/SUITE``, written and read."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.statistics.verdicts import Floats
from grpo_mmpc.utils.files import read_object, read_own, replace_atomically, without_nan, write_json
from grpo_mmpc.utils.parquet import ParquetTable, open_parquet
from grpo_mmpc.utils.sections import section

SAMPLES_FILE = "samples.parquet"
SUMMARY_FILE = "summary.json"
SCORE_PREFIX = "score/"
STATISTICS_PREFIX = "stat/"
FURTHER = "more_references"
"""Column of further true texts, where any item has some."""
_NEEDED = ("task", "item_id", "category")
_TEXTS = (
    *_NEEDED,
    *("reference", "prediction", "completion", "format", "attributes", "group", "image_path", "rendered_image"),
)
_HEADLINE_METRICS = ("bleu", "bertscore_f1", "clip_image_image", "parse_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """Every score of one task in one evaluation."""

    item_ids: list[str]
    """N identifiers, unique."""
    categories: list[str]
    scores: Mapping[str, Floats]
    """Item-level metrics by name, ``[N]``; NaN = unscored."""
    statistics: Mapping[str, Floats]
    """Sufficient statistics of corpus-level metrics by name, ``[N, S]``; a row of NaN =
    unscored."""
    groups: NDArray[np.int64] | None = None
    """The group of every item, ``[N]``: items that hang together; None where none do."""
    summary: Mapping[str, Any]
    """The task's part of ``summary.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluated checkpoint."""

    folder: Path
    suite: str
    version: str
    mode: str
    """``corrected`` or ``paper``."""
    settings: Mapping[str, Any]
    """Encoders and renderer; empty where they were not recorded."""
    checkpoint: str
    tasks: Mapping[str, TaskScores]


def find_evaluation(path: Path) -> Path:
    """Return the folder with ``samples.parquet``: ``path`` or its only sub-folder that has it.

    Raises:
        EvaluationError: There is none, or more than one.
    """
    if (path / SAMPLES_FILE).is_file():
        return path
    folders = sorted(file.parent for file in path.glob(f"*/{SAMPLES_FILE}")) if path.is_dir() else []
    if len(folders) == 1:
        return folders[0]
    if folders:
        names = ", ".join(folder.name for folder in folders)
        raise EvaluationError(f"{path} holds {len(folders)} evaluations ({names}); name one, for instance {folders[0]}")
    raise EvaluationError(
        f"{path} holds no evaluation: expected {SAMPLES_FILE} and {SUMMARY_FILE} there, "
        "as in RUN/evaluations/CHECKPOINT/SUITE; `grpo-mmpc evaluate` writes them"
    )


def read_evaluation(folder: Path, *, group_by: str | None = None) -> Evaluation:
    """Read ``summary.json`` and the scores of ``samples.parquet``.

    Items with the same value of the attribute ``group_by`` are one group, besides those that the
    evaluation knows to hang together.

    Raises:
        EvaluationError: A file is missing or unreadable, or an item appears twice in a task.
    """
    summary = read_summary(folder)
    return Evaluation(
        folder=folder,
        suite=str(summary["suite"]),
        version=str(summary["version"]),
        mode=str(summary.get("mode", "corrected")),
        settings=section(summary, "settings"),
        # Where it lies comes first: a run copies its last checkpoint's evaluation to ``final``,
        # summary and all.
        checkpoint=folder.resolve().parent.name if run_of(folder) else str(summary.get("checkpoint") or folder.name),
        tasks=_read_scores(folder / SAMPLES_FILE, section(summary, "tasks"), group_by),
    )


def check_columns(path: Path, schema: Any) -> None:
    """Refuse samples that lack a column of every evaluation, or hold something else in one.

    Raises:
        EvaluationError: Names the file, the column and what it holds.
    """
    # heavy: imported on use
    import pyarrow as pa
    import pyarrow.types as kinds

    problems = [f"has no column {name}" for name in _NEEDED if name not in schema.names]
    for name, kind in zip(schema.names, schema.types, strict=True):
        is_text = kinds.is_string(kind) or kinds.is_large_string(kind)
        is_number = kinds.is_floating(kind) or kinds.is_integer(kind)
        is_right = {"text": is_text, "numbers": is_number, "lists of texts": kind == pa.list_(pa.string())}
        by_name = {name in _TEXTS: "text", name.startswith(SCORE_PREFIX): "numbers", name == FURTHER: "lists of texts"}
        expected = by_name.get(True)
        if expected and not (kinds.is_null(kind) or is_right[expected]):
            problems.append(f"holds {kind} in the column {name}, expected {expected}")
    if problems:
        raise EvaluationError(f"{path} {', '.join(problems)}; run the evaluation again")


def check_unique(path: Path, item_ids: Sequence[str | None], *, task: str) -> None:
    """Refuse an item that an evaluation names twice, or not at all.

    Raises:
        EvaluationError: Names the item.
    """
    if len(set(item_ids)) < len(item_ids) or None in item_ids:
        twice = next((name for name, count in Counter(item_ids).items() if count > 1), None)
        raise EvaluationError(f"{path}: item {twice!r} appears more than once in {task}; items must be unique")


def read_attributes(text: str | None, *, path: Path) -> dict[str, Any]:
    """Return the known facts of a sample.

    Raises:
        EvaluationError: They are no JSON object.
    """
    try:
        attributes = json.loads(text or "{}")
    except (ValueError, RecursionError):
        attributes = None
    if not isinstance(attributes, dict):
        raise EvaluationError(
            f"{path}: attributes hold {(text or '')[:60]!r}, no JSON object; run the evaluation again"
        )
    return attributes


def finished(folder: Path, *, key: str, policy: str) -> bool:
    """Return whether the suite of this key was already run into the folder on this policy."""
    summary = read_object(folder / SUMMARY_FILE)  # empty: evaluated again, its completions are kept
    return (summary.get("key"), summary.get("policy")) == (key, policy) and (folder / SAMPLES_FILE).is_file()


def headline(folder: Path) -> str:
    """Return one metric or two per task out of the summary, in words."""
    parts = []
    for task, result in read_summary(folder)["tasks"].items():
        means = {name: result["metrics"].get(name, {}).get("mean") for name in _HEADLINE_METRICS}
        values = [f"{name} {mean:.3f}" for name, mean in means.items() if mean is not None]
        parts.append(f"{task}: {', '.join(values)}")
    return "; ".join(parts)


def write_evaluation(folder: Path, summary: Mapping[str, Any], samples: Sequence[Mapping[str, list[Any]]]) -> None:
    """Write ``samples.parquet``, a table per task, then ``summary.json``, which says finished."""
    # heavy: imported on use
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    # An older summary must not stand beside newer samples, whenever this is killed.
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    types = dict.fromkeys(
        ("completion", "format", "group", "image_path", "prediction", "reference", "rendered_image"), pa.string()
    )
    tables = [
        pa.table(
            {
                name: pa.array(
                    column, pa.float64() if name.startswith(SCORE_PREFIX) else types.get(name), from_pandas=False
                )
                for name, column in table.items()
            }
        )
        for table in samples
    ]
    with replace_atomically(folder / SAMPLES_FILE) as temporary:
        pq.write_table(pa.concat_tables(tables, promote_options="default"), temporary)
    write_json(folder / SUMMARY_FILE, without_nan(summary), indent=2)


def run_of(evaluation: Path) -> Path | None:
    """Return RUN of ``RUN/evaluations/CHECKPOINT/SUITE``; None of one that lies elsewhere."""
    evaluations = evaluation.resolve().parent.parent
    return evaluations.parent if evaluations.name == "evaluations" else None


def read_summary(folder: Path) -> dict[str, Any]:
    """Read ``summary.json``.

    Raises:
        EvaluationError: It is missing, or no summary.
    """
    path = folder / SUMMARY_FILE
    try:
        summary = json.loads(read_own(path, folder=folder))
    except FileNotFoundError:
        raise EvaluationError(f"{path} is missing; was the evaluation interrupted? Run it again") from None
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not valid JSON ({error}); run the evaluation again") from error
    if not isinstance(summary, dict) or not {"suite", "version"} <= set(summary):
        raise EvaluationError(f"{path} must be an object with the keys suite and version; run the evaluation again")
    return summary


def _read_scores(path: Path, summaries: Mapping[str, Any], group_by: str | None) -> dict[str, TaskScores]:
    import pyarrow as pa  # heavy: imported on use

    try:
        table = open_parquet(path)
        check_columns(path, table.schema)
        scores = _scores_by_task(table, path, summaries, group_by)
    except FileNotFoundError:
        raise EvaluationError(f"{path} is missing; was the evaluation interrupted? Run it again") from None
    except (pa.ArrowException, OSError, ValueError) as error:  # lists of different lengths in one column
        raise EvaluationError(f"{path} cannot be read ({error}); run the evaluation again") from error
    pa.default_memory_pool().release_unused()
    return scores


def _scores_by_task(
    table: ParquetTable, path: Path, summaries: Mapping[str, Any], group_by: str | None
) -> dict[str, TaskScores]:
    """Read scores column by column: the whole table would take as much memory again."""

    def column(name: str) -> Any:
        return table.read([name]).column(name)

    def names(rows: NDArray[np.int64]) -> list[str | None]:
        known = table.schema.names
        groups = column("group").take(rows).to_pylist() if "group" in known else [None] * len(rows)
        if group_by is not None and "attributes" in known:
            cells = column("attributes").take(rows).to_pylist()
            values = [read_attributes(text, path=path).get(group_by) for text in cells]
            groups = [g if value is None else f"\0{value}" for g, value in zip(groups, values, strict=True)]
        return groups

    all_tasks = np.array(column("task").to_pylist(), dtype=object)
    scores = {}
    for task in dict.fromkeys(all_tasks):
        rows = np.flatnonzero(all_tasks == task)
        item_ids = column("item_id").take(rows).to_pylist()
        check_unique(path, item_ids, task=task)
        # All tasks share one table: a task's rows have empty columns for metrics of the others. Its
        # summary names its own.
        own = section(summaries, str(task)).get("metrics")
        columns = [
            name
            for name in table.schema.names
            if not own or name.removeprefix(SCORE_PREFIX).removeprefix(STATISTICS_PREFIX) in own
        ]
        corpus_level = {
            name.removeprefix(STATISTICS_PREFIX): _statistics(column(name).take(rows))
            for name in columns
            if name.startswith(STATISTICS_PREFIX)
        }
        # A metric with sufficient statistics is left to those.
        item_level = {
            metric: column(name).take(rows).to_numpy().astype(np.float64)  # null becomes NaN
            for name in columns
            if name.startswith(SCORE_PREFIX) and (metric := name.removeprefix(SCORE_PREFIX)) not in corpus_level
        }
        scores[str(task)] = TaskScores(
            item_ids=item_ids,
            categories=[sys.intern(str(value)) for value in column("category").take(rows).to_pylist()],
            scores=item_level,
            statistics={metric: values for metric, values in corpus_level.items() if values is not None},
            groups=_groups(names(rows), path=path, group_by=group_by),
            summary=section(summaries, str(task)),
        )
    return scores


def _groups(names: Sequence[str | None], *, path: Path, group_by: str | None) -> NDArray[np.int64] | None:
    if group_by is not None and not any(name and name.startswith("\0") for name in names):
        raise EvaluationError(f"{path}: no item has the attribute {group_by!r} to group by; name one that items have")
    known: dict[str, int] = {}
    groups = [len(names) + i if name is None else known.setdefault(name, i) for i, name in enumerate(names)]
    return None if len(set(groups)) == len(groups) else np.array(groups)


def _statistics(lists: Any) -> Floats | None:
    """Return statistics ``[N, S]``, a row of NaN = unscored; None where all are."""
    scored = lists.is_valid().to_numpy()
    if not scored.any():
        return None
    values = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    statistics = np.full((len(scored), len(values) // np.count_nonzero(scored)), np.nan)
    statistics[scored] = values.reshape(-1, statistics.shape[1])
    return statistics
