"""One generation batch under one mix: rewards, advantages, dead groups, and which reward the advantages come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.analysis.replay.rollouts import RolloutBatch
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.rewards import RewardMix, advantages
from grpo_mmpc.rewards.signals import dead_groups, signals

Values = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """N completions under a mix."""

    raw: Values
    """By reward; None = unscored."""
    advantages: list[float]
    dead: set[str]
    """Prompts whose group teaches nothing."""
    shares: dict[str, float]
    """By trained reward, its share of the variance of the advantages, as ``metrics.jsonl`` logs
    it."""


def judge_again(
    completions: Sequence[str], columns: dict[str, list[Any]], *, step: int, mix: RewardMix, config: RunConfig
) -> Judgement:
    """Score completions.

    Args:
        completions: N texts.
        columns: What the rewards are called with, see ``RewardColumns``.
        step: 1-based optimiser step, for scheduled weights.
        mix: The rewards.
        config: The recipe they belong to.
    """
    scored = mix.score(completions=list(completions), **columns)
    return _judgement(
        scored.raw, scored.transformed, scored.for_trainer, columns["prompt_id"], step=step, mix=mix, config=config
    )


def judge_recorded(batch: RolloutBatch, *, mix: RewardMix, config: RunConfig) -> Judgement:
    """A batch as it was judged then, from the raw rewards that it recorded: nothing is scored.

    Raises:
        EvaluationError: A reward of the run was not recorded.
    """
    names = [reward.name for reward in mix.rewards]
    missing = [name for name in names if name not in batch.raw]
    if missing:
        raise EvaluationError(
            f"{batch.file} holds no reward/{missing[0]}, which config.yaml names; the run folder is not of one piece"
        )
    raw = {name: batch.raw[name] for name in names}
    transformed, for_trainer = mix.values_of(raw, batch.columns["prompt_id"])
    return _judgement(
        raw, transformed, for_trainer, batch.columns["prompt_id"], step=batch.step, mix=mix, config=config
    )


def _judgement(
    raw: Values,
    transformed: Values,
    for_trainer: Values,
    groups: Sequence[str],
    *,
    step: int,
    mix: RewardMix,
    config: RunConfig,
) -> Judgement:
    weights = mix.weights_at(step - 1)
    aggregation = config.rewards.aggregation
    logged = signals(
        transformed,
        weights,
        groups=groups,
        lengths=[0] * len(groups),
        aggregation=aggregation,
        scale_rewards=scale_rewards(config),
    )
    return Judgement(
        raw=raw,
        advantages=advantages(
            for_trainer, weights, groups=groups, aggregation=aggregation, scale_rewards=scale_rewards(config)
        ),
        dead=dead_groups(transformed, trained=[name for name, weight in weights.items() if weight > 0], groups=groups),
        shares={name: share for name in weights if (share := logged.get(f"signal/{name}/advantage_share")) is not None},
    )


def scale_rewards(config: RunConfig) -> str:
    """TRL's ``scale_rewards``, whose old spelling is true and false."""
    given = config.trainer.get("scale_rewards", "group")
    if isinstance(given, bool):
        return "group" if given else "none"
    return str(given)
