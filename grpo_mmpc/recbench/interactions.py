"""The interactions of a catalogue: read once, filtered by category, every exclusion counted."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.catalogue.interaction_batches import checked_batches
from grpo_mmpc.catalogue.interactions import (
    EARLIEST_MS,
    LATEST_MS,
    file_warnings,
    interactions_problem,
    open_interactions,
)
from grpo_mmpc.config.problems import nearest
from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.records import Flags, Ints, Mode
from grpo_mmpc.recbench.settings import MIN_PER_USER, InteractionsSection

_EXAMPLES = 3


PAPER_FILTER = InteractionsSection(min_rating=None, min_per_user=8, min_per_item=1, max_per_user=None)
"""The filter of MMPCBench's preprocessing (arXiv 2601.19750), not that of its collector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCounts:
    """The rows of an interactions file, and how many of them cannot be used."""

    file: str
    rows_read: int
    unknown_items: int
    """Rows whose item_id no usable item of the catalogue has."""
    broken: int
    """Rows without user, item or time, or with a rating that is no number."""
    examples: tuple[str, ...]
    """The first few that do not count, for a person."""
    warnings: tuple[str, ...]
    """Odd things that cost no row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawInteractions(FileCounts):
    """The usable rows of an interactions file, all categories, in its order; pairs may repeat."""

    user_ids: tuple[str, ...]
    """Ascending."""
    item_ids: tuple[str, ...]
    """Every known item, with interactions or without, ascending."""
    categories: tuple[str, ...]
    item_categories: Ints
    """``[I]``, positions in ``categories``."""
    users: Ints
    """``[N]``."""
    items: Ints
    """``[N]``."""
    timestamps: Ints
    """``[N]``, milliseconds since 1970."""
    ratings: NDArray[np.float64]
    """``[N]``, NaN where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interactions:
    """The interactions that count, sorted by user and then by time.

    Of equal times, the smaller item_id comes first, in paper mode the earlier row.
    """

    user_ids: tuple[str, ...]
    """Ascending; each has at least ``min_per_user`` interactions."""
    item_ids: tuple[str, ...]
    """Ascending; each has at least ``min_per_item`` interactions."""
    users: Ints
    """``[N]``."""
    items: Ints
    """``[N]``. In corrected mode no user has an item twice."""
    timestamps: Ints
    """``[N]``, milliseconds since 1970."""

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionCounts(FileCounts):
    """The fate of every row: ``rows_read`` is the sum of ``kept`` and of all exclusions."""

    category: str
    kept: int
    users: int
    items: int
    other_categories: int
    low_rating: int
    repeated: int
    """Later rows of a pair (in paper mode: of a pair at the same time)."""
    below_core: int
    """Interactions of users or items that have too few."""
    beyond_cap: int
    """Interactions beyond a user's first ``max_per_user``."""

    def excluded(self) -> str:
        """Return how many rows do not count, by reason; empty where all do."""
        reasons = {
            "unknown items": self.unknown_items,
            "broken": self.broken,
            "other categories": self.other_categories,
            "low rating": self.low_rating,
            "repeated": self.repeated,
            "users or items with too few": self.below_core,
            "beyond the cap": self.beyond_cap,
        }
        return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)


