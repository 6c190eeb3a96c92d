"""Splits in time: the published rule by hand, and no pair in two parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_mmpc.recbench.interactions import Interactions
from grpo_mmpc.recbench.records import Split
from grpo_mmpc.recbench.splits import chronological_split, leave_one_out_split, split_statistics


def interactions_of(rows: list[tuple[int, int, int]], *, item_ids: tuple[str, ...] | None = None) -> Interactions:
    """Rows (user, item, time)."""
    rows = sorted(rows, key=lambda row: (row[0], row[2], row[1]))
    users, items, timestamps = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Interactions(
        user_ids=tuple(f"u{n}" for n in range(users.max() + 1)),
        item_ids=item_ids or tuple(f"i{n:03d}" for n in range(items.max() + 1)),
        users=users,
        items=items,
        timestamps=timestamps,
    )


def parts_of(split: Split) -> list[list[tuple[int, int]]]:
    return [
        list(zip(p.users.tolist(), p.items.tolist(), strict=True)) for p in (split.train, split.validation, split.test)
    ]


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (3, (1, 1, 1)),
        (9, (7, 1, 1)),
        (10, (8, 1, 1)),  # int(0.2 * 10) = 2, halved
        (14, (12, 1, 1)),  # int(2.8) = 2
        (15, (12, 1, 2)),  # int(3.0) = 3: the odd one is tested
        (25, (20, 2, 3)),
        (35, (28, 3, 4)),  # int(7.0) = 7: 3 and 4
        (100, (80, 10, 10)),
    ],
)
def test_the_last_fifth_is_held_out_and_its_earlier_half_validates(n, sizes):
    split = chronological_split(interactions_of([(0, i, i) for i in range(n)]))
    assert tuple(len(part) for part in parts_of(split)) == sizes
    assert [pair for part in parts_of(split) for pair in part] == [(0, i) for i in range(n)]  # in order of time


def test_the_rule_is_int_of_a_fifth_for_every_length_that_occurs():
    lengths = np.arange(10, 20_000)
    assert (lengths // 5 == np.array([int(n * 0.2) for n in lengths])).all()


def test_each_user_is_split_alone():
    rows = [(1, 4, 10), (0, 2, 5), (1, 3, 30), (0, 0, 9), (1, 2, 20), (0, 1, 1)]
    split = chronological_split(interactions_of(rows))
    assert parts_of(split) == [[(0, 1), (1, 4)], [(0, 2), (1, 2)], [(0, 0), (1, 3)]]


def test_leave_one_out_tests_the_last_and_validates_with_the_one_before():
    split = leave_one_out_split(interactions_of([(0, i, i) for i in range(20)]))
    assert parts_of(split)[1:] == [[(0, 18)], [(0, 19)]]
    assert len(split.train) == 18


REPEATED = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 0, 4)]
"""The first item is taken again at the end."""


def test_in_paper_mode_a_pair_leaks_from_training_to_test():
    train, _, test = parts_of(chronological_split(interactions_of(REPEATED)))
    assert set(train) & set(test) == {(0, 0)}


HISTORIES = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=3, max_size=25), min_size=1, max_size=5
)
"""Items and times of each user, repeats and ties among them."""


@given(histories=HISTORIES, data=st.data())
def test_no_pair_is_in_two_parts_and_none_is_lost(histories, data):
    rows = [(user, item, time) for user, history in enumerate(histories) for item, time in dict(history).items()]
    counts = np.bincount([user for user, _, _ in rows])
    if counts.min() < 3:
        return
    item_ids = tuple(f"i{n:02d}" for n in range(31))
    interactions = interactions_of(rows, item_ids=item_ids)
    for split in (chronological_split(interactions), leave_one_out_split(interactions)):
        train, validation, test = (set(part) for part in parts_of(split))
        assert not train & validation and not train & test and not validation & test
        assert train | validation | test == {(user, item) for user, item, _ in rows}
        assert {user for user, _ in test} == {user for user, _ in train} == set(range(len(histories)))
    shuffled = interactions_of(data.draw(st.permutations(rows)), item_ids=item_ids)
    assert parts_of(chronological_split(shuffled)) == parts_of(chronological_split(interactions))


def test_statistics_of_a_split_on_one_line():
    """Two users with 3 interactions each of 4 items: density 6 / 8; item 3 is tested only."""
    rows = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 2, 1), (1, 1, 2), (1, 3, 3)]
    found = split_statistics(chronological_split(interactions_of(rows)))
    assert (found.users, found.items, found.train, found.validation, found.test) == (2, 4, 2, 2, 2)
    assert (found.density, found.median_per_user, found.cold_test_items) == (0.75, 3.0, 1)
    assert str(found) == (
        "2 users, 4 items, 2 / 2 / 2 interactions to train / validate / test, density 75.00%, median 3 per user, "
        "1 test item without a training interaction"
    )
