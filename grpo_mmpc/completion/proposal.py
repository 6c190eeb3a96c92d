"""The record of one filled field: its value, where it comes from, and whether it may be used.

A completed catalogue holds one for every field that was missing, ``proposals.jsonl``, in the order
of its items.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from grpo_mmpc.catalogue.siblings import GivenBy
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.files import json_lines, open_own

PROPOSALS_FILE = "proposals.jsonl"
"""Beside ``items.jsonl``."""

FIELDS = ("title", "image", "description", "attributes")
"""Fields of an item that can be filled."""
Source = Literal["model", GivenBy, "person"]
Status = Literal["accepted", "review", "failed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What is proposed for one field of one item, with all that it depends on."""

    item_id: str
    field: str
    """``title``, ``image``, ``description`` or ``attributes``."""
    value: str | None
    """The text, the path of the image inside the completed catalogue, or the JSON object of the
    attributes that were missing; None where it failed."""
    source: Source = "model"
    """Where the value was taken from: an answer of the model, another item that is a variant or has
    the same image, another field of the item itself, or a reviewer who wrote it."""
    source_item: str | None = None
    """The other item's identifier, where there is one."""
    policy: str | None
    """``policy_identity`` of model and adapter; None where no model was asked, likewise below."""
    model: str | None
    """The base model's name or path as the recipe has it."""
    adapter: str | None
    """The hash of the adapter's files; None also for the base model."""
    prompt: str | None
    """``Task.version``: the hash of the prompt's text and of the parser."""
    sampling: Mapping[str, Any]
    """The fields of ``SamplingConfig``; of an image also its ``renderer``."""
    confidence: float | None = None
    """In [0, 1]; None where nothing was estimated."""
    signals: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What the confidence was made of, by name."""
    status: Status
    """``failed`` where there is no value; a value that is not ``accepted`` waits for ``review``."""
    reasons: Sequence[str] = ()
    """Why it failed, or waits; of a reviewed one also why it waited."""
    reviewed: Mapping[str, str | None] | None = None
    """The decision of a person, as ``grpo-mmpc review --apply`` has applied it: ``decision``,
    ``by``, ``when``, and the ``value`` and ``status`` before it. None where nobody has decided."""

    def __post_init__(self) -> None:
        """Refuse a record that contradicts itself."""
        for name, value, known in (
            ("source", self.source, get_args(Source)),
            ("status", self.status, get_args(Status)),
            ("field", self.field, FIELDS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
        if (self.value is None) != (self.status == "failed"):
            raise ValueError(f"the status is {self.status!r} and the value {self.value!r}: only a failed one has none")
        if self.field == "attributes" and not isinstance(json.loads(self.value or "{}"), dict):
            raise ValueError(f"the value of attributes is {self.value!r}, expected a JSON object")

    @property
    def key(self) -> tuple[str, str]:
        """Item and field."""
        return self.item_id, self.field

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the record; its keys are the fields, in their order."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(self)} | {"reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Proposal":
        """Return the record of a JSON object.

        Raises:
            ValueError: Keys are missing or unknown, or the record contradicts itself.
        """
        try:
            return cls(**content)
        except TypeError as error:  # of the dataclass, which names the keys
            raise ValueError(f"no proposal: {error}") from error


def filled_fields(item: Mapping[str, Any]) -> list[str]:
    """Return the fields that the column ``completed`` of an item names: text or a list of them."""
    return re.findall(r"[^\s,\[\]\"']+", str(item.get("completed") or ""))


def mark(item: dict[str, Any], field: str, *, is_filled: bool) -> None:
    """Note in the column ``completed`` whether a field was filled, beside those filled earlier."""
    names = [name for name in filled_fields(item) if name != field] + [field] * is_filled
    item["completed"] = ", ".join(names) or None


def fill(item: dict[str, Any], field: str, value: str) -> None:
    """Put a proposed value into an item; attributes that it has stay as they are."""
    item[field] = {**json.loads(value), **(item[field] or {})} if field == "attributes" else value


def take_out(item: dict[str, Any], proposal: Proposal) -> bool:
    """Take a proposed value out of an item again; return whether it was there."""
    there = item[proposal.field]
    if proposal.field != "attributes":
        item[proposal.field] = None
        return bool(there == proposal.value)
    new = json.loads(proposal.value or "{}")
    item["attributes"] = {key: text for key, text in (there or {}).items() if key not in new} or None
    return all((there or {}).get(key) == text for key, text in new.items())


def item_of(line: bytes, *, folder: Path) -> dict[str, Any]:
    """Return the item of one line of a completed catalogue's ``items.jsonl``.

    Raises:
        CatalogueError: It holds none.
    """
    with suppress(ValueError, RecursionError):
        row = json.loads(line)
        texts = ("item_id", "category", "title", "image")
        if (
            isinstance(row, dict)
            and all(isinstance(row.get(name, 0), str | None) for name in texts)
            and isinstance(row.get("attributes"), dict | None)
        ):
            return row
    raise CatalogueError(
        f"{folder / 'items.jsonl'} holds a line that is no item of a completed catalogue: {line[:80]!r}; complete the "
        "catalogue again"
    )


def read_proposals(folder: Path) -> Iterator[Proposal]:
    """Read the proposals of a completed catalogue, one at a time.

    Raises:
        CatalogueError: There are none, or a line is none; says which and why.
    """
    path = folder / PROPOSALS_FILE
    if not path.is_file():
        raise CatalogueError(f"{folder} has no {PROPOSALS_FILE}; give a folder that grpo-mmpc complete has written")
    with open_own(path) as file:
        for line in json_lines(file):
            try:
                yield Proposal.from_json(line.values or {})
            except ValueError as error:
                raise CatalogueError(f"{path}, line {line.number}: {line.problem or error}") from error
