"""The newest things of a run: its last evaluation beside the base model, and its last rollouts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.evaluation_folder import read_evaluation
from grpo_mmpc.evaluation.metric_tables import range_of, table_position
from grpo_mmpc.evaluation.pairing import PairedScores, pair
from grpo_mmpc.evaluation.run_folder import RunFolder, checkpoint_order, finite
from grpo_mmpc.reports.common.labels import attribute_kind, metric_label
from grpo_mmpc.statistics.clustered import mean_interval
from grpo_mmpc.statistics.verdicts import Interval
from grpo_mmpc.utils.parquet import open_parquet

_REWARD, _WEIGHTED = "reward/", "weighted/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One metric of the newest evaluation beside the base model, paired by item."""

    label: str
    before: float
    after: float
    interval: Interval | None
    """The 95% interval of the change, for this metric alone; None with too few items."""

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """The newest evaluation of a run beside its base model."""

    checkpoint: str
    tasks: dict[str, list[Change]]
    """The metrics with a value per item, attributes one by one left out."""
    items: dict[str, int]


def newest_evaluation(run: RunFolder) -> Newest | None:
    """Return the last evaluation of a checkpoint beside that of the base model; None before both.

    Raises:
        EvaluationError: One of them cannot be read, or they cannot be paired.
    """
    checkpoint = run.latest
    if "base" not in run.evaluations or checkpoint is None or checkpoint_order(checkpoint)[0] < 2:
        return None
    before, after = (read_evaluation(run.evaluations[name]) for name in ("base", checkpoint))
    pairs = pair(before=before, after=after)
    return Newest(
        checkpoint=checkpoint,
        tasks={task: _changes(scores) for task, scores in pairs.items()},
        items={task: len(scores.categories) for task, scores in pairs.items()},
    )


def _changes(scores: PairedScores) -> list[Change]:
    before, after = scores.before.scores, scores.after.scores
    names = [name for name in before if name in after and attribute_kind(name) is None]
    groups = scores.before.item_ids if scores.groups is None else scores.groups.tolist()
    changes = []
    for name in sorted(names, key=lambda name: table_position(name, mode=scores.mode)):
        pairs = [(x, y) for x, y in zip(before[name].tolist(), after[name].tolist(), strict=True) if x == x and y == y]
        if not pairs:
            continue
        low, high = range_of(name, mode=scores.mode)
        difference = (after[name] - before[name]).tolist()
        changes.append(
            Change(
                label=metric_label(name),
                before=sum(x for x, _ in pairs) / len(pairs),
                after=sum(y for _, y in pairs) / len(pairs),
                interval=mean_interval(difference, groups, bounds=(low - high, high - low)),
            )
        )
    return changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion of a group, and how many of the group are the same."""

    text: str
    """The prediction; of a malformed completion the completion."""
    is_malformed: bool
    count: int
    reward: float | None
    """The weighted sum; None = unscored."""
    rewards: dict[str, float | None]
    """The raw rewards by name."""
    advantage: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The completions of one prompt, the largest advantage first."""

    step: int
    task: str
    item_id: str
    category: str
    prompt: str | None
    """Its text; None in runs that did not record it."""
    image: Path | None
    """The item's real image, whether or not the prompt shows it."""
    samples: list[Sample]

    @property
    def spread(self) -> float:
        """The largest advantage minus the smallest one."""
        known = [sample.advantage for sample in self.samples if sample.advantage is not None]
        return max(known) - min(known) if known else 0.0


def newest_groups(file: Path) -> list[Group]:
    """Return the groups of a file of rollouts, those of the widest advantages first.

    Raises:
        OSError, pyarrow.ArrowException, KeyError, TypeError: The file cannot be read, or is none.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in open_parquet(file, folder=file.parent.parent).read().to_pylist():
        groups.setdefault(str(row["prompt_id"]), []).append(row)
    return sorted(map(_group, groups.values()), key=lambda group: -group.spread)


def _group(rows: Sequence[Mapping[str, Any]]) -> Group:
    first, counts, samples = rows[0], Counter(str(row["completion"]) for row in rows), {}
    for row in rows:
        text, weighted = row["prediction"], [finite(row[key]) for key in row if key.startswith(_WEIGHTED)]
        known = [value for value in weighted if value is not None]
        samples[str(row["completion"])] = Sample(
            text=str(row["completion"]) if text is None else str(text),
            is_malformed=text is None,
            count=counts[str(row["completion"])],
            reward=sum(known) if known else None,
            rewards={key.removeprefix(_REWARD): finite(row[key]) for key in row if key.startswith(_REWARD)},
            advantage=finite(row["advantage"]),
        )
    return Group(
        step=int(first["step"]),
        task=str(first["task"]),
        item_id=str(first["item_id"]),
        category=str(first["category"]),
        prompt=first.get("prompt"),
        image=Path(first["image_path"]) if first.get("image_path") else None,
        samples=sorted(samples.values(), key=lambda one: -(one.advantage or 0.0)),
    )
