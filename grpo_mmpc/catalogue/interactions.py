"""Read the optional interactions file; every row is checked by one rule."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from grpo_mmpc.catalogue.rows import RowError, text_cell
from grpo_mmpc.catalogue.tables import TableFile, find_table, open_table
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.types import Quarantined

COLUMNS = ("user_id", "item_id", "timestamp", "rating")

# Any date after 1980 is above this in milliseconds, and below it in seconds until the year 11,500.
_EARLIEST_MS = 3e11


class Interaction(NamedTuple):
    """One usable row."""

    user_id: str
    item_id: str
    timestamp: int
    """Milliseconds since 1970; fits 64 bits."""
    rating: float | None
    """None where the user gave none (implicit feedback)."""

    @property
    def looks_like_seconds(self) -> bool:
        """True if the timestamp is a date before 1980, as seconds taken for milliseconds are."""
        return self.timestamp < _EARLIEST_MS


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


def open_interactions(folder: Path) -> TableFile | None:
    """Open ``interactions.{parquet,jsonl,csv}`` and check its columns; None without such a file.

    Raises:
        CatalogueError: Several files, an unreadable one, or a missing column.
    """
    path = find_table(folder, "interactions")
    if path is None:
        return None
    table = open_table(path)
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise CatalogueError(
            f"{path} lacks the column {', '.join(missing)}; found: {', '.join(table.columns)}; "
            f"expected: {', '.join(COLUMNS)}"
        )
    return table


def checked_rows(table: TableFile) -> Iterator[Interaction | Quarantined]:
    """Read every row of an interactions file in order; broken ones come with the reason."""
    for raw in table.rows():
        try:
            yield read_interaction(raw.cells())
        except RowError as e:
            yield raw.set_aside(e, file=table.path.name)


def read_interaction(values: Mapping[str, Any]) -> Interaction:
    """Check and clean the cells of one row.

    Raises:
        RowError: No user, item or whole-number timestamp, or a rating that is no number.
    """
    user_id, item_id = _name(values, "user_id"), _name(values, "item_id")
    try:
        timestamp = _whole_number(values.get("timestamp"))
    except (TypeError, ValueError, OverflowError) as e:
        raise RowError(
            f"timestamp is {values.get('timestamp')!r}, expected milliseconds since 1970 as a whole number"
        ) from e
    if timestamp < 0:
        raise RowError(f"timestamp {timestamp} lies before 1970, expected milliseconds since then")
    return Interaction(user_id, item_id, timestamp, _rating(values.get("rating")))


def summarise_interactions(folder: Path, *, known_items: Set[str]) -> InteractionsSummary | None:
    """Count ``interactions.{parquet,jsonl,csv}`` in one pass; None where there is no such file.

    Raises:
        CatalogueError: Several files, an unreadable one, or a missing column.
    """
    table = open_interactions(folder)
    if table is None:
        return None
    broken: list[Quarantined] = []
    unknown: Counter[str] = Counter()
    users: set[str] = set()
    items: set[str] = set()
    pairs: set[int] = set()
    rows_read = repeated = in_seconds = 0
    for row in checked_rows(table):
        rows_read += 1
        if isinstance(row, Quarantined):
            broken.append(row)
            continue
        if row.item_id not in known_items:
            unknown[row.item_id] += 1
            continue
        users.add(row.user_id)
        items.add(row.item_id)
        pair = hash((row.user_id, row.item_id))
        repeated += pair in pairs
        pairs.add(pair)
        in_seconds += row.looks_like_seconds
    return InteractionsSummary(
        file=table.path.name,
        rows_read=rows_read,
        users=len(users),
        items=len(items),
        unknown_items=dict(unknown.most_common()),
        broken=broken,
        repeated=repeated,
        warnings=file_warnings(rows_read=rows_read, in_seconds=in_seconds),
    )


def file_warnings(*, rows_read: int, in_seconds: int) -> list[str]:
    """List odd things about an interactions file that cost no row."""
    warnings = []
    if in_seconds:
        warnings.append(
            f"timestamps before 1980 in {in_seconds:,} of {rows_read:,} rows: they look like seconds, "
            "expected milliseconds"
        )
    if not rows_read:
        warnings.append("the file has no rows")
    return warnings


def _name(values: Mapping[str, Any], column: str) -> str:
    text = text_cell(values, column)
    if text is None:
        raise RowError(f"{column} is missing; remove the row or name the {column.removesuffix('_id')}")
    return text


def _rating(value: Any) -> float | None:
    """Return the rating; None for an empty cell or NaN, which pandas writes into one."""
    if value is None or value == "":
        return None
    try:
        rating = math.inf if isinstance(value, bool) else float(value)  # float() would take true for 1.0
    except (TypeError, ValueError, OverflowError):
        rating = math.inf
    if math.isinf(rating):
        raise RowError(f"rating is {value!r}, expected a number or nothing")
    return None if math.isnan(rating) else rating


def _whole_number(value: Any) -> int:
    """Return milliseconds as an int, from a number, its text, or a Parquet timestamp.

    Raises:
        ValueError: Not a whole number, or beyond 64 bits.
        TypeError: Not a number at all.
    """
    if isinstance(value, datetime):
        # Without a time zone it is UTC, as in Parquet, whatever the zone of this machine.
        return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(value, bool) or value is None:
        raise TypeError("not a number")
    if isinstance(value, str):
        value = value.strip()
        return _whole_number(int(value) if value.lstrip("+-").isdigit() else float(value))
    if value != int(value):
        raise ValueError("not whole")
    if not -(2**63) <= value < 2**63:
        raise ValueError("beyond 64 bits")
    return int(value)
