"""Replays the saved rollouts of a run under another reward mix: same completions, new rewards, new advantages."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from grpo_mmpc.analysis.replay.agreement import GroupPair, winners
from grpo_mmpc.analysis.replay.checks import SelfCheck, shared_rewards
from grpo_mmpc.analysis.replay.columns import RewardColumns
from grpo_mmpc.analysis.replay.examples import Contender, Example, Examples
from grpo_mmpc.analysis.replay.files import RolloutWriter
from grpo_mmpc.analysis.replay.judgement import Judgement, judge_again, judge_recorded
from grpo_mmpc.analysis.replay.rollouts import RolloutBatch, read_batches, rollout_files
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.evaluation.run_data import RunData
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.rewards import RewardMix
from grpo_mmpc.utils.console import Progress

T = TypeVar("T")
_NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of it."""

    groups: Sequence[GroupPair]
    old_shares: Mapping[str, float]
    """By reward, its share of the variance of the advantages, mean over batches."""
    new_shares: Mapping[str, float]
    check: SelfCheck
    gone: Mapping[str, int]
    """Completions by item that the catalogue no longer has; they are in no number above."""
    unscored: Mapping[str, int]
    """Completions by reward of the new mix that it should have scored and could not."""
    catalogue_changed: bool
    """Its fingerprint is not the one the run recorded."""
    examples: Sequence[Example]


def replay(run: Path, *, old: RunConfig, new: RunConfig, out: Path, progress: Progress) -> Replay:
    """Score every saved completion under the new mix.

    Args:
        run: Run folder.
        old: The run's own configuration.
        new: The same with another ``rewards`` section.
        out: Folder that receives ``rollouts.parquet``.
        progress: Told about every batch.

    Raises:
        EvaluationError: No rollouts, or a file that cannot be read.
        CatalogueError: The catalogue is not there, or has none of the items.
        RewardError: A reward cannot be built, or fails.
    """
    files = rollout_files(run)
    data = RunData(new)
    replaying = _Replaying(old, new, RewardColumns(data.catalogue))
    with closing(replaying), RolloutWriter(out, rewards=replaying.rewards) as writer:
        replaying.fit([title for title in data.catalogue.items.select(data.train)["title"] if title])
        for done, batch in enumerate(read_batches(files)):
            progress("batches scored", done, len(files))
            replaying.take(batch, writer)
        progress("batches scored", len(files), len(files))
        recorded = RunFolder(run, notes=[]).catalogue_fingerprint
        return replaying.outcome(catalogue_changed=recorded not in (None, data.catalogue.fingerprint))


