"""What a reviewer sees of a proposal: image, value, known facts, nearest existing title."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from grpo_mmpc.completion.apply import refuse_reviewed
from grpo_mmpc.completion.decisions import DECISIONS_FILE, Decision, Decisions, read_decisions
from grpo_mmpc.completion.proposal import Proposal, filled_fields, item_of, read_proposals, take_out
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.reports.common.gallery import confirmed
from grpo_mmpc.reports.common.labels import words
from grpo_mmpc.utils.files import append_json_lines, open_own

_WORD = re.compile(r"\w+")
_COMMON = 2_000
"""Titles that share a word from which on it tells nothing."""


class Nearest(NamedTuple):
    """The existing title that shares most words with another one."""

    item_id: str
    title: str
    share: float
    """Of the words of both, those in common; in (0, 1]."""


class Titles:
    """Existing titles of a catalogue by their words."""

    def __init__(self) -> None:
        self._items: list[tuple[str, str]] = []
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, item_id: str, title: str) -> None:
        """Take one more title."""
        for word in _words(title):
            self._by_word[word].append(len(self._items))
        self._items.append((item_id, title))

    def nearest(self, title: str, *, besides: str) -> Nearest | None:
        """Return the title nearest to this one, of another item than ``besides``."""
        mine = _words(title)
        lists = (self._by_word.get(word, []) for word in mine)
        candidates = {one for numbers in lists if len(numbers) <= _COMMON for one in numbers}
        best: tuple[float, int] | None = None
        for candidate in candidates:
            item_id, theirs = self._items[candidate]
            both = _words(theirs)
            ranked = (len(mine & both) / len(mine | both), -candidate)
            if item_id != besides and (best is None or ranked > best):
                best = ranked
        return None if best is None else Nearest(*self._items[-best[1]], best[0])


class Review:
    """The proposals of a completed catalogue and the decisions about them.

    What is shown of an item is read when it is shown: only proposals and words of titles are
    held.
    """

    def __init__(self, folder: Path) -> None:
        """Read a completed catalogue.

        Raises:
            CatalogueError: It is none, or nothing was missing in it.
        """
        refuse_reviewed(folder)
        self.folder = folder
        self.proposals = list(read_proposals(folder))
        if not self.proposals:
            raise CatalogueError(f"{folder} has no proposals: nothing was missing; there is nothing to review")
        self.log = folder / DECISIONS_FILE
        self.decisions = Decisions(decision for _, decision in read_decisions(self.log, skip_broken=True))
        self._numbers = {one.key: number for number, one in enumerate(self.proposals)}
        self._items = open_own(folder / "items.jsonl")  # held: a completion may replace it
        self._titles = Titles()
        self._offsets: dict[str, int] = {}
        self._categories: dict[str, str] = {}
        wanted, offset = {one.item_id for one in self.proposals}, 0
        for line in self._items:
            row = item_of(line, folder=folder)
            if row["item_id"] in wanted:
                self._offsets[row["item_id"]] = offset
                self._categories[row["item_id"]] = row["category"]
            if row["title"] and "title" not in filled_fields(row):
                self._titles.add(row["item_id"], row["title"])
            offset += len(line)
        if lost := [item_id for item_id in wanted if item_id not in self._offsets]:
            raise CatalogueError(f"{folder}: items.jsonl has no item {lost[0]}, which proposals.jsonl names")
        self.entry = lru_cache(maxsize=1024)(self._entry)

    def close(self) -> None:
        """Close the file of items."""
        self._items.close()

    def number_of(self, item_id: object, field: object) -> int:
        """Return the number of a proposal.

        Raises:
            KeyError: There is none.
        """
        return self._numbers[str(item_id), str(field)]

    def overview(self) -> list[dict[str, Any]]:
        """Return, of each proposal, all that can be filtered by and the decision that holds."""
        return [
            {
                "item_id": one.item_id,
                "category": self._categories[one.item_id],
                "field": one.field,
                "status": one.status,
                "confidence": one.confidence,
                "decided": self.decided(one),
            }
            for one in self.proposals
        ]

    def decided(self, proposal: Proposal) -> dict[str, Any] | None:
        """Return the decision that holds for a proposal, as the page shows it."""
        decision = self.decisions.about(proposal)
        return None if decision is None else {"decision": decision.decision, "value": decision.value, "by": decision.by}

    def history(self) -> list[int]:
        """Return the numbers of proposals in the order in which they were decided."""
        return [self._numbers[key] for key in self.decisions.order() if key in self._numbers]

    def record(self, decision: Decision) -> None:
        """Append a decision to the file; when this returns the disk has it."""
        append_json_lines(self.log, [decision.to_json()], sync=True)
        self.decisions.add(decision)

    def image(self, number: int) -> Path | None:
        """Return the image that belongs to a proposal: the product's, or the proposed one."""
        proposal, row = self.proposals[number], self._row(number)
        image = proposal.value if proposal.field == "image" else row["image"]
        return None if image is None else self.folder / image

    def _row(self, number: int) -> Mapping[str, Any]:
        self._items.seek(self._offsets[self.proposals[number].item_id])
        return item_of(self._items.readline(), folder=self.folder)

    def _entry(self, number: int) -> dict[str, Any]:
        """Return what the page shows of a proposal, without its image."""
        proposal, row = self.proposals[number], dict(self._row(number))
        if proposal.field in ("description", "attributes"):
            take_out(row, proposal)
        known = row.get("attributes") or {}
        facts = [(words(str(name)), str(value)) for name, value in known.items()]
        if row.get("description"):
            facts.append(("description", str(row["description"])))
        title = proposal.value if proposal.field == "title" else row["title"]
        shown = proposal.value if proposal.field != "image" else row["title"]
        if shown and proposal.field == "attributes":
            shown = "\n".join(f"{words(name)}: {value}" for name, value in json.loads(shown).items())
        nearest = self._titles.nearest(title, besides=proposal.item_id) if title else None
        return {
            "value": proposal.value,
            "pieces": confirmed(shown or "", [value for _, value in facts] if proposal.field != "image" else []),
            "title": None if proposal.field == "title" else row["title"],
            "facts": facts,
            "nearest": None if nearest is None else nearest._asdict(),
            "source": proposal.source,
            "source_item": proposal.source_item,
            "signals": dict(proposal.signals),
            "reasons": list(proposal.reasons),
        }


def _words(title: str) -> set[str]:
    return set(_WORD.findall(title.casefold()))
