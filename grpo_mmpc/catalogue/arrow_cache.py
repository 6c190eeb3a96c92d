"""Normalise an items file once into an Arrow file that is memory-mapped from then on."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from grpo_mmpc.catalogue.columns import check_columns, extra_columns
from grpo_mmpc.catalogue.item_batches import checked_items
from grpo_mmpc.catalogue.quarantine import read_quarantine, write_quarantine
from grpo_mmpc.catalogue.records import CORE_COLUMNS
from grpo_mmpc.catalogue.tables import SAMPLE_ROWS, TableFile, open_table
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.metrics import text
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.cache import cache_folder, drop_unused, mark_used
from grpo_mmpc.utils.files import build_folder, write_json
from grpo_mmpc.utils.hashing import file_digest, hex_digest

_BATCH_ROWS = 4096
UNKNOWN_CATEGORY = "(unknown)"
"""Stands for the category of a broken row whose category could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisedItems:
    """The result of reading an items file."""

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
    """Read an items file, or take the result of an earlier reading.

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
    entry = folder / f"{digest}-{code_digest()}-{items_file.suffix[1:]}"
    if not (entry / "meta.json").exists():
        drop_unused(folder)
        try:
            _publish(open_table(items_file, at_most=SAMPLE_ROWS), entry=entry)
        except CatalogueError:
            if items_file.suffix != ".jsonl":
                raise
            # The first lines may not show all columns.
            _publish(open_table(items_file), entry=entry)
    mark_used(entry)
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    return NormalisedItems(
        arrow_file=entry / "items.arrow",
        digest=digest,
        quarantined=read_quarantine(entry / "quarantine.jsonl"),
        **meta,
    )


def _publish(table: TableFile, *, entry: Path) -> None:
    """Write the cache entry; another process may be first."""
    warnings = check_columns(table.path, table.columns)
    try:
        with build_folder(entry) as folder:
            _build(table, warnings=warnings, folder=folder)
    except OSError:
        if not (entry / "meta.json").exists():
            raise


def _build(table: TableFile, *, warnings: list[str], folder: Path) -> None:
    name = table.path.name
    set_aside: list[tuple[Quarantined, str | None]] = []  # with the category
    odd: list[str] = list(warnings)
    rows_read = 0

    def usable() -> Iterator[pa.RecordBatch]:
        nonlocal rows_read
        for batch in checked_items(table, schema):
            rows_read += batch.read
            set_aside.extend(batch.set_aside)
            odd.extend(batch.warnings)
            if len(batch.items):
                yield batch.items

    columns = {**dict.fromkeys(CORE_COLUMNS, pa.string()), **extra_columns(table.columns)}
    schema = pa.schema(list(columns.items()))
    arrow_file = folder / "items.arrow"
    _write_arrow(arrow_file, usable(), schema=schema)
    duplicates = _drop_duplicates(arrow_file, name=name, broken_rows=[broken.row for broken, _ in set_aside])
    set_aside = sorted(set_aside + duplicates, key=lambda pair: pair[0].row)
    write_quarantine(folder / "quarantine.jsonl", (broken for broken, _ in set_aside))
    meta = {
        "rows_read": rows_read,
        "broken_by_category": Counter(category or UNKNOWN_CATEGORY for _, category in set_aside),
        "duplicate_ids": len(duplicates),
        "warnings": odd,
    }
    write_json(folder / "meta.json", meta)


def _write_arrow(path: Path, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _drop_duplicates(arrow_file: Path, *, name: str, broken_rows: list[int]) -> list[tuple[Quarantined, str | None]]:
    """Rewrite the Arrow file with the first row of each item_id; return the later ones.

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
    """Return the data row of each kept item, given the rows that were set aside.

    With rows 2 and 3 broken, items 0, 1, 2 came from rows 1, 4, 5.
    """
    broken = np.array(sorted(broken_rows), dtype=np.int64)
    rank = np.arange(1, num_items + 1, dtype=np.int64)
    # A broken row precedes the item of a rank if fewer good rows than that rank come before it.
    return rank + np.searchsorted(broken - np.arange(len(broken)), rank, side="right")


def code_digest() -> str:
    """Hash the source of this package and of ``words``: changed rules make a new cache entry."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(text.__file__)]
    return hex_digest(*(file.read_bytes() for file in files), size=6)
