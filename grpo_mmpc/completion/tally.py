"""What a merge did, counted and said."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grpo_mmpc.completion.proposal import PROPOSALS_FILE
from grpo_mmpc.reports.common.labels import listed, plural

WORDS = {"title": "title", "image": "image", "description": "description", "attributes": "attribute set"}
"""What is filled, by field."""
INCOMPLETE = "incomplete.jsonl"
_BESIDE = {"sibling": "a variant", "same image": "an item with the same image", "own field": "another field"}


def shown_fields(filled: Mapping[str, int], asked: Collection[str]) -> list[str]:
    """Return the fields to speak of: those that were filled, or what was asked for if none was."""
    return [field for field in WORDS if filled.get(field)] or [field for field in WORDS if field in asked]


@dataclass
class Tally:
    """How many gaps were filled, and why others were not."""

    asked: Collection[str]
    """Fields that the tasks ask for."""
    filled: Counter[str] = field(default_factory=Counter)
    """Items by the field that was filled."""
    sources: Counter[str] = field(default_factory=Counter)
    """Filled items by ``Proposal.source``."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why filled items wait, without their numbers."""
    review: int = 0
    """Filled items that wait for review."""
    changed: int = 0
    """Items with a value that differs from that of the catalogue: always 0."""
    unfilled: Counter[str] = field(default_factory=Counter)
    """Items by the reason."""

    def sentences(self, out: Path) -> Iterator[str]:
        """Yield what was filled, what waits and what could not be filled, one line each."""
        if not self.filled and not self.unfilled:
            yield f"nothing was missing; {self.changed} existing values changed"
            return
        counts = [plural(self.filled[field], WORDS[field]) for field in shown_fields(self.filled, self.asked)]
        yield f"filled {listed(counts)}; {plural(self.unfilled.total(), 'item')} could not be filled"
        if beside := [
            f"{self.sources[source]} from {name}" for source, name in _BESIDE.items() if self.sources[source]
        ]:
            yield f"  taken from beside: {', '.join(beside)}"
        yield (
            f"gate: {self.filled.total() - self.review} accepted, {self.review} waiting for review, "
            f"{self.unfilled.total()} failed; {self.changed} existing values changed"
        )
        yield from (f"  {count} x {reason}" for reason, count in self.reasons.most_common(5))
        if self.review:
            yield f"  status and reasons of each: {out / PROPOSALS_FILE}"
        yield from (f"  {count} x {reason}, see {out / INCOMPLETE}" for reason, count in self.unfilled.most_common(5))
