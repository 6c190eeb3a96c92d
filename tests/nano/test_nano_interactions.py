import os
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from grpo_mmpc.nano.interactions import MAX_ELSEWHERE, MAX_PER_USER, MIN_PER_USER, sample_interactions
from grpo_mmpc.nano.items import sample_items
from grpo_mmpc.nano.vocabulary import CATEGORIES


@pytest.fixture(scope="module")
def items():
    return sample_items(num_items=3600, seed=6)


@pytest.fixture(scope="module")
def interactions(items):
    return sample_interactions(items, seed=6, num_users=450)


def by_user(interactions):
    users = defaultdict(list)
    for interaction in interactions:
        users[interaction.user_id].append(interaction)
    return users


def by_department(items, bought):
    category = {item.item_id: item.category for item in items}
    return Counter(category[interaction.item_id] for interaction in bought)


@pytest.mark.parametrize(
    ("kind", "at_least"),
    [("type", 2.0), ("brand", 2.0), ("size", 1.6), ("color", 2.2), ("material", 1.08)],
)
def test_what_a_user_takes_at_home_shares_attributes_far_more_than_chance(items, interactions, kind, at_least):
    """Chance is that of two items of one department: belonging to it explains nothing."""
    item_of = {item.item_id: item for item in items}
    shared, pairs = 0, 0
    for bought in by_user(interactions).values():
        home = by_department(items, bought).most_common(1)[0][0]
        values = [i.attributes[kind] for x in bought if (i := item_of[x.item_id]).category == home]
        shared += sum(a == b for a, b in combinations(values, 2))
        pairs += len(values) * (len(values) - 1) // 2
    chance = 0.0
    for category in CATEGORIES:
        counts = Counter(item.attributes[kind] for item in items if item.category == category)
        chance += sum((count / counts.total()) ** 2 for count in counts.values()) / len(CATEGORIES)
    assert shared / pairs > at_least * chance


def test_recbench_keeps_every_user_in_the_home_department(items, interactions):
    """It runs each category alone and keeps users with at least eight interactions in it."""
    homes = Counter()
    for bought in by_user(interactions).values():
        (home, at_home), *elsewhere = by_department(items, bought).most_common()
        assert MIN_PER_USER <= at_home <= MAX_PER_USER
        assert sum(count for _, count in elsewhere) <= MAX_ELSEWHERE
        homes[home] += 1
    assert MIN_PER_USER >= 8
    assert homes == dict.fromkeys(CATEGORIES, 50)  # 450 users, departments take turns


def test_users_sometimes_buy_elsewhere(items, interactions):
    elsewhere = Counter(
        len(bought) - max(by_department(items, bought).values()) for bought in by_user(interactions).values()
    )
    assert set(elsewhere) == {0, 1, 2}
    assert min(elsewhere.values()) > 100  # of 450: each a third


def test_nobody_buys_an_item_twice_and_time_only_moves_on(interactions):
    for bought in by_user(interactions).values():
        times = [interaction.timestamp for interaction in bought]
        assert len({interaction.item_id for interaction in bought}) == len(bought)
        assert times == sorted(set(times))


def test_ratings_follow_taste(items, interactions):
    """Items of a user's favourite brand, the one bought most, are rated higher than the rest."""
    brand = {item.item_id: item.attributes["brand"] for item in items}
    favourite, rest = [], []
    for bought in by_user(interactions).values():
        top = Counter(brand[interaction.item_id] for interaction in bought).most_common(1)[0][0]
        for interaction in bought:
            (favourite if brand[interaction.item_id] == top else rest).append(interaction.rating)
    assert set(favourite + rest) <= {1, 2, 3, 4, 5}
    assert sum(favourite) / len(favourite) > sum(rest) / len(rest) + 0.3


def test_titles_tell_more_than_images_and_images_more_than_nothing(items):
    """The last purchase at home is ranked by what it shares with the earlier ones, by source."""
    item_of = {item.item_id: item for item in items}
    shelves = {category: [item for item in items if item.category == category] for category in CATEGORIES}
    sources = {
        "picture": ("type", "color", "pattern", "material"),
        "title": ("type", "color", "pattern", "material", "size", "brand"),
    }
    percentiles = defaultdict(list)
    for bought in by_user(sample_interactions(items, seed=6, num_users=900)).values():
        home = by_department(items, bought).most_common(1)[0][0]
        taken = [item_of[x.item_id] for x in bought if item_of[x.item_id].category == home]
        for source, kinds in sources.items():
            likes = Counter((kind, item.attributes[kind]) for item in taken[:-1] for kind in kinds)
            seen = {item.item_id for item in taken[:-1]}
            scores = [
                sum(likes[kind, item.attributes[kind]] for kind in kinds)
                for item in shelves[home]
                if item.item_id not in seen
            ]
            own = sum(likes[kind, taken[-1].attributes[kind]] for kind in kinds)
            percentiles[source].append(sum(score > own for score in scores) / len(scores))
    share_above = {source: sum(found) / len(found) for source, found in percentiles.items()}
    # knowing nothing, half of the shelf ranks above what is taken next
    assert share_above["title"] < share_above["picture"] - 0.05
    assert share_above["picture"] < 0.5 - 0.2


def test_a_seed_repeats_and_another_seed_differs(items):
    assert sample_interactions(items, seed=1, num_users=20) == sample_interactions(items, seed=1, num_users=20)
    assert sample_interactions(items, seed=1, num_users=20) != sample_interactions(items, seed=2, num_users=20)


def test_the_first_purchase_is_the_same_in_every_process_and_version():
    code = (
        "from grpo_mmpc.nano.items import sample_items; "
        "from grpo_mmpc.nano.interactions import sample_interactions; "
        "print(sample_interactions(sample_items(num_items=360, seed=0), seed=0, num_users=30))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": s}, capture_output=True, check=True
        ).stdout
        for s in ("1", "2")
    }
    assert len(outputs) == 1
    first = sample_interactions(sample_items(num_items=3600, seed=0), seed=0, num_users=1)[0]
    assert (first.user_id, first.item_id, first.timestamp, first.rating) == (
        "user-0000",
        "nano-01197",
        1651111005346,
        5,
    )


def test_in_a_small_department_users_take_what_there_is(items):
    taken = by_user(sample_interactions(items[:27], seed=0, num_users=9))  # three items a department
    assert all(by_department(items, bought)[CATEGORIES[n]] == 3 for n, bought in enumerate(taken.values()))


def test_departments_without_items_have_no_users_and_no_items_no_interactions(items):
    assert set(by_department(items, sample_interactions(items[:2], seed=0, num_users=4))) == set(CATEGORIES[:2])
    assert sample_interactions([], seed=0) == []
