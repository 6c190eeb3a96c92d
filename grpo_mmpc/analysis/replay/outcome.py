"""The outcome of one generation batch under one mix: raw rewards, advantages, variance, shares."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_mmpc.analysis.replay.rollouts import RolloutBatch
from grpo_mmpc.config import RewardSpec, RunConfig
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.rewards import RewardMix, advantages, neutral, reward_key
from grpo_mmpc.rewards.signals import signals, zero_variance_groups

TOLERANCE = 1e-5
"""Largest difference of a reward that counts as rounding."""
ADVANTAGE_TOLERANCE = 1e-3
"""The same of an advantage: the trainer computes in 32 bits and divides by a spread that may be as
small as 1e-4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The rewards and advantages of N completions under a mix."""

    raw: Mapping[str, Sequence[float | None]]
    """By reward; None = unscored."""
    advantages: list[float]
    dead: set[str]
    """Prompts of zero-variance groups, which teach nothing."""
    shares: dict[str, float]
    """By trained reward, its share of the variance of the advantages, as ``metrics.jsonl`` logs
    it."""


def rescored(
    completions: Sequence[str], columns: dict[str, list[Any]], *, mix: RewardMix, config: RunConfig
) -> Outcome:
    """Score completions under another mix.

    ``columns`` are the further keyword lists of the rewards, see ``RewardColumns``.
    """
    raw = mix.score(completions=list(completions), **columns).raw
    return _outcome(raw, columns["prompt_id"], weights=mix.weights, config=config)


def recorded(batch: RolloutBatch, *, config: RunConfig) -> Outcome:
    """Return the outcome of a batch under the run's own mix, from the raw rewards that it recorded.

    Nothing is scored: a reward of the run may be gone since, or need an encoder that is not here.

    Raises:
        EvaluationError: A reward of the run was not recorded.
    """
    weights = {reward_key(spec): spec.weight for spec in config.rewards.mix}
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
) -> Outcome:
    trained = [name for name, weight in weights.items() if weight > 0]
    aggregation, scale = config.rewards.aggregation, scale_rewards(config)
    logged = signals(
        raw, weights, groups=groups, lengths=[0] * len(groups), aggregation=aggregation, scale_rewards=scale
    )
    return Outcome(
        raw=raw,
        advantages=advantages(
            neutral(raw, groups, trained=trained), weights, groups=groups, aggregation=aggregation, scale_rewards=scale
        ),
        dead=zero_variance_groups(raw, trained=trained, groups=groups),
        shares={name: share for name in weights if (share := logged.get(f"signal/{name}/advantage_share")) is not None},
    )


def scale_rewards(config: RunConfig) -> str:
    """Return TRL's ``scale_rewards``, whose old spelling is true and false."""
    given = config.trainer.get("scale_rewards", "group")
    if isinstance(given, bool):
        return "group" if given else "none"
    return str(given)


def shared_rewards(old: Sequence[RewardSpec], new: Sequence[RewardSpec]) -> list[str]:
    """Return the rewards that both mixes compute in the same way, whatever they weigh there."""

    def identity(spec: RewardSpec) -> tuple[str, str, object]:
        return spec.name, repr(sorted(spec.kwargs.items())), spec.tasks

    known = {identity(spec) for spec in old}
    return [reward_key(spec) for spec in new if identity(spec) in known]


@dataclass(slots=True, kw_only=True)
class Largest:
    """The largest difference between recorded and recomputed numbers."""

    difference: float = 0.0
    count: int = 0
    """Numbers compared."""
    one_sided: int = 0
    """Completions that only one of the two could score."""

    def take(self, recorded: Sequence[float | None], recomputed: Sequence[float | None]) -> None:
        """Compare, entry by entry."""
        for old, new in zip(recorded, recomputed, strict=True):
            if old is None or new is None:
                self.one_sided += (old is None) != (new is None)
            else:
                self.count += 1
                self.difference = max(self.difference, abs(old - new))

    @property
    def equal(self) -> bool:
        """True within rounding, with the same completions unscored."""
        return self.difference <= TOLERANCE and not self.one_sided


@dataclass(slots=True, kw_only=True)
class SelfCheck:
    """The comparison of recorded with recomputed numbers; if they differ, a replay means little."""

    rewards: dict[str, Largest] = field(default_factory=lambda: defaultdict(Largest))
    """By reward that both mixes share."""
    advantages: Largest = field(default_factory=Largest)
    """The run's own, from the rewards it recorded."""

    @property
    def unequal(self) -> list[str]:
        """The rewards that came out differently."""
        return [name for name, largest in self.rewards.items() if not largest.equal]

    @property
    def advantages_equal(self) -> bool:
        """True within what the trainer's 32-bit arithmetic leaves open."""
        return self.advantages.difference <= ADVANTAGE_TOLERANCE
