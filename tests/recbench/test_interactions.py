"""Reading and filtering interactions: every row is kept or counted, and no pair counts twice."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_mmpc.errors import CatalogueError, RecBenchError
from grpo_mmpc.recbench.interactions import (
    PAPER_FILTER,
    RawInteractions,
    filter_interactions,
    read_interactions,
)
from grpo_mmpc.recbench.settings import InteractionsSection

KNOWN = {"a": "Fruit", "b": "Fruit", "c": "Fruit", "x": "Tools", "y": "Tools"}
EXCLUSIONS = ("unknown_items", "broken", "other_categories", "low_rating", "repeated", "below_core", "beyond_cap")


def write(folder: Path, *rows: str) -> Path:
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp,rating", *rows]) + "\n")
    return folder


def raw_of(rows: list[tuple[str, str, int, float]], known: dict[str, str] | None = None) -> RawInteractions:
    """Rows (user, item, time, rating) as if they had been read."""
    item_ids = tuple(sorted(known or {item for _, item, _, _ in rows}))
    user_ids = tuple(sorted({user for user, _, _, _ in rows}))
    categories = tuple(sorted(set(known.values()))) if known else ("All",)
    return RawInteractions(
        file="interactions.csv",
        user_ids=user_ids,
        item_ids=item_ids,
        categories=categories,
        item_categories=np.array([categories.index(known[i]) if known else 0 for i in item_ids], dtype=np.int64),
        users=np.array([user_ids.index(user) for user, _, _, _ in rows], dtype=np.int64),
        items=np.array([item_ids.index(item) for _, item, _, _ in rows], dtype=np.int64),
        timestamps=np.array([time for _, _, time, _ in rows], dtype=np.int64),
        ratings=np.array([rating for _, _, _, rating in rows], dtype=np.float64),
        rows_read=len(rows),
        unknown_items=0,
        broken=0,
        examples=(),
        warnings=(),
    )


def loose(**changes) -> InteractionsSection:
    settings = {"min_rating": None, "min_per_user": 3, "min_per_item": 1, "max_per_user": None}
    return InteractionsSection(**{**settings, **changes})


def kept(raw: RawInteractions, mode: str = "corrected", **changes) -> list[tuple[str, str, int]]:
    interactions, _ = filter_interactions(raw, category="All", filter=loose(**changes), mode=mode)
    return [
        (interactions.user_ids[u], interactions.item_ids[i], int(t))
        for u, i, t in zip(interactions.users, interactions.items, interactions.timestamps, strict=True)
    ]


# --- reading


def test_rows_that_cannot_be_used_are_counted_with_examples_and_the_others_are_read(tmp_path):
    write(
        tmp_path,
        "v,b,1600000000001,4",
        "u,a,1600000000000,",
        "u,gone,1600000000000,5",
        "u,,1600000000000,5",
        "u,a,soon,5",
    )
    raw = read_interactions(tmp_path, known_items=KNOWN)
    assert (raw.rows_read, raw.unknown_items, raw.broken) == (5, 1, 2)
    assert (raw.user_ids, raw.item_ids, raw.categories) == (("u", "v"), ("a", "b", "c", "x", "y"), ("Fruit", "Tools"))
    assert raw.users.tolist() == [1, 0] and raw.items.tolist() == [1, 0]
    assert raw.timestamps.tolist() == [1600000000001, 1600000000000]
    np.testing.assert_equal(raw.ratings, [4.0, np.nan])
    assert raw.examples == (
        "interactions.csv row 3: no usable item has the item_id gone",
        "interactions.csv row 4: item_id is missing; remove the row or name the item",
        "interactions.csv row 5: timestamp is 'soon', expected milliseconds since 1970 as a whole number",
    )


def test_the_three_formats_read_alike(tmp_path):
    rows = [
        {"user_id": "u", "item_id": item, "timestamp": 1600000000000 + n, "rating": 4.0} for n, item in enumerate("cab")
    ]
    for name in ("parquet", "jsonl", "csv"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet" / "interactions.parquet")
    (tmp_path / "jsonl" / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "csv", *(",".join(str(v) for v in row.values()) for row in rows))
    read = [read_interactions(tmp_path / name, known_items=KNOWN) for name in ("parquet", "jsonl", "csv")]
    for raw in read:
        assert raw.items.tolist() == [2, 0, 1]
        assert raw.timestamps.tolist() == [1600000000000, 1600000000001, 1600000000002]
        assert raw.ratings.tolist() == [4.0, 4.0, 4.0]


def test_a_time_without_a_zone_is_utc_on_every_machine(tmp_path, monkeypatch):
    import time
    from datetime import datetime

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        row = {"user_id": "u", "item_id": "a", "timestamp": datetime(2020, 1, 1), "rating": 4.0}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "interactions.parquet")
        raw = read_interactions(tmp_path, known_items=KNOWN)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert raw.timestamps.tolist() == [1577836800000]


@pytest.mark.parametrize("row", ["u,a,9223372036854775808,5", "u,a,1600000000000,inf"])
def test_numbers_that_no_table_can_hold_are_broken_rows(tmp_path, row):
    write(tmp_path, row)
    assert read_interactions(tmp_path, known_items=KNOWN).broken == 1


def test_without_an_interactions_file_the_message_says_how_to_get_one(tmp_path):
    with pytest.raises(RecBenchError, match=r"columns user_id, item_id, timestamp, rating .*--reviews"):
        read_interactions(tmp_path, known_items=KNOWN)


def test_a_file_without_its_columns_is_refused(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item_id\nu,a\n")
    with pytest.raises(CatalogueError, match="lacks the column user_id, timestamp, rating"):
        read_interactions(tmp_path, known_items=KNOWN)


# --- filtering


REPEATED = [("u", "a", 30, 5), ("u", "a", 10, 5), ("u", "b", 20, 5), ("u", "c", 40, 5), ("u", "c", 40, 1)]
"""User u has a twice, at 10 and at 30, and c twice at the same time."""


def test_a_pair_counts_once_at_its_earliest_time():
    assert kept(raw_of(REPEATED)) == [("u", "a", 10), ("u", "b", 20), ("u", "c", 40)]


def test_paper_mode_keeps_a_pair_at_two_times_and_drops_it_at_one():
    assert kept(raw_of(REPEATED), mode="paper") == [("u", "a", 10), ("u", "b", 20), ("u", "a", 30), ("u", "c", 40)]


def test_repeated_pairs_do_not_carry_a_user_over_the_minimum():
    """Flaw of the official preprocessing: three rows of two items count as three interactions."""
    raw = raw_of([("u", "a", 1, 5), ("u", "a", 2, 5), ("u", "b", 3, 5)])
    assert len(kept(raw, mode="paper")) == 3
    with pytest.raises(RecBenchError, match="the busiest user has 2"):
        kept(raw)


def test_ratings_below_the_minimum_are_dropped_and_missing_ones_kept():
    raw = raw_of([("u", "a", 1, 4), ("u", "b", 2, 3.9), ("u", "c", 3, np.nan), ("u", "d", 4, 5)])
    assert [item for _, item, _ in kept(raw, min_rating=4)] == ["a", "c", "d"]


def test_both_minima_hold_in_the_result_however_far_dropping_leads():
    """d has one user, so it goes; then w has 2 items and goes; then c has one user and goes."""
    rows = [
        ("u", "a"),
        ("u", "b"),
        ("u", "e"),
        ("v", "a"),
        ("v", "b"),
        ("v", "e"),
        ("v", "c"),
        ("w", "c"),
        ("w", "b"),
        ("w", "d"),
    ]
    raw = raw_of([(user, item, n, 5) for n, (user, item) in enumerate(rows)])
    triples = kept(raw, min_per_item=2)
    assert {(user, item) for user, item, _ in triples} == {(user, item) for user in "uv" for item in "abe"}


def test_the_cap_keeps_the_first_in_time_and_the_minima_hold_after_it():
    """v's and w's fourth item d goes beyond the cap; then u's d falls below the minimum."""
    rows = [(user, item, n, 5) for user in "uvw" for n, item in enumerate("abcd" if user != "u" else "dabc")]
    interactions, counts = filter_interactions(
        raw_of(rows), category="All", filter=loose(max_per_user=3, min_per_item=2), mode="corrected"
    )
    assert interactions.user_ids == ("v", "w")
    assert interactions.item_ids == ("a", "b", "c")
    assert (counts.beyond_cap, counts.below_core, counts.kept) == (3, 3, 6)


