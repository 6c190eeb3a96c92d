"""Read the optional interactions file; every row is checked by one rule."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from grpo_mmpc.catalogue.rows import RowError, text_cell
from grpo_mmpc.catalogue.tables import SAMPLE_ROWS, TableFile, find_table, open_table
from grpo_mmpc.errors import CatalogueError

COLUMNS = ("user_id", "item_id", "timestamp", "rating")

EARLIEST_MS, LATEST_MS = 300_000_000_000, 4_102_444_800_000
"""Dates from 1980 to 2100 in milliseconds; in seconds they are below, in microseconds above."""


class Interaction(NamedTuple):
    """One usable row."""

    user_id: str
    item_id: str
    timestamp: int
    """Milliseconds since 1970; fits 64 bits."""
    rating: float | None
    """None where the user gave none (implicit feedback)."""

    @property
    def is_no_date(self) -> bool:
        """True if the timestamp is of no likely year, as seconds taken for milliseconds are."""
        return not EARLIEST_MS <= self.timestamp < LATEST_MS


def open_interactions(folder: Path) -> TableFile | None:
    """Open ``interactions.{parquet,jsonl,csv}`` and check its columns; None without such a file.

    Raises:
        CatalogueError: Several files, an unreadable one, or a missing column.
    """
    path = find_table(folder, "interactions")
    if path is None:
        return None
    table = open_table(path, at_most=SAMPLE_ROWS)
    if not set(COLUMNS) <= {*table.columns}:
        table = open_table(path)
    if missing := [c for c in COLUMNS if c not in table.columns]:
        raise CatalogueError(
            f"{path} lacks the column {', '.join(missing)}; found: {', '.join(table.columns)}; "
            f"expected: {', '.join(COLUMNS)}"
        )
    return table


def interactions_problem(folder: Path) -> str | None:
    """Return why a catalogue folder has no interactions to read; None where it has some."""
    try:
        if open_interactions(folder) is not None:
            return None
    except CatalogueError as error:
        return str(error)
    return (
        f"{folder} has no interactions.parquet, .jsonl or .csv, and without interactions there is nothing to "
        f"recommend; write one with the columns {', '.join(COLUMNS)} (timestamp in milliseconds since 1970), or for "
        "Amazon Reviews 2023 let grpo-mmpc data amazon SOURCE --reviews PATH write it"
    )


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


def file_warnings(*, rows_read: int, no_dates: int) -> list[str]:
    """List odd things about an interactions file that cost no row."""
    warnings = []
    if no_dates:
        warnings.append(
            f"timestamps before 1980 or after 2100 in {no_dates:,} of {rows_read:,} rows: they look like seconds or "
            "microseconds, expected milliseconds"
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
