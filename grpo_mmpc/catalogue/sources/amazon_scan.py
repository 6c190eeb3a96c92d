"""The passes over files of Amazon Reviews 2023: which items there are, the wanted ones, reviews.

A record's ``key`` is its place among all sources: the source's position times 2^40, plus its row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.normalise import json_text
from grpo_mmpc.catalogue.rows import RawRow, RowError
from grpo_mmpc.catalogue.sources.amazon_cells import (
    DRAFT_JOINS,
    ITEM_CELLS,
    REVIEW_CELLS,
    draft_columns,
    identity_columns,
    is_identifier,
    presence_columns,
    review_columns,
)
from grpo_mmpc.catalogue.sources.amazon_engine import Engine, is_of_input
from grpo_mmpc.catalogue.sources.amazon_items import read_item
from grpo_mmpc.catalogue.sources.amazon_records import AmazonSource, file_records
from grpo_mmpc.catalogue.sources.amazon_reviews import read_review
from grpo_mmpc.types import Quarantined

_SHIFT = 40
_BATCH_ROWS, _BATCH_CHARACTERS = 10_000, 20_000_000

_ITEM_TABLES = """
    CREATE TABLE seen (key BIGINT, item_id VARCHAR, category VARCHAR, has_title BOOL, has_image BOOL);
    CREATE TABLE drafts (key BIGINT, item_id VARCHAR, category VARCHAR, title VARCHAR, description VARCHAR,
        attributes VARCHAR, image_urls VARCHAR[], main_category VARCHAR, image VARCHAR);
    CREATE VIEW candidates AS SELECT *, false AS is_draft FROM seen UNION ALL
        SELECT key, item_id, category, title IS NOT NULL, len(image_urls) > 0, true FROM drafts;
"""
_REVIEW_TABLE = "CREATE TABLE reviews (key BIGINT, user_id VARCHAR, item_id VARCHAR, timestamp BIGINT, rating DOUBLE)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How records of one kind are read."""

    cells: Sequence[str]
    """Those that are looked at."""
    as_text: bool = False
    """They are texts, not JSON."""
    table: str
    """Where the engine's rows go, behind their key."""
    columns: Callable[[AmazonSource], str]
    """SQL for the other columns of that table."""
    is_read: str
    """SQL that is true for a row of it which the engine has read right."""
    read: Callable[[RawRow, AmazonSource], dict[str, Any]]
    """The row loop's reading of one record, for those that the engine leaves."""
    append: Callable[[Sequence[Mapping[str, Any]]], None]
    """Take the rows that ``read`` gave."""
    tables: Sequence[str]
    """Where rows end up."""
    join: str = ""
    """SQL behind the cells, which are called ``r``."""
    keep: str = ""
    """SQL that moves the rows of one file from ``table`` to where they end up, if elsewhere."""


@dataclass(slots=True, kw_only=True)
class Scan:
    """What the sources of one kind held."""

    sources: Sequence[AmazonSource]
    read: int = 0
    skipped: dict[int, Quarantined] = field(default_factory=dict)
    """By key."""
    parts: list[tuple[Path, int, int]] = field(default_factory=list)
    """Files that the engine could read, with the key before their first row, and their rows."""

    def place(self, key: int) -> tuple[str, int]:
        """Return the source's name and the row of a record."""
        return self.sources[key >> _SHIFT].name, key & ((1 << _SHIFT) - 1)


