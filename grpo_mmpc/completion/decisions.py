"""The decisions of reviewers: one line each, appended and never changed.

``accept`` and ``reject`` hold the value that was seen, so that neither can come to mean another one
that a later completion proposes. ``edit`` holds the reviewer's own title. ``undo`` takes back the
last decision about the same field.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, cast, get_args

from grpo_mmpc.catalogue.normalise import readable_text
from grpo_mmpc.completion.proposal import Proposal
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.files import json_lines, open_own
from grpo_mmpc.utils.manifest import now

DECISIONS_FILE = "decisions.jsonl"
"""Beside ``proposals.jsonl``."""
Kind = Literal["accept", "edit", "reject", "undo"]
Key = tuple[str, str]
"""Item and field."""
MAX_TITLE = 2_000
"""Characters of a title that a reviewer writes."""
_MAX_NAME = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person has decided about one field of one item."""

    item_id: str
    field: str
    decision: Kind
    value: str | None
    """The value that was seen; of an ``edit`` the new title; None for ``undo``."""
    when: str
    """ISO 8601, with its offset from UTC."""
    by: str
    """The reviewer's name."""

    def __post_init__(self) -> None:
        """Refuse a record that contradicts itself."""
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, str) and not (value is None and one.name == "value"):
                raise ValueError(f"{one.name} is {value!r}, expected text")
        if self.decision not in get_args(Kind):
            raise ValueError(f"decision is {self.decision!r}, expected one of {', '.join(get_args(Kind))}")
        if (self.value is None) != (self.decision == "undo"):
            raise ValueError(f"the decision is {self.decision!r} and the value {self.value!r}: only undo has none")
        if self.decision == "edit":
            self._check_title(self.value or "")
        if not self.by.isprintable() or len(self.by) > _MAX_NAME:
            raise ValueError(f"by is no name of at most {_MAX_NAME} characters: {self.by[:_MAX_NAME]!r}")
        if datetime.fromisoformat(self.when).tzinfo is None:
            raise ValueError(f"when is {self.when!r}, expected a time with its offset, such as 2026-01-31T12:00:00Z")

    def _check_title(self, title: str) -> None:
        if self.field != "title":
            raise ValueError(f"only titles can be edited, not this {self.field}; accept or reject it")
        if title != readable_text(title) or len(title) > MAX_TITLE:
            raise ValueError(f"the title is not one line of 1 to {MAX_TITLE} visible characters: {title[:80]!r}")

    @property
    def key(self) -> Key:
        """Item and field."""
        return self.item_id, self.field

    def to_json(self) -> dict[str, str | None]:
        """Return the JSON object of the record; its keys are the fields, in their order."""
        return dataclasses.asdict(self)

    def suits(self, proposal: Proposal) -> bool:
        """Return whether it is about this very value, or holds one of its own."""
        return self.decision == "edit" or self.value == proposal.value


def decide(proposal: Proposal, decision: str, title: object, *, by: str) -> Decision:
    """Return the decision of this moment about a proposal.

    ``title`` is the reviewer's for ``edit``, and ignored otherwise.

    Raises:
        ValueError: It is none that can be taken about it; says why.
    """
    value = {"edit": readable_text(title) or "", "undo": None}.get(decision, proposal.value)
    if decision in ("accept", "reject") and value is None:
        raise ValueError(f"nothing was proposed for {proposal.item_id}: there is nothing to {decision}")
    kind = cast(Kind, decision)  # which the record checks
    return Decision(item_id=proposal.item_id, field=proposal.field, decision=kind, value=value, when=now(), by=by)


def read_decisions(path: Path, *, skip_broken: bool = False) -> Iterator[tuple[int, Decision]]:
    """Read a file of decisions, each with the number of its line.

    Args:
        path: The file; one that does not exist holds none if broken lines are skipped.
        skip_broken: Leave out lines that are none: a killed writer leaves half of one behind.

    Raises:
        CatalogueError: A line is none; says which and why.
    """
    if skip_broken and not path.exists():
        return
    with open_own(path) as file:
        for line in json_lines(file):
            try:
                yield line.number, Decision(**(line.values or {}))
            except (TypeError, ValueError) as error:
                if not skip_broken:
                    raise CatalogueError(f"{path}, line {line.number}: {line.problem or error}") from error


class Decisions:
    """All decisions so far, in their order."""

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self._by_key: defaultdict[Key, list[Decision]] = defaultdict(list)
        self._order: list[Key] = []
        for decision in decisions:
            self.add(decision)

    def add(self, decision: Decision) -> None:
        """Take one more; an ``undo`` takes back the last one about its field, if there is one."""
        taken = self._by_key[decision.key]
        if decision.decision != "undo":
            taken.append(decision)
            self._order.append(decision.key)
        elif taken:
            taken.pop()
            last = len(self._order) - 1 - self._order[::-1].index(decision.key)
            del self._order[last]

    def about(self, proposal: Proposal) -> Decision | None:
        """Return the decision that holds for a proposal: the last one, if it suits."""
        taken = self._by_key.get(proposal.key)
        return taken[-1] if taken and taken[-1].suits(proposal) else None

    def order(self) -> list[Key]:
        """Return what was decided, one entry for each decision that was not undone."""
        return list(self._order)

    def last(self) -> Mapping[Key, Decision]:
        """Return the last decision about each field."""
        return {key: taken[-1] for key, taken in self._by_key.items() if taken}
