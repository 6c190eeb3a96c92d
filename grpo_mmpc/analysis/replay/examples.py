"""Completions that would have won instead: the clearest cases of two mixes preferring different ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One completion under both mixes."""

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
    """A group with another winner."""

    step: int
    prompt_id: str
    title: str
    """The item's true title."""
    old_winner: Contender
    new_winner: Contender

    @property
    def margin(self) -> float:
        """By how much the mixes disagree about the two, in advantages."""
        old, new = self.old_winner, self.new_winner
        return (old.old_advantage - new.old_advantage) + (new.new_advantage - old.new_advantage)

    def as_dict(self) -> dict[str, Any]:
        """For the summary file."""
        return asdict(self)


class Examples:
    """Keeps the ``limit`` clearest examples, each of another prompt."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._kept: dict[str, Example] = {}

    def offer(self, example: Example) -> None:
        """Keep it if it is among the clearest."""
        known = self._kept.get(example.prompt_id)
        if known is None or example.margin > known.margin:
            self._kept[example.prompt_id] = example
        if len(self._kept) > self._limit:
            del self._kept[min(self._kept.values(), key=lambda kept: kept.margin).prompt_id]

    def clearest(self) -> Sequence[Example]:
        """Those kept, clearest first."""
        return sorted(self._kept.values(), key=lambda kept: -kept.margin)