def scan_items(
    engine: Engine, sources: Sequence[AmazonSource], *, max_items: int | None = None, whole: bool = False
) -> Scan:
    """Fill ``candidates`` with every record that is an item: its id, category, and what it has.

    Args:
        engine: Of the work folder.
        sources: Metadata.
        max_items: Read a source that names its category only as far as its first so many items.
        whole: Fill ``drafts`` with all of them at once: for who wants them all.
    """
    engine.run(_ITEM_TABLES)
    has = "title IS NOT NULL OR len(image_urls) > 0" if whole else "has_title OR has_image"
    kind = _Kind(
        cells=("parent_asin", *ITEM_CELLS) if whole else ("parent_asin", "title", "main_category", "images"),
        table="drafts" if whole else "seen",
        columns=lambda source: (
            f"{identity_columns(source.category)}, {f'{draft_columns()}, NULL' if whole else presence_columns()}"
        ),
        is_read=f"item_id IS NOT NULL AND category IS NOT NULL AND ({has})",
        read=_read_item,
        append=lambda rows: engine.insert("drafts", rows),
        tables=("seen", "drafts"),
        join=DRAFT_JOINS if whole else "",
    )
    scan = Scan(sources=sources)
    with engine.one_thread() if whole else nullcontext():
        for position, source in enumerate(sources):
            base, enough = position << _SHIFT, max_items if source.category is not None else None
            limit = None if enough is None or not source.files else 2 * enough + 1000
            while True:
                rows = _scan_source(engine, scan, kind, base=base, limit=limit, enough=enough)
                last = None if enough is None else _last_wanted(engine, base=base, enough=enough)
                if last is not None or limit is None or rows < limit:
                    break
                limit *= 4
                _forget(engine, scan, kind, after=base)
            if last is not None:
                _forget(engine, scan, kind, after=last)
            scan.read += rows if last is None else last - base
    if not whole:
        engine.cleaned.clear()  # titles were only looked at
    return scan


def scan_reviews(engine: Engine, sources: Sequence[AmazonSource], *, known: str) -> tuple[Scan, int]:
    """Fill ``reviews`` with the usable reviews of known items; return how many were of others, too.

    Args:
        engine: Holds the items.
        sources: Reviews.
        known: SQL of a table with ``item_id``.
    """
    engine.run(_REVIEW_TABLE)
    # By other identifiers than ordinary ones, what Python reads is compared.
    engine.run(f"CREATE TABLE known AS SELECT item_id FROM {known} WHERE {is_identifier('item_id')}")
    engine.run("CREATE TABLE slow AS FROM reviews; CREATE TABLE page AS SELECT *, true AS is_read FROM reviews")
    kind = _Kind(
        cells=REVIEW_CELLS,
        as_text=True,
        table="page",
        columns=lambda source: review_columns(),
        is_read="is_read",
        read=lambda record, _: read_review(record.cells())._asdict(),
        append=lambda rows: engine.insert("slow", rows),
        tables=("reviews", "slow", "page"),
        join="LEFT JOIN known ON known.item_id = r.parent_asin",
        keep="INSERT INTO reviews SELECT * EXCLUDE is_read FROM page WHERE item_id IS NOT NULL; "
        "CREATE OR REPLACE TABLE page AS FROM page LIMIT 0",
    )
    scan = Scan(sources=sources)
    for position in range(len(sources)):
        scan.read += _scan_source(engine, scan, kind, base=position << _SHIFT)
    engine.run(f"DROP TABLE known; DROP TABLE page; INSERT INTO reviews FROM slow SEMI JOIN {known} USING (item_id)")
    return scan, scan.read - engine.count("reviews") - len(scan.skipped)


def read_wanted(engine: Engine, scan: Scan, *, wanted: str) -> None:
    """Fill ``drafts`` with the whole of the wanted items, and with no other.

    Args:
        engine: Holds ``drafts`` of the items that were read in Python.
        scan: The first pass.
        wanted: SQL of a table with ``key``, ``item_id``, ``category`` and ``is_draft``.
    """
    engine.run(f"DELETE FROM drafts WHERE key NOT IN (SELECT key FROM {wanted})")
    with engine.one_thread():
        for file, base, rows in scan.parts:
            here = f"(SELECT * FROM {wanted} WHERE NOT is_draft AND key > {base} AND key <= {base + rows})"
            if not engine.count(here):
                continue
            engine.run(
                f"INSERT INTO drafts SELECT w.key, w.item_id, w.category, {draft_columns()}, NULL "
                f"FROM {engine.relation(file, ITEM_CELLS)} r JOIN {here} w ON w.key = {base} + r.row {DRAFT_JOINS}"
            )


