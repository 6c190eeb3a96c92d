"""The result of a replay: agreement of the mixes, shares, examples, and what was left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from grpo_mmpc.analysis.replay.agreement import Agreement, Block, GroupPair, agreement, blocks
from grpo_mmpc.analysis.replay.outcome import SelfCheck
from grpo_mmpc.config.rewards import RewardsSection
from grpo_mmpc.rewards import reward_key
from grpo_mmpc.utils.files import write_json

_NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A completion under both mixes."""

    text: str
    """The prediction; the completion itself where it is malformed."""
    old_advantage: float
    new_advantage: float
    rewards: Mapping[str, float | None]
    """Raw values of the new mix."""
    old_rewards: Mapping[str, float | None]
    """Raw values that the run recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A group in which another completion would have won."""

    step: int
    prompt_id: str
    title: str
    """The item's true title."""
    old_winner: Contender
    new_winner: Contender

    @property
    def margin(self) -> float:
        """The difference between the mixes about the two, in advantages."""
        old, new = self.old_winner, self.new_winner
        return (old.old_advantage - new.old_advantage) + (new.new_advantage - old.new_advantage)


@dataclass(kw_only=True)
class Replay:
    """The sums over all batches, which a replay adds to."""

    run: str
    name: str
    """The new mix's name."""
    old: RewardsSection
    new: RewardsSection
    groups: list[GroupPair] = field(default_factory=list)
    old_shares: list[Mapping[str, float]] = field(default_factory=list)
    """For each batch, by reward, its share of the variance of the advantages."""
    new_shares: list[Mapping[str, float]] = field(default_factory=list)
    check: SelfCheck = field(default_factory=SelfCheck)
    gone: Counter[str] = field(default_factory=Counter)
    """Completions by item that the catalogue no longer has; they are in no other number."""
    unscored: Counter[str] = field(default_factory=Counter)
    """Completions by reward of the new mix that it should have scored and could not."""
    catalogue_changed: bool = False
    """Its fingerprint is not the one the run recorded."""
    changed_winners: dict[str, Example] = field(default_factory=dict)
    """By prompt, its group with the largest margin."""

    def offer(self, example: Example) -> None:
        """Keep an example if it is the clearest of its prompt."""
        known = self.changed_winners.get(example.prompt_id)
        if known is None or example.margin > known.margin:
            self.changed_winners[example.prompt_id] = example

    @property
    def examples(self) -> list[Example]:
        """The clearest examples, each of another prompt, clearest first."""
        return sorted(self.changed_winners.values(), key=lambda one: -one.margin)[:_NUM_EXAMPLES]

    @cached_property
    def total(self) -> Agreement:
        """The agreement over all groups."""
        return agreement(self.groups)

    @cached_property
    def blocks(self) -> list[Block]:
        """The agreement over stretches of training."""
        return blocks(self.groups)

    @property
    def signal(self) -> str:
        """The word ``dead``, ``weak`` or ``alive``, by the share of zero-variance groups."""
        share = self.total.new_dead or 0.0
        return "dead" if share >= 0.9 else "weak" if share >= 0.5 else "alive"

    def mean_shares(self) -> dict[str, dict[str, float]]:
        """Return each reward's mean share over the batches with any advantage other than 0."""
        return {"old": _means(self.old_shares), "new": _means(self.new_shares)}

    def write(self, folder: Path) -> None:
        """Write ``summary.json``, replacing the file in one step."""
        check = self.check
        content: dict[str, Any] = {
            "run": self.run,
            "mix": self.name,
            "old": _mix(self.old),
            "new": _mix(self.new),
            "signal": self.signal,
            "total": asdict(self.total),
            "blocks": [
                {"first_step": block.first_step, "last_step": block.last_step, **asdict(block.agreement)}
                for block in self.blocks
            ],
            "advantage_share": self.mean_shares(),
            "self_check": {
                "rewards": {name: {"equal": one.equal, **asdict(one)} for name, one in check.rewards.items()},
                "advantages": {"equal": check.advantages_equal, **asdict(check.advantages)},
            },
            "unscored": dict(self.unscored),
            "items_gone": dict(self.gone),
            "catalogue_changed": self.catalogue_changed,
            "examples": [asdict(example) for example in self.examples],
        }
        write_json(folder / "summary.json", content, indent=2)


def _mix(section: RewardsSection) -> dict[str, Any]:
    return {
        "aggregation": section.aggregation,
        "weights": {reward_key(spec): spec.weight for spec in section.mix},
    }


def _means(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    informative = [batch for batch in shares if batch]
    names = dict.fromkeys(name for batch in informative for name in batch)
    return {name: fmean(batch.get(name, 0.0) for batch in informative) for name in names}
