"""Checks the optional interactions file against the items."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.normalise import clean_text
from grpo_mmpc.catalogue.rows import RawRow, find_table, open_table
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.types import Quarantined

COLUMNS = ("user_id", "item_id", "timestamp", "rating")

# Any date after 1980 is above this in milliseconds, and below it in seconds until the year 11,500.
_EARLIEST_MS = 3e11


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionsSummary:
    """What an interactions file holds."""

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


def summarise_interactions(folder: Path, *, known_items: Collection[str]) -> InteractionsSummary | None:
    """Read ``interactions.{parquet,jsonl,csv}`` once; None where there is no such file.

    Args:
        folder: The catalogue folder.
        known_items: Identifiers of the usable items.

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
            f"{path} lacks the column {', '.join(missing)}; found: {', '.join(table.columns)}; expected: {', '.join(COLUMNS)}"
        )
    known = known_items if isinstance(known_items, set | frozenset | dict) else set(known_items)
    broken: list[Quarantined] = []
    unknown: Counter[str] = Counter()
    users: set[str] = set()
    items: set[str] = set()
    pairs: set[int] = set()
    rows_read = repeated = in_seconds = 0
    for raw in table.rows():
        rows_read += 1
        problem = raw.problem or _problem(raw.values)
        if problem is not None:
            broken.append(Quarantined(file=path.name, row=raw.row, item_id=_item_id(raw), reason=problem))
            continue
        item_id, user_id = str(clean_text(raw.values["item_id"])), str(clean_text(raw.values["user_id"]))
        if item_id not in known:
            unknown[item_id] += 1
            continue
        users.add(user_id)
        items.add(item_id)
        pair = hash((user_id, item_id))
        repeated += pair in pairs
        pairs.add(pair)
        in_seconds += 0 < _whole_number(raw.values["timestamp"]) < _EARLIEST_MS
    warnings = []
    if in_seconds:
        warnings.append(
            f"timestamps before 1980 in {in_seconds:,} of {rows_read:,} rows: they look like seconds, expected milliseconds"
        )
    if not rows_read:
        warnings.append("the file has no rows")
    return InteractionsSummary(
        file=path.name,
        rows_read=rows_read,
        users=len(users),
        items=len(items),
        unknown_items=dict(unknown.most_common()),
        broken=broken,
        repeated=repeated,
        warnings=warnings,
    )


def _item_id(raw: RawRow) -> str | None:
    try:
        return clean_text(raw.values.get("item_id"))
    except TypeError:
        return None


def _problem(values: Mapping[str, Any]) -> str | None:
    for column in ("user_id", "item_id"):
        try:
            if clean_text(values.get(column)) is None:
                return f"{column} is missing; remove the row or name the {column.removesuffix('_id')}"
        except TypeError as e:
            return f"{column} holds {e}"
    try:
        _whole_number(values.get("timestamp"))
    except (TypeError, ValueError, OverflowError):
        return f"timestamp is {values.get('timestamp')!r}, expected milliseconds since 1970 as a whole number"
    rating = values.get("rating")
    try:
        # A rating may be absent (implicit feedback), but not be something else.
        if rating not in (None, "") and isinstance(rating, bool):
            raise ValueError
        float(rating if rating not in (None, "") else 0.0)
    except (TypeError, ValueError):
        return f"rating is {rating!r}, expected a number or nothing"
    return None


def _whole_number(value: Any) -> int:
    """Milliseconds as an int, from a number, its text, or a Parquet timestamp.

    Raises:
        ValueError: Not a whole number.
        TypeError: Not a number at all.
    """
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, bool) or value is None:
        raise TypeError("not a number")
    if isinstance(value, str):
        value = value.strip()
        return int(value) if value.lstrip("+-").isdigit() else _whole_number(float(value))
    if value != int(value):
        raise ValueError("not whole")
    return int(value)
