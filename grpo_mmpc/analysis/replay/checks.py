"""Does a replay reproduce what the run itself recorded? If not, its answers about another mix mean little."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.rewards import reward_key

TOLERANCE = 1e-5
"""Largest difference of a reward that counts as rounding."""
ADVANTAGE_TOLERANCE = 1e-3
"""The same of an advantage: the trainer computes in 32 bits and divides by a spread that may be as
small as 1e-4."""


def shared_rewards(old: Sequence[RewardSpec], new: Sequence[RewardSpec]) -> list[str]:
    """Rewards that both mixes compute in the same way, whatever they weigh there."""

    def identity(spec: RewardSpec) -> tuple[str, str, object]:
        return spec.name, repr(sorted(spec.kwargs.items())), spec.tasks

    known = {identity(spec) for spec in old}
    return [reward_key(spec) for spec in new if identity(spec) in known]


@dataclass(slots=True, kw_only=True)
class Largest:
    """Largest difference between recorded and recomputed numbers."""

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
        """Within rounding, and unscored for the same completions."""
        return self.difference <= TOLERANCE and not self.one_sided


@dataclass(slots=True, kw_only=True)
class SelfCheck:
    """Recorded against recomputed."""

    rewards: dict[str, Largest] = field(default_factory=lambda: defaultdict(Largest))
    """By reward that both mixes share."""
    advantages: Largest = field(default_factory=Largest)
    """The run's own, from the rewards it recorded."""

    @property
    def unequal(self) -> list[str]:
        """Rewards that came out differently."""
        return [name for name, found in self.rewards.items() if not found.equal]

    @property
    def advantages_equal(self) -> bool:
        """Within what the trainer's 32-bit arithmetic leaves open."""
        return self.advantages.difference <= ADVANTAGE_TOLERANCE
