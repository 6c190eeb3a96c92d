from collections import Counter, defaultdict
from itertools import combinations

import pytest

from grpo_mmpc.nano.catalogue import sample_items
from grpo_mmpc.nano.interactions import MAX_PER_USER, MIN_PER_USER, sample_interactions


@pytest.fixture(scope="module")
def items():
    return sample_items(num_items=1800, seed=6)


@pytest.fixture(scope="module")
def interactions(items):
    return sample_interactions(items, seed=6, num_users=400)


def by_user(interactions):
    users = defaultdict(list)
    for interaction in interactions:
        users[interaction.user_id].append(interaction)
    return users


@pytest.mark.parametrize(
    ("kind", "at_least"), [("type", 4.0), ("brand", 2.0), ("color", 1.4), ("pattern", 1.1), ("material", 1.1)]
)
def test_items_of_one_user_share_attributes_far_more_than_chance(items, interactions, kind, at_least):
    value = {item.item_id: item.attributes[kind] for item in items}
    pairs = [
        value[a.item_id] == value[b.item_id]
        for bought in by_user(interactions).values()
        for a, b in combinations(bought, 2)
    ]
    chance = sum((count / len(items)) ** 2 for count in Counter(value.values()).values())
    assert sum(pairs) / len(pairs) > at_least * chance


def test_recbench_keeps_every_user(interactions):
    sizes = [len(bought) for bought in by_user(interactions).values()]
    assert len(sizes) == 400
    assert (min(sizes), max(sizes)) == (MIN_PER_USER, MAX_PER_USER)
    assert MIN_PER_USER >= 8


def test_nobody_buys_an_item_twice_and_time_only_moves_on(interactions):
    for bought in by_user(interactions).values():
        times = [interaction.timestamp for interaction in bought]
        assert len({interaction.item_id for interaction in bought}) == len(bought)
        assert times == sorted(set(times))


def test_ratings_follow_taste(items, interactions):
    """A user's favourite type, the one bought most, is rated higher than the rest."""
    kind = {item.item_id: item.attributes["type"] for item in items}
    favourite, rest = [], []
    for bought in by_user(interactions).values():
        top = Counter(kind[interaction.item_id] for interaction in bought).most_common(1)[0][0]
        for interaction in bought:
            (favourite if kind[interaction.item_id] == top else rest).append(interaction.rating)
    assert set(favourite + rest) <= {1, 2, 3, 4, 5}
    assert sum(favourite) / len(favourite) > sum(rest) / len(rest) + 0.3


def test_a_seed_repeats_and_another_seed_differs(items):
    assert sample_interactions(items, seed=1, num_users=20) == sample_interactions(items, seed=1, num_users=20)
    assert sample_interactions(items, seed=1, num_users=20) != sample_interactions(items, seed=2, num_users=20)


def test_a_catalogue_too_small_to_choose_from_has_no_interactions(items):
    assert sample_interactions(items[: MAX_PER_USER - 1], seed=0) == []
    assert len(by_user(sample_interactions(items[:MAX_PER_USER], seed=0, num_users=3))) == 3
