"""Items where mixes differ, chosen by rule."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.ablation.comparison import AblationComparison, MetricRow
from grpo_mmpc.ablation.results import Results
from grpo_mmpc.ablation.spec import BASE
from grpo_mmpc.evaluation.evaluation_folder import SAMPLES_FILE, SCORE_PREFIX
from grpo_mmpc.reports.common.labels import metric_label
from grpo_mmpc.reports.run.gallery import Answer

_PER_GROUP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One item and what every mix made of it."""

    item_id: str
    category: str
    reference: str | None
    image: Path | None
    answers: Mapping[str, Answer]
    """By mix, the untrained model first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleGroup:
    """Items that were chosen by one rule."""

    title: str
    items: list[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What the page shows."""

    metric: str
    task: str
    seed: int
    groups: list[ExampleGroup]


def examples(comparison: AblationComparison, results: Results, *, preferred: Sequence[str] | None) -> Examples | None:
    """Where mixes differ most in one metric, and where the best of them gains and loses most against the reference.

    The metric is one that no mix was trained on, of ``preferred`` if possible; the seed is the
    first that all mixes have.
    """
    row = _lead_row(comparison, preferred)
    seeds = [seed for seed in comparison.seeds if all(seed in cell.by_seed for cell in row.cells)] if row else []
    if row is None or not seeds:
        return None
    items = _items(row, results, comparison.mixes, seed=seeds[0])
    sign = 1 if row.higher_is_better else -1
    others = [cell for cell in row.cells if cell.mix != comparison.reference and cell.level is not None]
    groups: list[ExampleGroup] = []
    taken: set[str] = set()

    def add(title: str, value: Callable[[Example], float]) -> None:
        left = [item for item in items if item.item_id not in taken and value(item) > 0]
        chosen = _spread(sorted(left, key=lambda item: (-value(item), item.item_id)))
        taken.update(item.item_id for item in chosen)
        if chosen:
            groups.append(ExampleGroup(title=title, items=chosen))

    mixes = comparison.mixes
    add("Where mixes differ most", lambda item: _range([item.answers[mix].score for mix in mixes]))
    if others:
        best = max(others, key=lambda cell: sign * (cell.level.value if cell.level else 0.0)).mix
        against = comparison.reference
        if against in {BASE, *mixes} and all(against in item.answers for item in items):
            name = "the model before training" if against == BASE else against

            def gain(item: Example) -> float:
                return sign * (item.answers[best].score - item.answers[against].score)

            add(f"Where {best} gains most over {name}", gain)
            add(f"Where {best} loses most against {name}", lambda item: -gain(item))
    return Examples(metric=metric_label(row.metric), task=row.task, seed=seeds[0], groups=groups) if groups else None


def _lead_row(comparison: AblationComparison, preferred: Sequence[str] | None) -> MetricRow | None:
    """The metric whose items spread most say little; a metric with fine steps shows more than one of yes and no."""
    rows = [row for row in comparison.rows if row.n_scored and any(cell.level for cell in row.cells)]
    wanted = [row for row in rows if row.name in (preferred or ())]
    graded = [row for row in rows if not row.metric.startswith(("attribute_recall_", "parse_rate", "render_rate"))]
    for candidates in (
        [row for row in graded if not row.trained_by],
        [row for row in wanted if row in graded],
        graded,
        rows,
    ):
        if candidates:
            return candidates[0]
    return None


def _items(row: MetricRow, results: Results, mixes: Sequence[str], *, seed: int) -> list[Example]:
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    folders: dict[str, Path] = {}
    base = next(iter(results.base.values()), None)
    if base is not None:
        folders[BASE] = base.folder
    for mix in mixes:
        folders[mix] = next(run for run in results.of(mix) if run.seed == seed).evaluation.folder
    for mix, folder in folders.items():
        tables[mix] = _rows(folder / SAMPLES_FILE, row)
    found = []
    for item_id, first in next(iter(tables.values())).items():
        rows = {mix: table.get(item_id) for mix, table in tables.items()}
        if any(other is None or other["score"] is None or other["score"] != other["score"] for other in rows.values()):
            continue
        found.append(
            Example(
                item_id=item_id,
                category=str(first["category"]),
                reference=first["reference"],
                image=Path(first["image_path"]) if first["image_path"] else None,
                answers={mix: _answer(other, folders[mix]) for mix, other in rows.items() if other is not None},
            )
        )
    return found


def _rows(path: Path, row: MetricRow) -> dict[str, dict[str, Any]]:
    import pyarrow.parquet as pq  # heavy: imported on use

    texts = ["item_id", "category", "task", "reference", "image_path", "completion", "prediction", "rendered_image"]
    table = pq.read_table(path, columns=[*texts, SCORE_PREFIX + row.metric], filters=[("task", "=", row.task)])
    return {entry["item_id"]: entry | {"score": entry[SCORE_PREFIX + row.metric]} for entry in table.to_pylist()}


def _answer(row: Mapping[str, Any], folder: Path) -> Answer:
    return Answer(
        prediction=row["prediction"],
        completion=str(row["completion"] or ""),
        score=float(row["score"]),
        rendered=folder / row["rendered_image"] if row["rendered_image"] else None,
    )


def _spread(ordered: Sequence[Example]) -> list[Example]:
    """The first few, two of a category at most where there are others."""
    seen: Counter[str] = Counter()
    chosen: list[Example] = []
    for item in ordered:
        if len(chosen) < _PER_GROUP and seen[item.category] < 2:
            seen[item.category] += 1
            chosen.append(item)
    return chosen


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values)