class _Replaying:
    """Takes batches in the order they were made: running transforms depend on it."""

    def __init__(self, old: RunConfig, new: RunConfig, columns: RewardColumns) -> None:
        self._old, self._new, self._columns = old, new, columns
        self._old_mix = RewardMix.of_recorded(old.rewards.mix)
        self._new_mix = _mix(new)
        self._shared = shared_rewards(old.rewards.mix, new.rewards.mix)
        self._groups: list[GroupPair] = []
        self._shares: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
        self._check = SelfCheck()
        self._gone: Counter[str] = Counter()
        self._unscored: Counter[str] = Counter()
        self._examples = Examples(limit=_NUM_EXAMPLES)

    @property
    def rewards(self) -> list[str]:
        return [reward.name for reward in self._new_mix.rewards]

    def fit(self, titles: Sequence[str]) -> None:
        self._new_mix.fit(titles)

    def close(self) -> None:
        self._new_mix.close()

    def take(self, batch: RolloutBatch, writer: RolloutWriter) -> None:
        """Judge a batch again, add what that says, write it."""
        old = judge_recorded(batch, mix=self._old_mix, config=self._old)
        self._check.advantages.take(batch.advantages, old.advantages)
        known = self._columns.known(batch.columns["item_id"])
        kept = [i for i, is_known in enumerate(known) if is_known]
        self._gone.update(batch.columns["item_id"][i] for i, is_known in enumerate(known) if not is_known)
        if not kept:
            nothing: list[None] = [None] * len(batch)
            writer.write(batch, references=nothing, raw=dict.fromkeys(self.rewards, nothing), advantages=nothing)
            return
        columns = self._columns.of(*(_pick(batch.columns[name], kept) for name in ("item_id", "task")))
        new = judge_again(
            _pick(batch.columns["completion"], kept), columns, step=batch.step, mix=self._new_mix, config=self._new
        )
        for name in self._shared:
            self._check.rewards[name].take(_pick(batch.raw[name], kept), new.raw[name])
        self._shares["old"].append(old.shares)
        self._shares["new"].append(new.shares)
        self._count_unscored(new, columns["task"])
        self._compare(batch, kept, columns["title"], old=old, new=new)
        writer.write(
            batch,
            references=_spread(columns["reference"], kept, len(batch)),
            raw={name: _spread(values, kept, len(batch)) for name, values in new.raw.items()},
            advantages=_spread(new.advantages, kept, len(batch)),
        )

    def outcome(self, *, catalogue_changed: bool) -> Replay:
        """The sum of all batches."""
        if not self._groups:
            raise CatalogueError(
                f"none of the {len(self._gone)} items of the rollouts is in {self._new.data.catalogue} with title and "
                "image; name the catalogue that the run was made with: data.catalogue=DIR"
            )
        return Replay(
            groups=self._groups,
            old_shares=_means(self._shares["old"]),
            new_shares=_means(self._shares["new"]),
            check=self._check,
            gone=self._gone,
            unscored=self._unscored,
            catalogue_changed=catalogue_changed,
            examples=self._examples.clearest(),
        )

    def _count_unscored(self, new: Judgement, tasks: Sequence[str]) -> None:
        for reward in self._new_mix.rewards:
            values = zip(new.raw[reward.name], tasks, strict=True)
            self._unscored[reward.name] += sum(value is None and task in reward.tasks for value, task in values)

    def _compare(
        self, batch: RolloutBatch, kept: Sequence[int], titles: Sequence[str], *, old: Judgement, new: Judgement
    ) -> None:
        """Put the groups of a batch side by side."""
        rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for position, i in enumerate(kept):
            rows[batch.columns["prompt_id"][i]].append((i, position))
        for prompt_id, pairs in rows.items():
            # What the trainer used, rather than what we make of its rewards, unless it is the noise
            # of a dead group.
            was = [0.0 if prompt_id in old.dead else batch.advantages[i] for i, _ in pairs]
            would = [0.0 if prompt_id in new.dead else new.advantages[position] for _, position in pairs]
            group = GroupPair(
                step=batch.step, old=was, new=would, old_dead=prompt_id in old.dead, new_dead=prompt_id in new.dead
            )
            self._groups.append(group)
            if group.old_dead or group.new_dead or winners(was) & winners(would):
                continue
            first, second = (
                Contender(
                    text=batch.columns["prediction"][i] or batch.columns["completion"][i],
                    old_advantage=was[member],
                    new_advantage=would[member],
                    rewards={name: values[position] for name, values in new.raw.items()},
                    old_rewards={name: values[i] for name, values in batch.raw.items()},
                )
                for member in (min(winners(was)), min(winners(would)))
                for i, position in (pairs[member],)
            )
            title = titles[pairs[0][1]]
            self._examples.offer(
                Example(step=batch.step, prompt_id=prompt_id, title=title, old_winner=first, new_winner=second)
            )


def _mix(config: RunConfig) -> RewardMix:
    return RewardMix.from_specs(
        config.rewards.mix, on_error=config.rewards.on_error, time_limit=config.rewards.time_limit
    )


def _pick(values: Sequence[T], positions: Sequence[int]) -> list[T]:
    return [values[i] for i in positions]


def _spread(values: Sequence[T], positions: Sequence[int], count: int) -> list[T | None]:
    """The reverse of ``_pick``: values at their positions among ``count``, None elsewhere."""
    found: list[T | None] = [None] * count
    for i, value in zip(positions, values, strict=True):
        found[i] = value
    return found


def _means(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean share of each reward over the batches in which any advantage differs from 0."""
    told = [batch for batch in shares if batch]
    names = dict.fromkeys(name for batch in told for name in batch)
    return {name: fmean(batch.get(name, 0.0) for batch in told) for name in names}
