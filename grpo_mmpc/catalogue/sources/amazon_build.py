"""Build a catalogue folder from Amazon Reviews 2023: which items, then only these, then reviews."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from grpo_mmpc import __version__
from grpo_mmpc.catalogue.quarantine import write_quarantine
from grpo_mmpc.catalogue.records import read_core
from grpo_mmpc.catalogue.rows import MAX_CHARACTERS, RowError
from grpo_mmpc.catalogue.sources.amazon_engine import Engine, open_engine
from grpo_mmpc.catalogue.sources.amazon_items import image_name
from grpo_mmpc.catalogue.sources.amazon_records import AmazonSource
from grpo_mmpc.catalogue.sources.amazon_reviews import INTERACTIONS
from grpo_mmpc.catalogue.sources.amazon_scan import Scan, read_wanted, scan_items, scan_reviews
from grpo_mmpc.catalogue.sources.amazon_selection import (
    Filter,
    Mode,
    Select,
    distinct_items,
    select_interactions,
    select_items,
)
from grpo_mmpc.catalogue.sources.download import Download, Fetch
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import remove_partial, replace_atomically, write_json
from grpo_mmpc.utils.hashing import file_digest

DATA_CARD = "data_card.json"


@dataclass(slots=True, kw_only=True)
class ReviewCounts:
    """What became of the reviews: ``read`` is the sum of the other numbers."""

    read: int = 0
    written: int = 0
    other_items: int = 0
    """Reviews of products that are not in the catalogue."""
    unselected: int = 0
    """Reviews that the rules of a benchmark left out."""
    broken: int = 0
    """Those without user, product or time, or a rating that is no number; in ``skipped.jsonl``."""
    examples: list[Quarantined] = field(default_factory=list)
    """The first few broken ones."""


@dataclass(slots=True, kw_only=True)
class AmazonBuild:
    """The result: items, reviews, skipped records and missing images."""

    folder: Path
    records_read: int = 0
    items: dict[str, int] = field(default_factory=dict)
    """Items written, by category."""
    skipped: list[Quarantined] = field(default_factory=list)
    """Metadata records that could not become items; also in ``skipped.jsonl``."""
    images: int = 0
    """Items with an image file."""
    image_failures: list[Quarantined] = field(default_factory=list)
    """Items whose image could not be fetched; also in ``image_failures.jsonl``."""
    reviews: ReviewCounts = field(default_factory=ReviewCounts)
    item_filters: list[Filter] = field(default_factory=list)
    interaction_filters: list[Filter] = field(default_factory=list)
    cleaned: dict[str, int] = field(default_factory=dict)
    """Cells of the written items that were changed, by what was removed from them."""


def build_amazon(
    sources: Sequence[AmazonSource],
    *,
    out: Path | str,
    reviews: Sequence[AmazonSource] = (),
    select: Select | None = None,
    mode: Mode = "corrected",
    max_items: int | None = None,
    fetch: Fetch | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> AmazonBuild:
    """Write ``items.jsonl`` (and images, and ``interactions.parquet``) from metadata (and reviews).

    A first pass reads every record's id, and whether it has a title and an image; the rules select;
    a second pass reads only what is wanted. Of several records of one item the first counts.
    Memory is bounded: what does not fit lies in the folder until the end. Files that make up the
    result appear when they are complete, so that an interrupted call can be repeated.

    Args:
        sources: For instance from :func:`~grpo_mmpc.catalogue.sources.amazon_records.open_sources`.
        out: Folder to write.
        reviews: From :func:`~grpo_mmpc.catalogue.sources.amazon_records.open_reviews`; there is no
            file of interactions where none is written.
        select: ``cqbench`` or ``recbench`` take the items of that benchmark, None takes all.
        mode: The rules of ``recbench``; see :func:`select_interactions`.
        max_items: Items a category (users a category for ``recbench``).
        fetch: Downloads images; None downloads nothing and leaves ``image`` empty.
        progress: Told several times a second what is being done.
    """
    folder = Path(out)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    done = AmazonBuild(folder=folder)
    doing = ""

    def begin(what: str) -> None:
        nonlocal doing
        doing = what
        progress(doing)

    with open_engine(folder, tick=lambda: progress(doing)) as engine:
        begin("reading metadata")
        all_wanted = select is None and max_items is None
        metadata = scan_items(engine, sources, max_items=None if select else max_items, whole=all_wanted)
        done.records_read = metadata.read
        done.item_filters = distinct_items(engine, read=metadata.read)
        _name_repeated(engine, metadata)
        begin("selecting")
        if select == "recbench":
            begin("reading reviews")
            of_reviews = scan_reviews(engine, reviews, known="kept")
            begin("selecting")
            done.interaction_filters = select_interactions(engine, mode=mode, max_users=max_items)
            done.item_filters.append(Filter("of the selected interactions", engine.count("wanted")))
        else:
            done.item_filters += select_items(engine, select=select, max_items=max_items)
        begin("reading items")
        engine.run("CREATE TABLE problems (image VARCHAR, problem VARCHAR)")
        read_wanted(engine, metadata, wanted="wanted")
        done.cleaned = {what: count for what, count in sorted(engine.cleaned.items()) if count}
        if fetch is not None:
            problems = fetch(_downloads(engine, folder))
            names = [{"image": file.relative_to(folder).as_posix(), "problem": why} for file, why in problems.items()]
            engine.insert("problems", names)
        _make_items(engine, metadata, done, fetched=fetch is not None)
        begin("writing items")
        with replace_atomically(folder / "items.jsonl") as file:
            engine.write_json_lines(_ITEMS + engine.by_key("drafts"), to=file)
        # Reviews need the memory.
        engine.run("DROP VIEW candidates; CREATE OR REPLACE TABLE drafts AS SELECT item_id FROM drafts")
        if select != "recbench" and reviews:
            begin("reading reviews")
            of_reviews = scan_reviews(engine, reviews, known="drafts")
        broken: list[Quarantined] = []
        if reviews:
            begin("writing interactions")
            broken = _write_reviews(engine, done, *of_reviews, chosen=select == "recbench")
    done.skipped = [row for _, row in sorted(metadata.skipped.items())]
    write_quarantine(folder / "skipped.jsonl", [*done.skipped, *broken])
    if fetch is not None:
        write_quarantine(folder / "image_failures.jsonl", done.image_failures)
    write_json(folder / DATA_CARD, _card(done, sources=[*sources, *reviews], select=select, mode=mode))
    return done


_ITEMS = """
    SELECT item_id, category, title, description, image, attributes::JSON AS attributes, image_urls[1] AS image_url,
        main_category
    FROM drafts
