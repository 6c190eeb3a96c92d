"""Normalises an items file once into an Arrow file that is memory-mapped from then on."""

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from grpo_mmpc.catalogue.columns import check_columns, extra_columns, to_arrow
from grpo_mmpc.catalogue.quarantine import read_quarantine, write_quarantine
from grpo_mmpc.catalogue.records import CORE_COLUMNS, CoreCells, RowError, read_core, readable_cell
from grpo_mmpc.catalogue.rows import TableFile, open_table
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.cache import cache_folder, drop_unused

_BATCH_ROWS = 4096
UNKNOWN_CATEGORY = "(unknown)"
"""Stands for the category of a broken row whose category could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisedItems:
    """An items file after reading."""

    arrow_file: Path
    digest: str
    """Hash of the items file's content."""
    rows_read: int
    quarantined: list[Quarantined]
    broken_by_category: dict[str, int]
    """Rows set aside, by category."""
    duplicate_ids: int
    """Rows set aside because an earlier row has the same item_id."""
    warnings: list[str]
    """Odd things that cost no row."""


def normalise_items(items_file: Path) -> NormalisedItems:
    """Read an items file, or find it already read.

    The result lies in the toolkit's cache under a hash of the file's content (and of this package's
    code), so an edited file is never mistaken for its former self, and one that was only touched or
    copied is not read again.

    Raises:
        CatalogueError: The file as a whole cannot be read.
    """
    try:
        digest = file_digest(items_file)
    except OSError as e:
        raise CatalogueError(f"{items_file} cannot be read: {e.strerror}; check its permissions") from e
    folder = cache_folder("catalogues")
    entry = folder / f"{digest}-{_code_digest()}-{items_file.suffix[1:]}"
    if not (entry / "meta.json").exists():
        table = open_table(items_file)
        warnings = check_columns(items_file, table.columns)
        drop_unused(folder)
        _publish(table, warnings=warnings, entry=entry)
    with suppress(OSError):  # a cache shared with another user
        os.utime(entry)
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    return NormalisedItems(
        arrow_file=entry / "items.arrow",
        digest=digest,
        rows_read=meta["rows_read"],
        quarantined=read_quarantine(entry / "quarantine.jsonl"),
        broken_by_category=meta["broken_by_category"],
        duplicate_ids=meta["duplicate_ids"],
        warnings=meta["warnings"],
    )


def file_digest(path: Path) -> str:
    """Hash of a file's content, 32 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _publish(table: TableFile, *, warnings: list[str], entry: Path) -> None:
    """Build the entry beside its place and move it there whole; another process may win the race."""
    building = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}.partial")
    building.mkdir()
    try:
        _build(table, warnings=warnings, folder=building)
        try:
            building.rename(entry)
        except OSError:
            if not (entry / "meta.json").exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _build(table: TableFile, *, warnings: list[str], folder: Path) -> None:
    name = table.path.name
    rejected: list[tuple[Quarantined, str | None]] = []
    odd: list[str] = list(warnings)
    rows_read = 0

    def accepted() -> Iterator[tuple[CoreCells, Mapping[str, Any]]]:
        nonlocal rows_read
        for raw in table.rows():
            rows_read += 1
            try:
                if raw.problem is not None:
                    raise RowError(raw.problem)
                core = read_core(raw.values)
            except RowError as e:
                item_id = readable_cell(raw.values, "item_id")
                broken = Quarantined(file=name, row=raw.row, item_id=item_id, reason=str(e))
                rejected.append((broken, readable_cell(raw.values, "category")))
                continue
            if core.warning is not None:
                odd.append(f"{name} row {raw.row} ({core.item_id}): {core.warning}")
            yield core, raw.values

    extras = extra_columns(table.columns)
    schema = pa.schema([(c, pa.string()) for c in CORE_COLUMNS] + list(extras.items()))
    arrow_file = folder / "items.arrow"
    _write_arrow(arrow_file, _batches(accepted(), extras=extras, schema=schema), schema=schema)
    duplicates = _drop_duplicates(arrow_file, name=name, broken_rows=[q.row for q, _ in rejected])
    set_aside = sorted(rejected + duplicates, key=lambda pair: pair[0].row)
    write_quarantine(folder / "quarantine.jsonl", (q for q, _ in set_aside))
    meta = {
        "rows_read": rows_read,
        "broken_by_category": Counter(category or UNKNOWN_CATEGORY for _, category in set_aside),
        "duplicate_ids": len(duplicates),
        "warnings": odd,
    }
    (folder / "meta.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")


def _batches(
    rows: Iterable[tuple[CoreCells, Mapping[str, Any]]], *, extras: Mapping[str, pa.DataType], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}

    def flush() -> pa.RecordBatch:
        arrays = [to_arrow(columns[field.name], field.type) for field in schema]
        for values in columns.values():
            values.clear()
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    for core, values in rows:
        for name in CORE_COLUMNS:
            columns[name].append(getattr(core, name))
        for name in extras:
            columns[name].append(values.get(name))
        if len(columns["item_id"]) == _BATCH_ROWS:
            yield flush()
    if columns["item_id"]:
        yield flush()


def _write_arrow(path: Path, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _drop_duplicates(arrow_file: Path, *, name: str, broken_rows: list[int]) -> list[tuple[Quarantined, str | None]]:
    """Keep the first row of each item_id; rewrite the Arrow file without the later ones and return those.

    Works on Arrow's own dictionary encoding, a few bytes a row, instead of a Python set of every
    identifier.
    """
    with pa.memory_map(str(arrow_file)) as source:
        table = pa.ipc.open_stream(source).read_all()
        codes = [chunk.indices.to_numpy() for chunk in table["item_id"].dictionary_encode().chunks]
        positions = np.concatenate(codes).astype(np.int64) if codes else np.empty(0, dtype=np.int64)
        _, first, code = np.unique(positions, return_index=True, return_inverse=True)
        later = np.flatnonzero(first[code] != np.arange(len(code)))
        if len(later) == 0:
            return []
        rows = data_rows(len(positions), broken_rows=broken_rows)
        duplicates = []
        for index in later:
            item_id = table["item_id"][int(index)].as_py()
            reason = (
                f"item_id {item_id} already names row {rows[first[code[index]]]}, which is kept; "
                "give each item its own identifier or remove this row"
            )
            broken = Quarantined(file=name, row=int(rows[index]), item_id=item_id, reason=reason)
            duplicates.append((broken, table["category"][int(index)].as_py()))
        keep = np.ones(len(positions), dtype=bool)
        keep[later] = False
        kept = table.filter(pa.array(keep))
        rewritten = arrow_file.with_suffix(".unique")
        _write_arrow(rewritten, kept.to_batches(max_chunksize=_BATCH_ROWS), schema=table.schema)
    rewritten.replace(arrow_file)
    return duplicates


def data_rows(num_items: int, *, broken_rows: Iterable[int]) -> npt.NDArray[np.int64]:
    """Data row of each kept item, given the rows that were set aside.

    With rows 2 and 3 broken, items 0, 1, 2 came from rows 1, 4, 5.
    """
    broken = np.array(sorted(broken_rows), dtype=np.int64)
    rank = np.arange(1, num_items + 1, dtype=np.int64)
    # A broken row precedes the item of a rank if fewer good rows than that rank come before it.
    return rank + np.searchsorted(broken - np.arange(len(broken)), rank, side="right")


def _code_digest() -> str:
    """Hash of this package's source: changed reading rules make a new cache entry without anybody thinking of it."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