def read_interactions(folder: Path, *, known_items: Mapping[str, str]) -> RawInteractions:
    """Read ``interactions.{parquet,jsonl,csv}`` of a catalogue folder.

    ``known_items`` maps each usable item to its category.

    Raises:
        RecBenchError: There is no such file.
        CatalogueError: Several files, an unreadable one, or a missing column.
    """
    table = open_interactions(folder)
    if table is None:
        raise RecBenchError(str(interactions_problem(folder)))
    item_ids, categories = tuple(sorted(known_items)), tuple(sorted(set(known_items.values())))
    item_positions = {item_id: position for position, item_id in enumerate(item_ids)}
    category_positions = {category: position for position, category in enumerate(categories)}
    seen_users: dict[str, int] = {}
    users, items = array("q"), array("q")  # 8 bytes a cell
    timestamps, ratings = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    unknown: list[str] = []
    broken: list[str] = []
    rows_read = num_unknown = num_broken = 0
    for batch in checked_batches(table):
        rows_read += batch.read
        num_broken += len(batch.broken)
        broken += [f"{row.file} row {row.row}: {row.reason}" for row in batch.broken[: _EXAMPLES - len(broken)]]
        names = batch.item_ids.to_pylist()
        item = np.array([item_positions.get(name, -1) for name in names], dtype=np.int64)
        is_known = item >= 0
        num_unknown += int((~is_known).sum())
        unknown += [
            f"{table.path.name} row {batch.rows[i]}: no usable item has the item_id {names[i]}"
            for i in np.flatnonzero(~is_known)[: _EXAMPLES - len(unknown)]
        ]
        named = compress(batch.user_ids.to_pylist(), is_known)
        users.extend(seen_users.setdefault(user, len(seen_users)) for user in named)
        items.frombytes(item[is_known].tobytes())
        timestamps.append(batch.timestamps[is_known])
        ratings.append(batch.ratings[is_known])
    times = np.concatenate(timestamps)
    no_dates = int(((times < EARLIEST_MS) | (times >= LATEST_MS)).sum())
    user_ids, ranks = np.unique(np.array(list(seen_users), dtype=object), return_inverse=True)
    return RawInteractions(
        file=table.path.name,
        user_ids=tuple(user_ids.tolist()),
        item_ids=item_ids,
        categories=categories,
        item_categories=np.array([category_positions[known_items[i]] for i in item_ids], dtype=np.int64),
        users=ranks[np.array(users, dtype=np.int64)],
        items=np.array(items, dtype=np.int64),
        timestamps=times,
        ratings=np.concatenate(ratings),
        rows_read=rows_read,
        unknown_items=num_unknown,
        broken=num_broken,
        examples=(*unknown, *broken),
        warnings=tuple(file_warnings(rows_read=rows_read, no_dates=no_dates)),
    )


def filter_interactions(
    raw: RawInteractions, *, category: str, filter: InteractionsSection, mode: Mode
) -> tuple[Interactions, InteractionCounts]:
    """Keep the interactions of a category that count.

    In this order: the category's items, the minimum rating, one row for each pair, the minima for
    users and items until nothing changes, each user's first so many, and the minima again, so that
    they hold in what is left.

    Args:
        raw: From :func:`read_interactions`.
        category: An interaction belongs to its item's category.
        filter: Which interactions count.
        mode: ``corrected`` keeps the earliest row of each (user, item). ``paper`` only removes rows
            that repeat user, item and time, so that a pair may end in the training part and in the
            test part (a flaw of the protocol).

    Raises:
        RecBenchError: No such category, or nothing is left; the message says which filter to
            loosen.
    """
    rows = np.flatnonzero(raw.item_categories[raw.items] == _category_position(raw, category))
    of_category = len(rows)
    rows = rows[~(raw.ratings[rows] < filter.min_rating)] if filter.min_rating is not None else rows
    rated = len(rows)
    is_first = _first_of_each(raw, rows, mode=mode)
    repeats, rows = rows[~is_first], rows[is_first]
    core = _core(raw, rows, filter=filter)
    keys = (raw.items[core], raw.timestamps[core], raw.users[core])  # the last counts most
    core = core[np.lexsort(keys if mode == "corrected" else keys[1:])]
    capped = core if filter.max_per_user is None else core[_positions(raw.users[core]) < filter.max_per_user]
    kept = _core(raw, capped, filter=filter)
    users, user_positions = np.unique(raw.users[kept], return_inverse=True)
    items, item_positions = np.unique(raw.items[kept], return_inverse=True)
    counts = InteractionCounts(
        file=raw.file,
        category=category,
        rows_read=raw.rows_read,
        kept=len(kept),
        users=len(users),
        items=len(items),
        unknown_items=raw.unknown_items,
        broken=raw.broken,
        other_categories=len(raw.users) - of_category,
        low_rating=of_category - rated,
        repeated=len(repeats),
        below_core=(len(rows) - len(core)) + (len(capped) - len(kept)),
        beyond_cap=len(core) - len(capped),
        examples=(
            *raw.examples,
            *(
                f"{raw.file}: user {raw.user_ids[user]} has item {raw.item_ids[item]} more than once"
                for user, item in zip(raw.users[repeats[:_EXAMPLES]], raw.items[repeats[:_EXAMPLES]], strict=True)
            ),
        ),
        warnings=raw.warnings,
    )
    if not len(kept):
        raise RecBenchError(_nothing_left(raw, rows, counts=counts, filter=filter))
    interactions = Interactions(
        user_ids=tuple(raw.user_ids[u] for u in users),
        item_ids=tuple(raw.item_ids[i] for i in items),
        users=user_positions,
        items=item_positions,
        timestamps=raw.timestamps[kept],
    )
    return interactions, counts