def _read_item(record: RawRow, source: AmazonSource) -> dict[str, Any]:
    item = read_item(record.cells(), category=source.category)
    return item | {"attributes": item["attributes"] and json_text(item["attributes"])}


# --- one source


def _scan_source(
    engine: Engine, scan: Scan, kind: _Kind, *, base: int, limit: int | None = None, enough: int | None = None
) -> int:
    """Read a source, the engine first and then what it leaves; return the number of its rows."""
    source = scan.sources[base >> _SHIFT]
    left: set[int] | None = None
    rows = 0
    if source.files:
        try:
            rows, left = _fast(engine, scan, kind, source, base=base, limit=limit)
        except Exception as error:  # of a damaged file, which is read as far as it goes
            if not is_of_input(error):
                raise
            _forget(engine, scan, kind, after=base)
    if left is not None and not left:
        return rows
    records = file_records(source.files, wanted=left) if source.files else source.records
    slow = _slow(scan, kind, source, records, base=base, enough=enough if left is None else None)
    return rows if left is not None else slow


def _fast(
    engine: Engine, scan: Scan, kind: _Kind, source: AmazonSource, *, base: int, limit: int | None
) -> tuple[int, set[int]]:
    """Read files by the engine; return their number of rows, and those left to the row loop."""
    offset, left = 0, set[int]()
    for file in source.files:
        records = engine.relation(file, kind.cells, as_text=kind.as_text)
        if limit is not None:
            records = f"(FROM {records} LIMIT {limit - offset})"
        start = base + offset
        [[rows]] = engine.run(
            f"INSERT INTO {kind.table} SELECT {start} + row AS key, {kind.columns(source)} FROM {records} r {kind.join}"
        )
        unread = (
            f"FROM {kind.table} WHERE key > {start} AND key <= {start + rows} AND NOT coalesce({kind.is_read}, false)"
        )
        if some := engine.run(f"SELECT key {unread}"):
            left |= {key - base for [key] in some}
            engine.run(f"DELETE {unread}")
        if kind.keep:
            engine.run(kind.keep)
        scan.parts.append((file, start, rows))
        offset += rows
    return offset, left


def _slow(
    scan: Scan, kind: _Kind, source: AmazonSource, records: Iterable[RawRow], *, base: int, enough: int | None
) -> int:
    """Read records one at a time; return the last row."""
    batch: list[dict[str, Any]] = []
    ids: set[str] = set()
    last = held = 0
    for record in records:
        last = record.row
        try:
            values = kind.read(record, source)
        except RowError as e:
            scan.skipped[base + last] = record.set_aside(e, file=source.name, id_column="parent_asin")
            continue
        batch.append({"key": base + last, **values})
        held += sum(len(value) for value in values.values() if isinstance(value, str))
        if len(batch) == _BATCH_ROWS or held > _BATCH_CHARACTERS:
            kind.append(batch)
            batch, held = [], 0
        if enough is not None:
            ids.add(values["item_id"])
            if len(ids) == enough:
                break  # before the next record: a hub source would go on downloading
    kind.append(batch)
    return last


def _forget(engine: Engine, scan: Scan, kind: _Kind, *, after: int) -> None:
    """Drop what was read of a source after one of its records."""
    end = ((after >> _SHIFT) + 1) << _SHIFT
    for table in kind.tables:
        engine.run(f"DELETE FROM {table} WHERE key > {after} AND key < {end}")
    scan.skipped = {key: row for key, row in scan.skipped.items() if not after < key < end}
    if after == end - (1 << _SHIFT):
        scan.parts = [part for part in scan.parts if part[1] < after]


def _last_wanted(engine: Engine, *, base: int, enough: int) -> int | None:
    """Return the key of a source's last item that counts; None where it has fewer."""
    rows = engine.run(
        f"SELECT min(key) FROM candidates GROUP BY item_id HAVING min(key) > {base} "
        f"ORDER BY 1 LIMIT 1 OFFSET {enough - 1}"
    )
    return rows[0][0] if rows else None
