"""The page of a completed catalogue: what was filled, and what was not, with examples of each."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from grpo_mmpc.catalogue.quarantine import read_quarantine
from grpo_mmpc.catalogue.validation_text import kinds_of_fault
from grpo_mmpc.completion.apply import items_with_proposals
from grpo_mmpc.completion.plan import CLAIM
from grpo_mmpc.completion.proposal import read_proposals
from grpo_mmpc.completion.tally import INCOMPLETE, WORDS, shown_fields
from grpo_mmpc.reports.common.gallery import PER_CATEGORY, Text, confirmed
from grpo_mmpc.reports.common.labels import clamp, words
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.rewards.troubles import nano_troubles
from grpo_mmpc.utils.files import read_json_lines, read_object, write_text
from grpo_mmpc.utils.hashing import crc

COMPLETION_PAGE = "completion.html"
_SHOWN = 8
_LOOKED_AT = 20
"""Identifiers that tell whether a nano model knows the catalogue."""
_IMAGE_BUDGET = 900_000
_TITLE_LIMIT = 240


class Example(NamedTuple):
    """One item as the page shows it."""

    item_id: str
    category: str
    image: Path | None
    title: Text | None
    """Its beginning; words that the item's other fields have too are marked where it is new."""
    facts: list[tuple[str, str]]
    """Description and attributes."""
    reason: str
    """Why its gap stays; empty where it was filled."""


def report_completion(folder: Path) -> Path:
    """Write the page of a completed catalogue, with what its own files say; return its path.

    Raises:
        CatalogueError: The folder holds no completion.
    """
    claim = read_object(folder / CLAIM)
    items = [proposal.item_id for proposal in islice(read_proposals(folder), _LOOKED_AT)]
    catalogue, model = Path(claim.get("catalogue", folder)), claim.get("model", "")
    return write_completion_page(folder, catalogue=catalogue, notes=nano_notes(model, items=items))


def nano_notes(*models: str, items: Sequence[str]) -> list[str]:
    """Return what is to be known before answers of nano models about these items are read."""
    return list(nano_troubles({"models": list(models)}, items).values())


def write_completion_page(folder: Path, *, catalogue: Path, notes: Sequence[str]) -> Path:
    """Write the page of a completed folder beside its items; return its path.

    Examples are chosen by a hash of the id, the same ones each time.

    Args:
        folder: The completed catalogue.
        catalogue: The one that was completed.
        notes: What to read first.
    """
    left = {row["item_id"]: row for row in read_json_lines(folder / INCOMPLETE)}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    kept: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row, one in items_with_proposals(folder):  # one at a time: a catalogue may be larger than memory
        item_id, category = str(row["item_id"]), str(row.get("category"))
        # Not what earlier completions have filled, which the column names too.
        row["completed"] = None if one is None or one.value is None else one.field
        kind = left[item_id]["reason"] if item_id in left else row["completed"]
        counts[category].update(("items", *(["left" if item_id in left else kind] if kind else [])))
        if kind:
            alike = kept[kind, category]
            alike.append(row)
            alike.sort(key=_order)
            del alike[PER_CATEGORY:]
    wanted = {str(row["item_id"]) for rows in kept.values() for row in rows}
    proposals: Counter[tuple[str, str]] = Counter()
    asked: set[str] = set()
    new: dict[str, Mapping[str, str]] = {}
    for one in read_proposals(folder):
        proposals[one.status, one.source] += 1
        asked.add(one.field)
        if one.item_id in wanted and one.value is not None:
            new[one.item_id] = json.loads(one.value) if one.field == "attributes" else {one.field: one.value}
    shown = {
        kind: [_example(row, folder=folder, left=left, new=new) for row in _spread(kept, kind)]
        for kind in dict.fromkeys(kind for kind, _ in kept)
    }
    fields = shown_fields(sum(counts.values(), Counter()), asked or {"title"})
    images = [one.image for examples in shown.values() for one in examples if one.image]
    page = render_page(
        "reports/catalogue/completion.html",
        name=folder.name,
        subtitle=[f"completion of {catalogue}"],
        notes=notes,
        categories=dict(sorted(counts.items(), key=lambda entry: (-entry[1]["items"], entry[0]))),
        total=sum(counts.values(), Counter()),
        filled={field: shown.pop(field, []) for field in fields},
        nouns=WORDS,
        columns={
            "items": "Items",
            **{field: f"{WORDS[field].capitalize()}s filled" for field in fields},
            "left": "Not filled",
        },
        gate={
            status: sum(count for (of, _), count in proposals.items() if of == status)
            for status in ("accepted", "review")
        },
        beside=sum(count for (_, source), count in proposals.items() if source != "model"),
        left={reason: (sum(row["reason"] == reason for row in left.values()), shown[reason]) for reason in shown},
        faults=kinds_of_fault(read_quarantine(folder / "quarantine.jsonl")),
        images=thumbnails(images, folders=[folder], budget=_IMAGE_BUDGET),
    )
    write_text(folder / COMPLETION_PAGE, page)
    return folder / COMPLETION_PAGE


def _order(row: Mapping[str, Any]) -> int:
    return crc(str(row["item_id"]))


def _spread(kept: Mapping[tuple[str, str], list[dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    """Return few items of a kind, the first of every category before a second one."""
    ranked = [
        (place, _order(row), row) for (one, _), rows in kept.items() if one == kind for place, row in enumerate(rows)
    ]
    return [row for *_, row in sorted(ranked, key=lambda entry: entry[:2])[:_SHOWN]]


def _example(
    row: Mapping[str, Any],
    *,
    folder: Path,
    left: Mapping[str, Mapping[str, str]],
    new: Mapping[str, Mapping[str, str]],
) -> Example:
    attributes = row.get("attributes") or {}
    if isinstance(attributes, str):
        attributes = json.loads(attributes)
    facts = [(words(str(kind)), str(value)) for kind, value in attributes.items()]
    facts += [("description", str(row["description"]))] if row.get("description") else []
    filled = {words(name) for name in new.get(str(row["item_id"]), ())}
    # What is new comes first: few facts are shown.
    facts = sorted(
        ((f"{kind}, new" if kind in filled else kind, value) for kind, value in facts),
        key=lambda fact: not fact[0].endswith(", new"),
    )
    known = [value for _, value in facts] if row["completed"] == "title" else []
    shown, omitted = clamp(row.get("title") or "", limit=_TITLE_LIMIT)
    title = Text(pieces=confirmed(shown, known), omitted=omitted)
    reason = left.get(str(row["item_id"]), {})
    return Example(
        item_id=str(row["item_id"]),
        category=str(row.get("category")),
        image=folder / row["image"] if row.get("image") else None,
        title=title if row.get("title") else None,
        facts=facts,
        reason=str(reason.get("detail") or reason.get("reason") or ""),
    )
