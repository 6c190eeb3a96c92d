"""Turns reviews of Amazon Reviews 2023 into the interactions file of a catalogue, one review at a time."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.interactions import InteractionError, read_interaction
from grpo_mmpc.catalogue.rows import find_table
from grpo_mmpc.catalogue.sources.amazon import AmazonSource, UnreadableRecord
from grpo_mmpc.catalogue.sources.amazon_files import file_records, hub_records
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import replace_atomically

INTERACTIONS = "interactions.jsonl"
_HUB_NAME = re.compile(r"raw_review_(?P<category>\w+)$")
_EXAMPLES = 5
_REPORT_EVERY = 10_000


@dataclass(slots=True, kw_only=True)
class ReviewConversion:
    """What became of the reviews: ``read`` is the sum of the other three numbers."""

    read: int = 0
    written: int = 0
    other_items: int = 0
    """Reviews of products that are not in the catalogue."""
    broken: int = 0
    """Reviews without user, product or time, or with a rating that is no number."""
    examples: list[Quarantined] = field(default_factory=list)
    """The first few broken ones."""


def open_reviews(names: Sequence[str]) -> list[AmazonSource]:
    """What review sources named on the command line mean; nothing is read yet.

    Args:
        names: Each ``<Category>.jsonl`` or ``.jsonl.gz``, or ``raw_review_<Category>``, which is
            streamed from the hub.

    Raises:
        CatalogueError: No such file.
    """
    return [_open(name) for name in names]


def write_reviews(
    sources: Iterable[AmazonSource],
    *,
    out: Path,
    known_items: Collection[str],
    progress: Callable[[ReviewConversion], None] | None = None,
) -> ReviewConversion:
    """Write ``interactions.jsonl`` from reviews of known items; only one review is held at a time.

    A review's ``parent_asin`` is its item. Reviews that repeat a user and an item are all written:
    which of them count is for the reader of the file to decide.

    Args:
        sources: From :func:`open_reviews`.
        out: The catalogue folder. The file appears when it is complete; where no review is written
            there is none.
        known_items: Identifiers of the catalogue's items.
        progress: Called now and then with what was done so far.

    Raises:
        CatalogueError: A source cannot be read, or the folder has its interactions in another
            format.
    """
    refuse_other_interactions(out)
    done = ReviewConversion()
    known = known_items if isinstance(known_items, set | frozenset | dict) else set(known_items)
    with replace_atomically(out / INTERACTIONS) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for source in sources:
            for row, record in enumerate(source.records, start=1):
                done.read += 1
                if progress is not None and done.read % _REPORT_EVERY == 0:
                    progress(done)
                try:
                    interaction = read_interaction(_cells(record))
                except InteractionError as e:
                    done.broken += 1
                    if len(done.examples) < _EXAMPLES:
                        done.examples.append(Quarantined(file=source.name, row=row, item_id=None, reason=str(e)))
                    continue
                if interaction.item_id not in known:
                    done.other_items += 1
                    continue
                done.written += 1
                lines.write(json.dumps(interaction._asdict(), ensure_ascii=False) + "\n")
    if not done.written:
        (out / INTERACTIONS).unlink()  # no interactions: an empty file would be a broken one
    if progress is not None:
        progress(done)
    return done


def item_ids(folder: Path) -> set[str]:
    """Identifiers of the items in the ``items.jsonl`` that a conversion wrote."""
    with (folder / "items.jsonl").open(encoding="utf-8") as lines:
        return {json.loads(line)["item_id"] for line in lines}


def refuse_other_interactions(folder: Path) -> None:
    """Make sure that reviews may be written into a folder.

    Raises:
        CatalogueError: It has interactions in another format, and two files cannot be told apart.
    """
    found = find_table(folder, "interactions")
    if found is not None and found.name != INTERACTIONS:
        raise CatalogueError(
            f"{folder} holds {found.name} already; remove it before reviews are written into {INTERACTIONS}"
        )


def _open(name: str) -> AmazonSource:
    path = Path(name)
    if path.is_file():
        return AmazonSource(name=path.name, category=None, records=file_records(path))
    match = _HUB_NAME.match(name)
    if match:
        category = match["category"]
        records = hub_records(f"raw/review_categories/{category}.jsonl")
        return AmazonSource(name=name, category=category, records=records)
    raise CatalogueError(
        f"{name} is no file of reviews; expected <Category>.jsonl[.gz], or raw_review_<Category> to stream it from the hub"
    )


def _cells(record: Mapping[str, Any] | UnreadableRecord) -> dict[str, Any]:
    if isinstance(record, UnreadableRecord):
        raise InteractionError(record.problem)
    if record.get("parent_asin") in (None, ""):
        raise InteractionError("parent_asin is missing: what was reviewed cannot be known")
    return {
        "user_id": record.get("user_id"),
        "item_id": record["parent_asin"],
        "timestamp": record.get("timestamp"),
        "rating": record.get("rating"),
    }
