"""The replay of a run's saved rollouts under another reward mix: new rewards, new advantages."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from grpo_mmpc.analysis.replay.agreement import GroupPair, winners
from grpo_mmpc.analysis.replay.result import Contender, Example, Replay, mix_key
from grpo_mmpc.analysis.replay.rollouts import RolloutBatch, WriteRollouts, read_batches, writing_rollouts
from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RewardSpec, RunConfig
from grpo_mmpc.errors import CatalogueError, EvaluationError
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.rewards import RewardMix, advantages, neutral
from grpo_mmpc.rewards.columns import RowReader
from grpo_mmpc.rewards.signals import signals, zero_variance_groups
from grpo_mmpc.utils.console import Progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """The rewards and advantages of a generation batch under one mix."""

    raw: Mapping[str, Sequence[float | None]]
    """By reward; None = unscored."""
    advantages: list[float]
    dead: set[str]
    """Prompts of zero-variance groups, which teach nothing."""
    shares: dict[str, float]
    """By trained reward, its share of the variance of the advantages, as ``metrics.jsonl`` logs
    it."""


def replay(run: Path, *, name: str, old: RunConfig, new: RunConfig, out: Path, progress: Progress) -> Replay:
    """Score every saved completion under the new mix, and write both files into ``out``.

    ``name`` is that of the new mix; ``old`` is the run's own configuration and ``new`` the same
    with another ``rewards`` section, and ``tasks`` where the mix says which to train: completions
    of others are left out. The files are ``rollouts.parquet`` and ``summary.json``.

    Raises:
        EvaluationError: No rollouts, none of a task to train, or a file that cannot be read.
        CatalogueError: The catalogue is not there, or has none of the items.
        RewardError: A reward cannot be built, or fails.
    """
    folder = RunFolder(run, notes=[])
    files = folder.rollout_files
    if not files:
        raise EvaluationError(
            f"{run / 'rollouts'} holds no step-*.parquet: the run has not finished its first step, or its "
            "rollouts were deleted; there is nothing to score again"
        )
    data = RunData(new)
    mix = RewardMix.from_specs(
        new.rewards.mix,
        on_error=new.rewards.on_error,
        time_limit=new.rewards.time_limit,
        known_tasks=new.known_tasks,
    )
    result = Replay(run=str(run), name=name, key=mix_key(new), old=old.rewards, new=new.rewards)
    result.catalogue_changed = folder.catalogue_fingerprint not in (None, data.catalogue.fingerprint)
    columns = RowReader(data.catalogue, known_tasks=new.known_tasks)
    with closing(mix), writing_rollouts(out, rewards=list(mix.weights)) as write:
        mix.fit(data.training_texts, images=data.training_images)
        for done, batch in enumerate(read_batches(files)):
            progress("batches scored", done, len(files))
            _take(batch, result, columns=columns, mix=mix, old=old, new=new, write=write)
        progress("batches scored", len(files), len(files))
        if not result.groups and not result.gone:
            raise EvaluationError(
                f"the rollouts of {run} are of {', '.join(result.untrained)} and the new recipe trains "
                f"{', '.join(new.tasks)}: there is nothing to score; give tasks=[...] behind --mix"
            )
        if not result.groups:
            raise CatalogueError(
                f"none of the {len(result.gone)} items of the rollouts is in {new.data.catalogue} with title and "
                "image; name the catalogue that the run was made with: data.catalogue=DIR"
            )
    result.write(out)
    return result


def _take(
    batch: RolloutBatch,
    result: Replay,
    *,
    columns: RowReader,
    mix: RewardMix,
    old: RunConfig,
    new: RunConfig,
    write: WriteRollouts,
) -> None:
    before = _recorded(batch, config=old)
    result.own_advantages.take(batch.advantages, before.advantages)
    items, tasks = batch.columns["item_id"], batch.columns["task"]
    trained = [i for i, task in enumerate(tasks) if task in new.tasks]
    result.untrained.update(task for task in tasks if task not in new.tasks)
    known = columns.known(_pick(items, trained), _pick(tasks, trained))
    kept = [i for i, is_known in zip(trained, known, strict=True) if is_known]
    result.gone.update(items[i] for i, is_known in zip(trained, known, strict=True) if not is_known)
    if not kept:
        nothing: list[None] = [None] * len(batch)
        write(batch, nothing, dict.fromkeys(mix.weights, nothing), nothing)
        return
    rows = columns.of(*(_pick(batch.columns[name], kept) for name in ("item_id", "task")))
    raw = mix.score(completions=_pick(batch.columns["completion"], kept), **rows).raw
    after = _outcome(raw, rows["prompt_id"], weights=mix.weights, config=new)
    for name in _shared(old.rewards.mix, new.rewards.mix):
        result.own_rewards[name].take(_pick(batch.raw[name], kept), after.raw[name])
    result.old_shares.append(before.shares)
    result.new_shares.append(after.shares)
    for reward in mix.rewards:
        values = zip(after.raw[reward.name], rows["task"], strict=True)
        result.unscored[reward.name] += sum(value is None and task in reward.tasks for value, task in values)
    _compare(batch, kept, rows["title"], result, old=before, new=after)
    write(
        batch,
        _spread(rows["reference"], kept, len(batch)),
        {name: _spread(values, kept, len(batch)) for name, values in after.raw.items()},
        _spread(after.advantages, kept, len(batch)),
    )


def _compare(
    batch: RolloutBatch, kept: Sequence[int], titles: Sequence[str], result: Replay, *, old: _Outcome, new: _Outcome
) -> None:
    """Pair the groups of a batch, and keep those whose winner changes as examples."""
    rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for position, i in enumerate(kept):
        rows[batch.columns["prompt_id"][i]].append((i, position))
    for prompt_id, pairs in rows.items():
        # The advantages that the trainer used, rather than those recomputed from its rewards,
        # unless they are the noise of a zero-variance group.
        was = [0.0 if prompt_id in old.dead else batch.advantages[i] for i, _ in pairs]
        would = [0.0 if prompt_id in new.dead else new.advantages[position] for _, position in pairs]
        group = GroupPair(
            step=batch.step, old=was, new=would, old_dead=prompt_id in old.dead, new_dead=prompt_id in new.dead
        )
        result.groups.append(group)
        if group.old_dead or group.new_dead or winners(was) & winners(would):
            continue
        old_winner, new_winner = (
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
        result.offer(
            Example(step=batch.step, prompt_id=prompt_id, title=title, old_winner=old_winner, new_winner=new_winner)
        )


def _recorded(batch: RolloutBatch, *, config: RunConfig) -> _Outcome:
    """Return the outcome under the run's own mix, from the raw rewards that it recorded.

    Nothing is scored: a reward of the run may be gone since, or need an encoder that is not here.
    """
    weights = config.rewards.weights
    missing = [name for name in weights if name not in batch.raw]
    if missing:
        raise EvaluationError(
            f"{batch.file} holds no reward/{missing[0]}, which config.yaml names: the recorded rollouts do not match "
            "config.yaml. Give the folder of one whole run"
        )
    raw = {name: batch.raw[name] for name in weights}
    return _outcome(raw, batch.columns["prompt_id"], weights=weights, config=config)


def _outcome(
    raw: Mapping[str, Sequence[float | None]],
    groups: Sequence[str],
    *,
    weights: Mapping[str, float],
    config: RunConfig,
) -> _Outcome:
    trained = [name for name, weight in weights.items() if weight > 0]
    scale = config.trainer.get("scale_rewards", "group")
    if isinstance(scale, bool):  # TRL's old spelling
        scale = "group" if scale else "none"
    how: dict[str, Any] = {"groups": groups, "aggregation": config.rewards.aggregation, "scale_rewards": str(scale)}
    logged = signals(raw, weights, lengths=[0] * len(groups), **how)
    return _Outcome(
        raw=raw,
        advantages=advantages(
            neutral(raw, groups, trained=trained, aggregation=config.rewards.aggregation), weights, **how
        ),
        dead=zero_variance_groups(raw, trained=trained, groups=groups),
        shares={name: share for name in weights if (share := logged.get(f"signal/{name}/advantage_share")) is not None},
    )


def _shared(old: Sequence[RewardSpec], new: Sequence[RewardSpec]) -> list[str]:
    """Return the rewards that both mixes compute in the same way, whatever they weigh there."""

    def identity(spec: RewardSpec) -> tuple[str, str, str]:
        return spec.name, repr(sorted(spec.kwargs.items())), repr(spec.tasks)

    known = {identity(spec) for spec in old}
    return [spec.key for spec in new if identity(spec) in known]


def _pick(values: Sequence[T], positions: Sequence[int]) -> list[T]:
    return [values[i] for i in positions]


def _spread(values: Sequence[T], positions: Sequence[int], count: int) -> list[T | None]:
    """Return values at their positions among ``count``, None elsewhere: ``_pick`` reversed."""
    spread: list[T | None] = [None] * count
    for i, value in zip(positions, values, strict=True):
        spread[i] = value
    return spread
