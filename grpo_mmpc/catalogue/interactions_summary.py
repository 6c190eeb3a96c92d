"""Count the interactions of a catalogue by operations on sets, and remember the outcome."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from grpo_mmpc.catalogue.arrow_cache import code_digest
from grpo_mmpc.catalogue.interaction_batches import checked_batches
from grpo_mmpc.catalogue.interactions import EARLIEST_MS, LATEST_MS, file_warnings, open_interactions
from grpo_mmpc.catalogue.reader import Catalogue
from grpo_mmpc.catalogue.tables import find_table
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.cache import cache_folder, remembered
from grpo_mmpc.utils.files import to_json
from grpo_mmpc.utils.hashing import file_digest, hex_digest

if TYPE_CHECKING:
    import duckdb

_MEMORY = "512MB"
_ROWS_AT_ONCE = 2**20
_ROWS_SORTED = 2**24
_ODD = np.uint64(0x9E3779B97F4A7C15)
"""Times an item's position: spreads pairs over all 64 bits, as the hashes of users are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionsSummary:
    """Counts of an interactions file."""

    file: str
    rows_read: int
    users: int
    items: int
    """Distinct known items with at least one interaction."""
    unknown_items: dict[str, int]
    """Rows by item_id that is not among the usable items, most frequent first."""
    broken: list[Quarantined]
    """Rows without user, item, whole-number timestamp, or with a rating that is no number."""
    repeated: int
    """Rows whose user and item already occurred."""
    warnings: list[str]


def summarise_interactions(catalogue: Catalogue) -> InteractionsSummary | None:
    """Count ``interactions.{parquet,jsonl,csv}`` of a catalogue; None where there is no such file.

    Of the same files it is counted once, and read from the cache from then on.

    Raises:
        CatalogueError: Several files, an unreadable one, or a missing column.
    """
    path = find_table(catalogue.folder, "interactions")
    if path is None:
        return None
    known = [catalogue.fingerprint, *sorted(catalogue.broken_images)]
    key = hex_digest("\0".join([file_digest(path), path.name, code_digest(), *known]))
    return remembered(
        cache_folder("interactions") / f"{key}.json",
        lambda: _count(catalogue),
        read=_read,
        write=lambda file, summary: file.write_text(to_json(asdict(summary)), "utf-8"),
    )


def _read(file: Path) -> InteractionsSummary:
    content = json.loads(file.read_bytes())
    return InteractionsSummary(**{**content, "broken": [Quarantined(**row) for row in content["broken"]]})


def _count(catalogue: Catalogue) -> InteractionsSummary:
    table = open_interactions(catalogue.folder)
    assert table is not None
    broken: list[Quarantined] = []
    rows_read = 0

    def batches() -> Iterator[pa.Table]:
        nonlocal rows_read
        held: list[pa.RecordBatch] = []
        for batch in checked_batches(table):
            rows_read += batch.read
            broken.extend(batch.broken)
            held.append(pa.record_batch([batch.rows, batch.user_ids, batch.item_ids, batch.timestamps], names=_NAMES))
            if sum(map(len, held)) >= _ROWS_AT_ONCE:
                yield pa.Table.from_batches(held)
                held = []
        if held:
            yield pa.Table.from_batches(held)

    with _database() as connection:
        items = catalogue.items.select_columns(["item_id"]).with_format("arrow")[:]
        connection.register("known", items.append_column("item", pa.array(range(len(items)), pa.int32())))
        connection.execute(
            "CREATE TABLE checked (row BIGINT, user UBIGINT, item INTEGER, unknown VARCHAR, no_dates BOOL)"
        )
        for batch in batches():
            connection.register("batch", batch)
            connection.execute(
                "INSERT INTO checked SELECT row, hash(user_id), item, CASE WHEN item IS NULL THEN item_id END, "
                f"timestamp < {EARLIEST_MS} OR timestamp >= {LATEST_MS} FROM batch LEFT JOIN known USING (item_id)"
            )
        counts = "SELECT count(*), count_if(no_dates) FROM checked WHERE item IS NOT NULL"
        [[rows, no_dates]] = connection.execute(counts).fetchall()
        users, different, pairs = _count_different(connection, rows=rows, num_items=len(items))
        unknown = connection.execute(
            "SELECT unknown, count(*) FROM checked WHERE item IS NULL GROUP BY unknown ORDER BY count(*) DESC, min(row)"
        ).fetchall()
    return InteractionsSummary(
        file=table.path.name,
        rows_read=rows_read,
        users=users,
        items=different,
        unknown_items=dict(unknown),
        broken=broken,
        repeated=rows - pairs,
        warnings=file_warnings(rows_read=rows_read, no_dates=no_dates),
    )


_NAMES = ["row", "user_id", "item_id", "timestamp"]


def _count_different(connection: "duckdb.DuckDBPyConnection", *, rows: int, num_items: int) -> tuple[int, int, int]:
    """Return the numbers of users, items, and pairs of them: some users at a time, by sorting."""
    parts = rows // _ROWS_SORTED + 1
    users = pairs = 0
    is_used = np.zeros(num_items, dtype=bool)
    for part in range(parts):
        cells = connection.execute(
            f"SELECT user, item FROM checked WHERE item IS NOT NULL AND user % {parts} = {part}"
        ).fetchnumpy()
        user, item = cells["user"], cells["item"].astype(np.uint64)
        is_used[item] = True
        pairs += _different(user ^ item * _ODD)
        users += _different(user)
    return users, int(is_used.sum()), pairs


def _different(values: npt.NDArray[np.uint64]) -> int:
    values.sort()
    return int((values[1:] != values[:-1]).sum()) + min(1, len(values))


@contextmanager
def _database() -> Iterator["duckdb.DuckDBPyConnection"]:
    """Open a database in memory that spills what is beyond its limit."""
    import duckdb  # heavy: imported on use

    with tempfile.TemporaryDirectory(prefix="grpo_mmpc_") as spill:
        connection = duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": spill})
        try:
            yield connection
        finally:
            connection.close()
