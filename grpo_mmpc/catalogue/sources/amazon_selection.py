"""The items and interactions of MMPCBench (arXiv 2601.19750), counted at every filter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from grpo_mmpc.catalogue.sources.amazon_engine import Engine

Select = Literal["cqbench", "recbench"]
Mode = Literal["corrected", "paper"]

PER_CATEGORY = 1000
"""Items of CQBench, and users of RecBench."""


class Filter(NamedTuple):
    """What a rule left."""

    rule: str
    rows: int
    """Records or interactions."""
    users: int | None = None
    items: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """Which users and interactions RecBench takes."""

    min_rating: float | None
    min_per_user: int
    min_per_item: int
    max_per_user: int | None


RULES: dict[Mode, _Rules] = {
    # What the benchmark keeps as it is: its own minimum is 8 interactions a user.
    "corrected": _Rules(min_rating=None, min_per_user=8, min_per_item=5, max_per_user=None),
    # The official collector, which the official preprocessing then contradicts.
    "paper": _Rules(min_rating=4, min_per_user=5, min_per_item=1, max_per_user=20),
}


def distinct_items(engine: Engine, *, read: int) -> list[Filter]:
    """Make the table ``kept`` of the first record of each item."""
    engine.run(
        "CREATE TABLE kept AS FROM candidates "
        "SEMI JOIN (SELECT min(key) AS key FROM candidates GROUP BY item_id) USING (key)"
    )
    return [
        Filter("metadata records", read),
        Filter("readable, with an id, and a title or an image address", engine.count("candidates")),
        Filter("first record of each item", engine.count("kept")),
    ]


def select_items(engine: Engine, *, select: Select | None, max_items: int | None) -> list[Filter]:
    """Make the table ``wanted``: all items, the first ones of each category, or those of CQBench.

    CQBench takes items with a title and an image address, a thousand a category unless
    ``max_items`` says otherwise, in the order of their ids' hashes: the same ones on every machine,
    and nearly the same ones when the source grows.
    """
    filters = []
    table, order = "kept", "key"
    if select == "cqbench":
        engine.run("CREATE VIEW eligible AS FROM kept WHERE has_title AND has_image")
        filters.append(Filter("with a title and an image address", engine.count("eligible")))
        table, order, max_items = (
            "eligible",
            "hash_order('cqbench' || chr(0) || item_id), key",
            max_items or PER_CATEGORY,
        )
    few = f"QUALIFY row_number() OVER (PARTITION BY category ORDER BY {order}) <= {max_items}" if max_items else ""
    engine.run(f"CREATE TABLE wanted AS FROM {table} {few}")
    if max_items:
        how = "by the hash of the id" if select else "the first ones"
        filters.append(Filter(f"{max_items:,} a category, {how}", engine.count("wanted")))
    return filters


def select_interactions(engine: Engine, *, mode: Mode, max_users: int | None = None) -> list[Filter]:
    """Make the tables ``chosen`` (interactions of RecBench) and ``wanted`` (their items).

    Both modes work category by category. ``corrected`` keeps the earliest interaction of each user
    and item, drops users with fewer than 8 and items with fewer than 5 until nothing changes
    (k-core), and takes a thousand users a category by the hash of their ids, whole histories in the
    order of time: nothing of a user's future precedes its past, and the benchmark's own filter
    drops nothing. ``paper`` follows the official collector: ratings from 4, users with 5, the first
    20 of each and the first thousand users as the file has them, and a pair of user and item may
    repeat at another time, so that it can end in training and test.

    Args:
        engine: Holds ``reviews`` and ``kept``.
        mode: Which rules.
        max_users: Users a category; None takes a thousand.
    """
    rules, users = RULES[mode], max_users or PER_CATEGORY
    engine.run("CREATE TABLE chosen AS SELECT r.*, k.category FROM reviews r JOIN kept k USING (item_id)")
    counted = [_counted(engine, "reviews of the catalogue's items")]

    def keep(rule: str, condition: str) -> None:
        engine.run(f"CREATE OR REPLACE TABLE next AS FROM chosen {condition}")
        engine.run("DROP TABLE chosen; ALTER TABLE next RENAME TO chosen")
        counted.append(_counted(engine, rule))

    if mode == "corrected":
        keep(
            "of items with a title and an image address",
            "SEMI JOIN (FROM kept WHERE has_title AND has_image) USING (item_id)",
        )
    if rules.min_rating is not None:
        keep(f"rated {rules.min_rating:g} or better", f"WHERE rating >= {rules.min_rating}")
    pair = "category, user_id, item_id" + (", timestamp" if mode == "paper" else "")
    keep(
        "one row for each user, item and time" if mode == "paper" else "the earliest of each user and item",
        f"QUALIFY row_number() OVER (PARTITION BY {pair} ORDER BY timestamp, key) = 1",
    )
    _core(engine, rules, keep)
    if rules.max_per_user is not None:
        keep(
            f"the first {rules.max_per_user} of each user in the file",
            f"QUALIFY row_number() OVER (PARTITION BY category, user_id ORDER BY key) <= {rules.max_per_user}",
        )
    order = "min(key)" if mode == "paper" else "hash_order('recbench' || chr(0) || user_id), user_id"
    how = "as the file has them" if mode == "paper" else "by the hash of the id"
    keep(
        f"{users:,} users a category, {how}",
        "SEMI JOIN (SELECT category, user_id FROM chosen GROUP BY category, user_id "
        f"QUALIFY row_number() OVER (PARTITION BY category ORDER BY {order}) <= {users}) USING (category, user_id)",
    )
    engine.run("CREATE TABLE wanted AS FROM kept SEMI JOIN chosen USING (item_id)")
    return counted


def _core(engine: Engine, rules: _Rules, keep: Callable[[str, str], None]) -> None:
    """Drop users and items with too few interactions until nothing changes."""
    while True:
        before = engine.count("chosen")
        for column, least in (("user_id", rules.min_per_user), ("item_id", rules.min_per_item)):
            if least > 1:
                enough = f"(SELECT category, {column} FROM chosen GROUP BY ALL HAVING count(*) >= {least})"
                what = "users" if column == "user_id" else "items"
                keep(f"{what} with {least} or more", f"SEMI JOIN {enough} USING (category, {column})")
        if engine.count("chosen") == before:
            return


def _counted(engine: Engine, rule: str) -> Filter:
    [[rows, users, items]] = engine.run(
        "SELECT count(*), count(DISTINCT (category, user_id)), count(DISTINCT item_id) FROM chosen"
    )
    return Filter(rule, rows, users, items)