def _category_position(raw: RawInteractions, category: str) -> int:
    if category not in raw.categories:
        raise RecBenchError(f"the catalogue has no category {category}; {nearest(category, raw.categories)}")
    return raw.categories.index(category)


def _first_of_each(raw: RawInteractions, rows: Ints, *, mode: Mode) -> Flags:
    """Return which rows are the earliest of their pair (paper: the first of pair and time)."""
    users, items, timestamps = raw.users[rows], raw.items[rows], raw.timestamps[rows]
    order = np.lexsort((timestamps, items, users))  # stable: of equal rows, the first of the file comes first
    keys = (users, items) if mode == "corrected" else (users, items, timestamps)
    is_new = np.ones(len(rows), dtype=bool)
    is_new[1:] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    is_first = np.empty(len(rows), dtype=bool)
    is_first[order] = is_new
    return is_first


def _core(raw: RawInteractions, rows: Ints, *, filter: InteractionsSection) -> Ints:
    """Drop users and items with too few, repeatedly: dropping one may leave too few of another."""
    while True:
        users, items = raw.users[rows], raw.items[rows]
        enough = np.bincount(users, minlength=1)[users] >= filter.min_per_user
        enough &= np.bincount(items, minlength=1)[items] >= filter.min_per_item
        if enough.all():
            return rows
        rows = rows[enough]


def _positions(sorted_values: Ints) -> Ints:
    """Return how many equal values precede each: ``[3, 3, 7, 7, 7] -> [0, 1, 0, 1, 2]``."""
    starts = np.flatnonzero(np.r_[True, np.diff(sorted_values) != 0])[: len(sorted_values)]
    lengths = np.diff(np.r_[starts, len(sorted_values)])
    return np.arange(len(sorted_values)) - np.repeat(starts, lengths)


def _nothing_left(
    raw: RawInteractions, unique_rows: Ints, *, counts: InteractionCounts, filter: InteractionsSection
) -> str:
    """Say what to loosen, given the rows that the rating and the repeats left."""
    of_category = counts.rows_read - counts.unknown_items - counts.broken - counts.other_categories
    num_items = int((raw.item_categories == raw.categories.index(counts.category)).sum())
    name = f"category {counts.category} ({num_items:,} item{'' if num_items == 1 else 's'})"
    if of_category == 0:
        return (
            f"{name}: none of the {raw.rows_read:,} rows of {raw.file} is an interaction with one of them "
            f"({raw.unknown_items:,} unknown items, {raw.broken:,} broken rows); add interactions or leave the "
            "category out"
        )
    head = f"{name}: no interaction is left of {of_category:,} in {raw.file}"
    if counts.low_rating == of_category:
        return f"{head}: none is rated {filter.min_rating:g} or better; lower min_rating"
    busiest = int(np.bincount(raw.users[unique_rows]).max())
    loosen = "lower min_per_user or min_per_item"
    if counts.beyond_cap:
        loosen = "raise max_per_user or lower min_per_item"
    elif busiest < filter.min_per_user:
        loosen = f"lower min_per_user, to no less than {MIN_PER_USER}, or leave the category out"
    return (
        f"{head}: {counts.low_rating:,} rated too low, {counts.repeated:,} repeated, {counts.below_core:,} of users "
        f"with fewer than {filter.min_per_user} or items with fewer than {filter.min_per_item}, {counts.beyond_cap:,} "
        f"beyond max_per_user (the busiest user has {busiest}, the most taken item "
        f"{np.bincount(raw.items[unique_rows]).max()}); {loosen}"
    )