"""


def _name_repeated(engine: Engine, metadata: Scan) -> None:
    """Skip every record of an item but its first."""
    for key, item_id, first in engine.run(
        "SELECT c.key, item_id, k.key FROM candidates c JOIN kept k USING (item_id) WHERE c.key != k.key"
    ):
        file, row = metadata.place(key)
        first_file, first_row = metadata.place(first)
        reason = f"parent_asin {item_id} was already read from {first_file} row {first_row}"
        metadata.skipped[key] = Quarantined(file=file, row=row, item_id=item_id, reason=reason)


def _downloads(engine: Engine, folder: Path) -> Iterator[Download]:
    rows = engine.connection.cursor().execute(
        "SELECT item_id, image_urls FROM drafts WHERE len(image_urls) > 0 ORDER BY key"
    )
    while batch := rows.fetchmany(1000):
        for item_id, urls in batch:
            yield Download(urls=tuple(urls), file=folder / image_name(item_id, urls[0]))


def _make_items(engine: Engine, metadata: Scan, done: AmazonBuild, *, fetched: bool) -> None:
    """Leave those drafts that have a title or an image that is there."""
    set_aside = partial(_set_aside, metadata)
    if fetched:
        engine.run("UPDATE drafts SET image = image_name(item_id, image_urls[1]) WHERE len(image_urls) > 0")
        failed = engine.run("SELECT key, item_id, problem FROM drafts JOIN problems USING (image) ORDER BY key")
        done.image_failures = [set_aside(key, item_id, problem) for key, item_id, problem in failed]
        engine.run("UPDATE drafts SET image = NULL WHERE image IN (SELECT image FROM problems)")
    # What would be set aside when the catalogue is read does not enter it.
    long = " OR ".join(f"length({column}) > {MAX_CHARACTERS}" for column in ("item_id", "category", "title"))
    odd = f"(title IS NULL AND image IS NULL) OR {long}"
    for key, item_id, category, title, image, urls in engine.run(
        f"SELECT key, item_id, category, title, image, image_urls FROM drafts WHERE {odd}"
    ):
        try:
            read_core({"item_id": item_id, "category": category, "title": title, "image": image})
        except RowError as error:
            reason = f"{error} (its image was not downloaded)" if urls else str(error)
            metadata.skipped[key] = set_aside(key, item_id, reason)
    engine.run(f"DELETE FROM drafts WHERE {odd}")
    done.items = dict(engine.run("SELECT category, count(*) FROM drafts GROUP BY category ORDER BY min(key)"))
    [[done.images]] = engine.run("SELECT count(image) FROM drafts")
    done.item_filters.append(Filter("written", sum(done.items.values())))


def _set_aside(metadata: Scan, key: int, item_id: str, reason: str) -> Quarantined:
    file, row = metadata.place(key)
    return Quarantined(file=file, row=row, item_id=item_id, reason=reason)


def _write_reviews(
    engine: Engine, done: AmazonBuild, scan: Scan, other_items: int, *, chosen: bool
) -> list[Quarantined]:
    """Write the interactions of the items that were written; return the broken reviews."""
    rows = (
        "chosen SEMI JOIN drafts USING (item_id) ORDER BY user_id, timestamp, item_id"
        if chosen
        else f"reviews {engine.by_key('reviews')}"
    )
    target = done.folder / INTERACTIONS
    with replace_atomically(target) as file:
        query = f"SELECT user_id, item_id, timestamp, rating FROM {rows}"
        written = engine.write_parquet(query, to=file, repeated=("item_id", "rating"))
    if not written:
        target.unlink()  # no interactions: an empty file would be a broken one
    broken = [row for _, row in sorted(scan.skipped.items())]
    done.reviews = ReviewCounts(
        read=scan.read,
        written=written,
        other_items=other_items,
        unselected=scan.read - written - other_items - len(broken),
        broken=len(broken),
        examples=broken[:5],
    )
    return broken


def _card(done: AmazonBuild, *, sources: Sequence[AmazonSource], select: Select | None, mode: Mode) -> dict[str, Any]:
    """Return where the catalogue comes from and what every rule left; it holds no time of day."""
    written = [name for name in ("items.jsonl", INTERACTIONS) if (done.folder / name).is_file()]
    return {
        "select": select,
        "mode": mode if select == "recbench" else None,
        "sources": [one for source in sources for one in _origin(source)],
        "item_filters": [entry._asdict() for entry in done.item_filters],
        "interaction_filters": [entry._asdict() for entry in done.interaction_filters],
        "categories": done.items,
        "images": done.images,
        "skipped_records": len(done.skipped),
        "reviews": {
            name: getattr(done.reviews, name) for name in ("read", "written", "other_items", "unselected", "broken")
        },
        "cleaned_cells": done.cleaned,
        "files": {name: _sha256(done.folder / name) for name in written},
        "fingerprint": file_digest(done.folder / "items.jsonl"),
        "made_by": f"grpo-mmpc {__version__}",
    }


def _origin(source: AmazonSource) -> list[dict[str, Any]]:
    """Return a source's files with their size, hash, and revision of the hub where it is known."""
    if not source.files:
        return [{"name": source.name, "sha256": None, "revision": None}]
    return [
        {"name": file.name if file.name == source.name else f"{source.name}/{file.name}", "bytes": file.stat().st_size}
        | {"sha256": _sha256(file), "revision": source.revision}
        for file in source.files
    ]


def _sha256(file: Path) -> str:
    """Return the hash that the hub shows for its files, too."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