def test_equal_times_are_ordered_by_item_not_by_the_file():
    rows = [("u", item, 7, 5) for item in "cab"]
    assert [i for _, i, _ in kept(raw_of(rows))] == ["a", "b", "c"]
    assert [i for _, i, _ in kept(raw_of(rows), mode="paper")] == ["c", "a", "b"]


def test_an_interaction_belongs_to_its_items_category():
    rows = [("u", item, n, 5) for n, item in enumerate("abcxy")] + [("v", "x", 1, 5)]
    interactions, counts = filter_interactions(raw_of(rows, KNOWN), category="Fruit", filter=loose(), mode="corrected")
    assert (interactions.user_ids, interactions.item_ids) == (("u",), ("a", "b", "c"))
    assert (counts.other_categories, counts.kept) == (3, 3)


def test_a_user_with_one_interaction_is_a_counted_exclusion():
    rows = [("u", item, n, 5) for n, item in enumerate("abc")] + [("v", "a", 1, 5)]
    interactions, counts = filter_interactions(raw_of(rows), category="All", filter=loose(), mode="corrected")
    assert (interactions.user_ids, counts.below_core) == (("u",), 1)


# a small world so that repeats, ties and cascades are frequent
ROWS = st.lists(
    st.tuples(
        st.sampled_from("uvwz"), st.sampled_from("abcxy"), st.integers(0, 4), st.sampled_from([1.0, 5.0, np.nan])
    ),
    min_size=1,
    max_size=60,
)
FILTERS = st.builds(
    loose,
    min_rating=st.sampled_from([None, 4.0]),
    min_per_item=st.integers(1, 3),
    max_per_user=st.sampled_from([None, 3, 4]),
)


