"""Sample interactions of the nano catalogue: users buy by taste, which attributes predict."""

import random
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from grpo_mmpc.catalogue.interactions import Interaction
from grpo_mmpc.nano.items import NanoItem
from grpo_mmpc.nano.vocabulary import (
    BRANDS_BY_CATEGORY,
    CATEGORIES,
    COLORS,
    PATTERNS,
    SIZES,
    TYPES_BY_CATEGORY,
)

DEFAULT_NUM_USERS = 2700
"""300 of each department."""
MIN_PER_USER, MAX_PER_USER = 8, 14
"""Purchases in the home department; RecBench keeps users with at least eight in a category."""
MAX_ELSEWHERE = 2
"""Purchases in other departments, at most."""

_SHELF = 400  # items a user ever sees at home: all of them in the default catalogue
_WINDOW = 30  # items a user ever sees elsewhere
_STRENGTHS = {"type": 5, "color": 5, "pattern": 1, "material": 1, "size": 4, "brand": 5}
"""Brand and size, which a title names and an image hardly shows, weigh about as much as what is
seen at once. So knowing titles beats knowing images, and knowing images beats knowing
nothing."""
_Value = TypeVar("_Value")

_START_MS = 1_640_995_200_000  # 2022-01-01
_DAY_MS = 86_400_000


def sample_interactions(
    items: Sequence[NanoItem], *, seed: int, num_users: int = DEFAULT_NUM_USERS
) -> list[Interaction]:
    """Let users shop.

    Departments take turns as a user's home. There a user has two favourite product types, two
    colours, and one brand, size, pattern and material; the user sees a random shelf and takes one
    item after the other, each with probability proportional to 2 ** liking, where the liking adds
    up the strengths of the favourites the item has. Now and then something from another department
    is taken in the same manner. Nobody buys an item twice; of a department with fewer than
    ``MIN_PER_USER`` items users take all. The same items and seed give the same interactions in
    every process and Python version.

    Returns:
        The interactions by user, each user's in order of time, one to some weeks apart. The rating
        is a whole number from 1 to 5, higher the better the item suits the user.
    """
    departments: dict[str, list[NanoItem]] = {}
    for item in items:
        departments.setdefault(item.category, []).append(item)
    homes = [category for category in CATEGORIES if category in departments]
    others = {home: [item for item in items if item.category != home] for home in homes}
    rng = random.Random(f"nano interactions {seed}")
    interactions: list[Interaction] = []
    for user in range(num_users if homes else 0):
        home = homes[user % len(homes)]
        taste = _sample_taste(home, rng)
        number = MIN_PER_USER + int(rng.random() * (MAX_PER_USER - MIN_PER_USER + 1))
        bought = _shop(_pick(rng, departments[home], min(_SHELF, len(departments[home]))), taste, number, rng)
        window = _pick(rng, others[home], min(_WINDOW, len(others[home])))
        for choice in _shop(window, taste, int(rng.random() * (MAX_ELSEWHERE + 1)), rng):
            bought.insert(int(rng.random() * (len(bought) + 1)), choice)
        timestamp = _START_MS + int(rng.random() * 365 * _DAY_MS)
        for item, liking in bought:
            timestamp += int((1 + 30 * rng.random()) * _DAY_MS)
            interactions.append(Interaction(f"user-{user:04d}", item.item_id, timestamp, _rate(liking, rng)))
    return interactions


def _sample_taste(home: str, rng: random.Random) -> dict[str, Sequence[str]]:
    types = _pick(rng, tuple(TYPES_BY_CATEGORY[home]), 2)
    return {
        "type": types,
        "color": _pick(rng, COLORS, 2),
        "pattern": _pick(rng, PATTERNS, 1),
        "material": _pick(rng, TYPES_BY_CATEGORY[home][types[0]], 1),  # one that a favourite type is made of
        "size": _pick(rng, SIZES, 1),
        "brand": _pick(rng, BRANDS_BY_CATEGORY[home], 1),
    }


def _shop(
    shelf: Sequence[NanoItem], taste: Mapping[str, Sequence[str]], number: int, rng: random.Random
) -> list[tuple[NanoItem, int]]:
    """Take items from a shelf, each with its liking; all of them where there are not so many."""
    likings = [_liking(item, taste) for item in shelf]
    weights = [2**liking for liking in likings]
    taken = []
    for _ in range(min(number, len(shelf))):
        cumulative = list(accumulate(weights))  # whole numbers: exact on every machine
        chosen = bisect(cumulative, int(rng.random() * cumulative[-1]))
        weights[chosen] = 0
        taken.append((shelf[chosen], likings[chosen]))
    return taken


def _liking(item: NanoItem, taste: Mapping[str, Sequence[str]]) -> int:
    return sum(strength for kind, strength in _STRENGTHS.items() if item.attributes.get(kind) in taste[kind])


def _rate(liking: int, rng: random.Random) -> int:
    # A favourite size alone (4): 2 or 3 stars; type, colour and brand (15): 4 or 5.
    return max(1, min(5, round(1 + 0.2 * liking + rng.random())))


def _pick(rng: random.Random, values: Sequence[_Value], number: int) -> list[_Value]:
    # Only random() itself is promised to repeat across Python versions; sample() is not.
    left = list(values)
    picked = []
    for _ in range(number):
        position = int(rng.random() * len(left))
        left[position], left[-1] = left[-1], left[position]
        picked.append(left.pop())
    return picked
