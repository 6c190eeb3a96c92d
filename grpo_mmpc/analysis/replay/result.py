"""The result of a replay: agreement of the mixes, shares, examples, and what was left out."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from grpo_mmpc.analysis.replay.agreement import Agreement, GroupPair, agreement, by_stretch
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.rewards import RewardsSection
from grpo_mmpc.utils.files import write_json
from grpo_mmpc.utils.hashing import json_digest

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


@dataclass(slots=True, kw_only=True)
class Largest:
    """The largest difference between recorded and recomputed numbers."""

    tolerance: float = 1e-5
    """Largest difference that counts as rounding."""
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
        return self.difference <= self.tolerance and not self.one_sided

    def to_json(self) -> dict[str, Any]:
        """Return the object of ``summary.json``."""
        return {name: getattr(self, name) for name in ("equal", "difference", "count", "one_sided")}


@dataclass(kw_only=True)
class Replay:
    """The sums over all batches, which a replay adds to."""

    run: str
    name: str
    """The new mix's name."""
    key: str
    """The new mix's ``mix_key``."""
    old: RewardsSection
    new: RewardsSection
    groups: list[GroupPair] = field(default_factory=list)
    old_shares: list[Mapping[str, float]] = field(default_factory=list)
    """For each batch, by reward, its share of the variance of the advantages."""
    new_shares: list[Mapping[str, float]] = field(default_factory=list)
    own_rewards: dict[str, Largest] = field(default_factory=lambda: defaultdict(Largest))
    """By reward that both mixes share: if these differ, a replay means little."""
    own_advantages: Largest = field(default_factory=lambda: Largest(tolerance=1e-3))
    """The run's own, from the rewards it recorded; the trainer computes in 32 bits and divides by
    a spread that may be as small as 1e-4."""
    gone: Counter[str] = field(default_factory=Counter)
    """Completions by item that the catalogue no longer has; they are in no other number."""
    untrained: Counter[str] = field(default_factory=Counter)
    """Completions by task that the new recipe does not train; they are in no other number."""
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
    def stretches(self) -> dict[tuple[int, int], Agreement]:
        """The agreement over stretches of training, by first and last step."""
        return by_stretch(self.groups)

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
        content = {
            "run": self.run,
            "mix": self.name,
            "key": self.key,
            "old": _mix(self.old),
            "new": _mix(self.new),
            "signal": self.signal,
            "total": asdict(self.total),
            "blocks": [
                {"first_step": first, "last_step": last, **asdict(agreed)}
                for (first, last), agreed in self.stretches.items()
            ],
            "advantage_share": self.mean_shares(),
            "self_check": {
                "rewards": {name: largest.to_json() for name, largest in self.own_rewards.items()},
                "advantages": self.own_advantages.to_json(),
            },
            "unscored": dict(self.unscored),
            "items_gone": dict(self.gone),
            "tasks_untrained": dict(self.untrained),
            "catalogue_changed": self.catalogue_changed,
            "examples": [asdict(example) for example in self.examples],
        }
        write_json(folder / "summary.json", content, indent=2)


def mix_key(config: RunConfig) -> str:
    """Return the hash of a mix with all its arguments and tasks: tells two of one name apart."""
    return json_digest(config.model_dump(mode="json", include={"rewards", "tasks"}), size=4)


def _mix(section: RewardsSection) -> dict[str, Any]:
    return {"aggregation": section.aggregation, "weights": section.weights}


def _means(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    informative = [batch for batch in shares if batch]
    names = dict.fromkeys(name for batch in informative for name in batch)
    return {name: fmean(batch.get(name, 0.0) for batch in informative) for name in names}