@given(
    rows=ROWS,
    filter=FILTERS,
    mode=st.sampled_from(["corrected", "paper"]),
    category=st.sampled_from(["Tools", "Fruit"]),
)
def test_every_row_is_kept_or_excluded_for_one_reason_and_the_filter_holds(rows, filter, mode, category):
    try:
        interactions, counts = filter_interactions(raw_of(rows, KNOWN), category=category, filter=filter, mode=mode)
    except RecBenchError:
        return
    assert counts.rows_read == counts.kept + sum(getattr(counts, name) for name in EXCLUSIONS)
    assert (counts.kept, counts.users, counts.items) == (
        len(interactions),
        len(interactions.user_ids),
        len(interactions.item_ids),
    )
    per_user, per_item = np.bincount(interactions.users), np.bincount(interactions.items)
    assert per_user.min() >= filter.min_per_user and per_item.min() >= filter.min_per_item
    assert filter.max_per_user is None or per_user.max() <= filter.max_per_user
    if mode == "corrected":
        pairs = set(zip(interactions.users.tolist(), interactions.items.tolist(), strict=True))
        assert len(pairs) == len(interactions)


@given(rows=ROWS, data=st.data())
def test_in_corrected_mode_the_order_of_the_file_makes_no_difference(rows, data):
    shuffled = data.draw(st.permutations(rows))
    try:
        expected = kept(raw_of(rows))
    except RecBenchError:
        with pytest.raises(RecBenchError):
            kept(raw_of(shuffled))
        return
    assert kept(raw_of(shuffled)) == expected


# --- messages


def test_the_counts_are_printed_and_written(tmp_path):
    rows = [f"u,{item},160000000000{n},5" for n, item in enumerate("abc")]
    write(
        tmp_path, *rows, "u,a,1600000000009,5", "u,gone,1600000000000,5", "u,x,1600000000000,5", "v,a,1600000000000,5"
    )
    _, counts = filter_interactions(
        read_interactions(tmp_path, known_items=KNOWN), category="Fruit", filter=loose(), mode="corrected"
    )
    assert counts.excluded() == "1 unknown items, 1 other categories, 1 repeated, 1 users or items with too few"
    assert counts.examples == (
        "interactions.csv row 5: no usable item has the item_id gone",
        "interactions.csv: user u has item a more than once",
    )
    assert json.loads(json.dumps(dataclasses.asdict(counts)))["repeated"] == 1


@pytest.mark.parametrize("timestamp", [1600000000, 1600000000000000])
def test_timestamps_in_seconds_and_microseconds_are_warned_about(tmp_path, timestamp):
    write(tmp_path, f"u,a,{timestamp},5")
    (warning,) = read_interactions(tmp_path, known_items=KNOWN).warnings
    assert "they look like seconds" in warning


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            [("u", "a", 1, 5), ("u", "b", 2, 5), ("v", "a", 3, 5)],
            {},
            r"category Fruit \(3 items\): no interaction is left of 3 in interactions\.csv: .*\(the busiest user has "
            r"2, the "
            r"most taken item 2\); lower min_per_user, to no less than 3, or leave the category out",
        ),
        ([("u", i, 1, 2) for i in "abc"], {"min_rating": 4}, r"none is rated 4 or better; lower min_rating"),
        ([("u", i, 1, 2) for i in "abc"], {"min_per_item": 2}, "lower min_per_user or min_per_item"),
        ([("u", "x", 1, 2)], {}, r"Fruit \(3 items\): none of the 1 rows .*add interactions or leave the category out"),
        (
            [(user, i, n, 2) for user in "uv" for n, i in enumerate("abcd" if user == "u" else "dcba")],
            {"min_per_item": 2, "max_per_user": 3},
            r"2 beyond max_per_user .*raise max_per_user or lower min_per_item",
        ),
    ],
)
def test_when_nothing_is_left_the_message_names_category_counts_and_the_filter_to_loosen(rows, changes, message):
    known = KNOWN | {item: "Fruit" for _, item, _, _ in rows if item not in KNOWN}
    with pytest.raises(RecBenchError, match=message):
        filter_interactions(raw_of(rows, known), category="Fruit", filter=loose(**changes), mode="corrected")


def test_a_category_of_three_items_cannot_pass_the_filter_of_the_paper_and_says_so():
    rows = [(user, item, n, 5) for user in "uvwz" for n, item in enumerate("abc")]
    with pytest.raises(
        RecBenchError, match=r"category Fruit \(3 items\): .*12 of users with fewer than 8.*lower min_per_user"
    ):
        filter_interactions(raw_of(rows, KNOWN), category="Fruit", filter=PAPER_FILTER, mode="corrected")


def test_an_unknown_category_names_the_nearest():
    raw = raw_of([("u", "a", 1, 5)], KNOWN)
    with pytest.raises(RecBenchError, match=r"no category Fruits; did you mean 'Fruit'\?"):
        filter_interactions(raw, category="Fruits", filter=loose(), mode="corrected")


def test_the_filter_of_the_paper():
    assert PAPER_FILTER == InteractionsSection(min_rating=None, min_per_user=8, min_per_item=1, max_per_user=None)
