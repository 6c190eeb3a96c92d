"""Convert reviews of Amazon Reviews 2023 into the interactions file of a catalogue."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.interactions import Interaction, read_interaction
from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.sources.amazon_records import AmazonSource
from grpo_mmpc.catalogue.tables import find_table
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import json_lines, write_json_lines

INTERACTIONS = "interactions.jsonl"
_EXAMPLES = 5
_REPORT_EVERY = 10_000


@dataclass(slots=True, kw_only=True)
class ReviewConversion:
    """Counts of a conversion: ``read`` is the sum of the other three numbers."""

    read: int = 0
    written: int = 0
    other_items: int = 0
    """Reviews of products that are not in the catalogue."""
    broken: int = 0
    """Reviews without user, product or time, or with a rating that is no number."""
    examples: list[Quarantined] = field(default_factory=list)
    """The first few broken ones."""


def write_reviews(
    sources: Iterable[AmazonSource],
    *,
    out: Path,
    known_items: Set[str],
    progress: Callable[[ReviewConversion], None] | None = None,
) -> ReviewConversion:
    """Write ``interactions.jsonl`` from reviews of known items; only one review is held at a time.

    A review's ``parent_asin`` is its item. Reviews that repeat a user and an item are all written:
    which of them count is for the reader of the file to decide.
    The file appears when it is complete; where no review is written there is none.

    Raises:
        CatalogueError: A source cannot be read, or the folder has its interactions in another
            format.
    """
    refuse_other_interactions(out)
    done = ReviewConversion()

    def rows() -> Iterator[dict[str, Any]]:
        for source in sources:
            for record in source.records:
                done.read += 1
                if progress is not None and done.read % _REPORT_EVERY == 0:
                    progress(done)
                try:
                    interaction = _interaction(record.cells())
                except RowError as e:
                    done.broken += 1
                    if len(done.examples) < _EXAMPLES:
                        done.examples.append(record.set_aside(e, file=source.name))
                    continue
                if interaction.item_id not in known_items:
                    done.other_items += 1
                    continue
                done.written += 1
                yield interaction._asdict()

    write_json_lines(out / INTERACTIONS, rows())
    if not done.written:
        (out / INTERACTIONS).unlink()  # no interactions: an empty file would be a broken one
    if progress is not None:
        progress(done)
    return done


def item_ids(folder: Path) -> set[str]:
    """Read the identifiers of the items in the ``items.jsonl`` that a conversion wrote."""
    with (folder / "items.jsonl").open(encoding="utf-8") as lines:
        return {line.values["item_id"] for line in json_lines(lines) if line.values is not None}


def refuse_other_interactions(folder: Path) -> None:
    """Refuse a folder whose interactions are in another format: two files cannot be told apart.

    Raises:
        CatalogueError: There is such a file.
    """
    table = find_table(folder, "interactions")
    if table is not None and table.name != INTERACTIONS:
        raise CatalogueError(
            f"{folder} holds {table.name} already; remove it before reviews are written into {INTERACTIONS}"
        )


def _interaction(review: Mapping[str, Any]) -> Interaction:
    if review.get("parent_asin") in (None, ""):
        raise RowError("parent_asin is missing: what was reviewed cannot be known")
    interaction = read_interaction({**review, "item_id": review["parent_asin"]})
    if interaction.looks_like_seconds:
        raise RowError(f"timestamp {interaction.timestamp} lies before 1980; expected milliseconds, not seconds")
    return interaction
