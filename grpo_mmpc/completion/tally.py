"""What a merge did, counted and said."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from grpo_mmpc.completion.proposal import FILE as PROPOSALS

INCOMPLETE = "incomplete.jsonl"
_BESIDE = {"sibling": "a variant", "same image": "an item with the same image", "own field": "another field"}


@dataclass
class Tally:
    """How many gaps were filled, and why others were not."""

    filled: Counter[str] = field(default_factory=Counter)
    """Items by the field that was filled."""
    sources: Counter[str] = field(default_factory=Counter)
    """Filled items by ``Proposal.source``."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why filled items wait, without their numbers."""
    review: int = 0
    """Filled items that wait for review."""
    changed: int = 0
    """Existing titles and images that differ from those of the catalogue: always 0."""
    unfilled: Counter[str] = field(default_factory=Counter)
    """Items by the reason."""

    def sentences(self, out: Path) -> Iterator[str]:
        """Yield what was filled, what waits and what could not be filled, one line each."""
        yield (
            f"filled {self.filled['title']} titles and {self.filled['image']} images; "
            f"{self.unfilled.total()} items could not be filled"
        )
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
            yield f"  status and reasons of each: {out / PROPOSALS}"
        yield from (f"  {count} x {reason}, see {out / INCOMPLETE}" for reason, count in self.unfilled.most_common(5))
