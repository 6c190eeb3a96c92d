"""Write a catalogue folder from the listings of any source."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from grpo_mmpc.catalogue.quarantine import write_quarantine
from grpo_mmpc.catalogue.records import read_core
from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.sources.cleaning import cleaned, has_words
from grpo_mmpc.catalogue.sources.download import Download, Fetch
from grpo_mmpc.catalogue.sources.item_images import ImageFinder, address_of
from grpo_mmpc.catalogue.sources.listing import SYNONYMS, Fields, Listing, choose_fields, table_listings
from grpo_mmpc.catalogue.sources.shops import shop_of
from grpo_mmpc.catalogue.sources.source_table import SourceTable, told_apart
from grpo_mmpc.catalogue.tables import find_table
from grpo_mmpc.errors import CatalogueError, ImageError
from grpo_mmpc.metrics.language import english_score
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import json_lines, remove_partial, without_nan, write_json, write_json_lines
from grpo_mmpc.utils.hashing import file_digest

RECORD = "import.json"
"""The file that says where the items of a catalogue come from, and what became of them."""
CATEGORY = "products"
"""The category of items without one."""
_OWN = {*SYNONYMS, "images", "image_url", "completed"}
_TITLES_JUDGED = 300


@dataclass(slots=True, kw_only=True)
class Imported:
    """What became of the rows of a source."""

    folder: Path
    shop: str | None
    fields: list[dict[str, list[str]]]
    """The columns of each field, by table; empty of a shop's export."""
    rows: int = 0
    """Listings read: rows, and products of a shop that has several rows a product."""
    items: Counter[str] = field(default_factory=Counter)
    """Items written, by category."""
    missing: Counter[str] = field(default_factory=Counter)
    """Items without title, and without image."""
    defaults: Counter[str] = field(default_factory=Counter)
    """Items whose identifier or category was made up, by field."""
    variants: int = 0
    """Items that are a variant of another one."""
    images: int = 0
    not_fetched: int = 0
    """Images that were left where they are, because none were to be fetched."""
    skipped: list[Quarantined] = field(default_factory=list)
    """Rows that are no items; also in ``skipped.jsonl``."""
    image_failures: list[Quarantined] = field(default_factory=list)
    """Images that could not be had; also in ``image_failures.jsonl``."""
    cleaned: Counter[str] = field(default_factory=Counter)
    """Cells that were changed, by what was wrong."""
    titles_judged: int = 0
    foreign_titles: int = 0
    """Of ``titles_judged``, those that do not pass for English."""

    def card(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        return {
            "rows": self.rows,
            "items": sum(self.items.values()),
            "variants": self.variants,
            "categories": dict(self.items),
            "missing": dict(sorted(self.missing.items())),
            "made_up": dict(sorted(self.defaults.items())),
            "images": self.images,
            "images_that_could_not_be_had": len(self.image_failures),
            "set_aside": len(self.skipped),
            "cleaned_cells": {what: count for what, count in sorted(self.cleaned.items()) if count},
            "titles_judged": self.titles_judged,
            "titles_not_english": self.foreign_titles,
        }


class _Draft(NamedTuple):
    """An item before its images are there."""

    cells: dict[str, Any]
    file: str
    row: int
    images: list[tuple[str, str | None]]
    """Path in the folder, and the address to fetch it from; None where it is there."""
    problems: list[str]


class Reading(NamedTuple):
    """How tables are read."""

    shop: str | None
    fields: list[dict[str, list[str]]]
    """The columns of each field, by table; empty of a shop's export."""
    listings: Iterator[tuple[SourceTable, Listing]]


def read_listings(tables: Sequence[SourceTable], chosen: Fields) -> Reading:
    """Read tables as a shop's export, or by columns that are chosen or recognised.

    Raises:
        CatalogueError: A chosen column does not exist, or no column is a title or an image.
    """
    tables = told_apart(tables)
    shop = None if chosen else shop_of(tables[0].columns)
    if shop is not None:
        return Reading(
            shop.name, [], ((table, one) for table in tables for one in shop.listings(table.columns, table.rows))
        )
    fields = [_fields(table, chosen) for table in tables]
    both = zip(tables, fields, strict=True)
    rows = ((table, one) for table, own in both for one in table_listings(table.rows(), own))
    return Reading(None, fields, rows)


def _fields(table: SourceTable, chosen: Fields) -> dict[str, list[str]]:
    try:
        return choose_fields(table.columns, chosen)
    except CatalogueError as error:
        if table.sheet is None or not table.sheet.others:
            raise
        others = " or ".join(f"--sheet {name!r}" for name in table.sheet.others)
        raise CatalogueError(f"{table.path}, sheet {table.sheet.name}: {error}; or read another sheet: {others}") from (
            error
        )


def identifier(listing: Listing, table: SourceTable, counts: Counter[str]) -> tuple[str, bool]:
    """Return an item's identifier, and whether it was made of file and row for want of one.

    Raises:
        RowError: It is no text.
    """
    try:
        text = cleaned(listing.item_id, counts)
    except TypeError as error:
        raise RowError(f"the identifier holds {error}") from error
    return (f"{table.name}-{listing.row}", True) if text is None else (text, False)


def import_tables(
    tables: Sequence[SourceTable],
    *,
    out: Path,
    chosen: Fields | None = None,
    category: str = CATEGORY,
    images_in: Path | None = None,
    fetch: Fetch | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Imported:
    """Write ``items.jsonl``, images and ``import.json``; rows that are no items are set aside.

    Args:
        tables: From :func:`~grpo_mmpc.catalogue.sources.opening.open_source`.
        out: Folder to write. An interrupted import can be repeated: images that are there are not
            fetched again, and ``items.jsonl`` appears only when it is complete.
        chosen: The columns of fields; none of them reads a shop's export as such, and recognises
            the columns of any other table by their names.
        category: Of items that have none.
        images_in: A folder in which an image is looked for by its file's name before it is fetched.
        fetch: Downloads images; None leaves out those that are not here.
        progress: Called now and then with what is counted and how many.

    Raises:
        CatalogueError: Columns cannot be understood, or ``out`` holds items that no import wrote.
    """
    other = find_table(out, "items") if out.is_dir() else None
    if other is not None and not (out / RECORD).is_file():
        raise CatalogueError(f"{out} holds {other.name}, which no import wrote; give another folder for --out")
    shop, fields, listings = read_listings(tables, chosen or {})
    remove_partial(out)
    done = Imported(folder=out, shop=shop, fields=fields)
    finder = ImageFinder(out, images_in=images_in)
    draft = out / ".draft.partial"
    try:
        drafts = _drafts(listings, done=done, finder=finder, category=category, progress=progress)
        write_json_lines(draft, (one._asdict() for one in drafts), default=str)
        problems = {} if fetch is None else fetch(_downloads(draft, out))
        write_json_lines(out / "items.jsonl", _rows(draft, problems, done=done, is_fetched=fetch is not None))
    finally:
        draft.unlink(missing_ok=True)
    write_quarantine(out / "skipped.jsonl", done.skipped)
    write_quarantine(out / "image_failures.jsonl", done.image_failures)
    write_json(out / RECORD, _record(tables, chosen or {}, done))
    return done


def _record(tables: Sequence[SourceTable], chosen: Fields, done: Imported) -> dict[str, Any]:
    files = [
        {
            "path": str(table.path.resolve()),
            "kind": table.kind,
            "digest": file_digest(table.path) if table.options else None,
            "options": dict(table.options),
            "columns": done.fields[number] if done.fields else None,
        }
        for number, table in enumerate(tables)
    ]
    return {
        "shop": done.shop,
        "map": {name: list(columns) for name, columns in chosen.items()},
        "files": files,
        **done.card(),
    }


def _drafts(
    listings: Iterable[tuple[SourceTable, Listing]],
    *,
    done: Imported,
    finder: ImageFinder,
    category: str,
    progress: Callable[[str, int], None] | None,
) -> Iterator[_Draft]:
    first_seen: dict[str, str] = {}
    for table, listing in listings:
        done.rows += 1
        if progress is not None:
            progress("rows", done.rows)
        item_id = None
        try:
            if listing.problem is not None:
                raise RowError(listing.problem)
            item_id, is_made_up = identifier(listing, table, done.cleaned)
            if item_id in first_seen:
                raise RowError(
                    f"{item_id} was already read from {first_seen[item_id]}; give every item its own identifier"
                )
            first_seen[item_id] = f"{table.path.name} row {listing.row}"
            done.defaults["item_id"] += is_made_up
            cells = without_nan(_cells(listing, item_id=item_id, category=category, done=done))
        except (RowError, RecursionError) as error:
            if isinstance(error, RecursionError):
                error = RowError("a cell holds objects nested too deep to be written; make it flatter")
            done.skipped.append(Quarantined(file=table.path.name, row=listing.row, item_id=item_id, reason=str(error)))
            continue
        images, problems = [], []
        for image in listing.images:
            try:
                images.append(finder.place(image, owner=cells["parent_id"] or item_id, beside=table.images_in))
            except ImageError as error:
                problems.append(str(error))
        yield _Draft(cells, table.path.name, listing.row, images, problems)


def _cells(listing: Listing, *, item_id: str, category: str, done: Imported) -> dict[str, Any]:
    """Return the clean cells of an item.

    Raises:
        RowError: A cell holds what it cannot.
    """

    def clean(name: str, value: object, *, one_line: bool = True) -> str | None:
        try:
            return cleaned(value, done.cleaned, one_line=one_line)
        except TypeError as error:
            raise RowError(f"{name} holds {error}") from error

    title = clean("title", listing.title)
    if title is not None and not has_words(title):
        done.cleaned["titles without a letter or digit"] += 1
        title = None
    paragraphs = listing.description if isinstance(listing.description, list) else [listing.description]
    described = [text for part in paragraphs if (text := clean("description", part, one_line=False)) is not None]
    own_category = clean("category", listing.category)
    done.defaults["category"] += own_category is None
    parent_id = clean("parent_id", listing.parent_id)
    done.variants += parent_id not in (None, item_id)
    attributes = listing.attributes
    if isinstance(attributes, Mapping):
        attributes = {n: clean(str(n), v) if isinstance(v, str) else v for n, v in attributes.items() if v is not None}
    further = {}
    for name, value in listing.further.items():
        if isinstance(value, bytes):
            with suppress(UnicodeDecodeError):
                value = value.decode("utf-8")
        if _holds_bytes(value):
            done.cleaned["bytes that are no text"] += 1
        elif value is not None:
            further[f"source_{name}" if name in _OWN else name] = value
    return {
        "item_id": item_id,
        "category": own_category or category,
        "title": title,
        "description": "\n".join(described) or None,
        "image": None,
        "attributes": attributes or None,
        "images": [],
        "image_url": next(filter(None, map(address_of, listing.images)), None),
        "parent_id": parent_id,
        **further,
    }


def _holds_bytes(cell: object) -> bool:
    """Return whether a cell is a file, or holds one: a recording or a document of a data set."""
    if isinstance(cell, Mapping | list):
        return any(map(_holds_bytes, cell.values() if isinstance(cell, Mapping) else cell))
    return isinstance(cell, bytes)


def _read(draft: Path) -> Iterator[_Draft]:
    with draft.open("rb") as lines:
        for line in json_lines(lines):
            assert line.values is not None
            yield _Draft(**line.values)


def _downloads(draft: Path, folder: Path) -> Iterator[Download]:
    asked: set[str] = set()  # variants share the images of their product
    for one in _read(draft):
        for name, url in one.images:
            if url is not None and name not in asked:
                asked.add(name)
                yield Download(urls=(url,), file=folder / name)


def _rows(draft: Path, problems: Mapping[Path, str], *, done: Imported, is_fetched: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of the catalogue: items with a title or an image that is there."""
    judge_every = max(1, done.rows // _TITLES_JUDGED)
    unread = [name for name in ("title", "image") if done.fields and not any(fields[name] for fields in done.fields)]
    for number, one in enumerate(_read(draft)):
        cells, item_id = one.cells, one.cells["item_id"]
        left = sum(url is not None for _, url in one.images) if not is_fetched else 0
        done.not_fetched += left
        failed = one.problems + [
            problems[done.folder / name] for name, _ in one.images if done.folder / name in problems
        ]
        at = {"file": one.file, "row": one.row, "item_id": item_id}
        done.image_failures += [Quarantined(**at, reason=problem) for problem in failed]
        there = (n for n, url in one.images if (url is None or is_fetched) and done.folder / n not in problems)
        names = list(dict.fromkeys(there))  # a shop names the first one twice
        cells["image"], cells["images"] = (names[0] if names else None), names or None
        try:
            core = read_core(cells)  # what would be set aside when the catalogue is read does not enter it
        except RowError as error:
            why = "; ".join(failed) or ("its image was not downloaded" if left else "")
            why = why or "".join(f"no column is read as {name}" for name in unread)
            done.skipped.append(Quarantined(**at, reason=f"{error} ({why})" if why else str(error)))
            continue
        if core.warning is not None:
            done.cleaned["attributes dropped in whole or in part"] += 1
        done.items[cells["category"]] += 1
        done.images += len(names)
        done.missing["title"] += cells["title"] is None
        done.missing["image"] += not names
        if cells["title"] is not None and number % judge_every == 0:
            done.titles_judged += 1
            done.foreign_titles += english_score(cells["title"]) < 0.5
        yield cells


def import_record(folder: Path) -> Path | None:
    """Return the file that says where a catalogue was imported from, a regular one, or None."""
    path = folder / RECORD
    return path if path.is_file() and not path.is_symlink() else None
