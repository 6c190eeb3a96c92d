"""Users of the nano catalogue, who buy by taste: what an item looks like says who will like it."""

import random
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from grpo_mmpc.nano.catalogue import NanoItem
from grpo_mmpc.nano.vocabulary import (
    BRANDS_BY_CATEGORY,
    CATEGORIES,
    COLORS,
    MATERIALS,
    PATTERNS,
    SIZES,
    TYPES_BY_CATEGORY,
)

DEFAULT_NUM_USERS = 1500
MIN_PER_USER, MAX_PER_USER = 8, 14
"""RecBench keeps users with at least eight interactions, so that no nano user is lost to it."""

_SHELF = 400  # items a user ever sees; more would make the taste sharper
_STRENGTHS = {"type": 5, "color": 3, "pattern": 2, "material": 2, "size": 1, "brand": 3}
_Value = TypeVar("_Value")

_START_MS = 1_640_995_200_000  # 2022-01-01
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """One purchase with its review."""

    user_id: str
    item_id: str
    timestamp: int
    """Milliseconds since 1970; a user's interactions are one to some weeks apart."""
    rating: int
    """1 to 5; higher the better the item suits the user."""


def sample_interactions(
    items: Sequence[NanoItem], *, seed: int, num_users: int = DEFAULT_NUM_USERS
) -> list[Interaction]:
    """Let users shop.

    A user has two favourite product types, two colours, two brands, and one pattern, material and size. The user sees
    a random shelf and takes one item after the other, each with probability proportional to 2 ** liking, where the
    liking adds up the strengths of the favourites the item has. Nobody buys an item twice.

    Args:
        items: The catalogue; with fewer than ``MAX_PER_USER`` items nobody shops and the result is empty.
        seed: The same items and seed give the same interactions in every process and Python version.
        num_users: How many users.

    Returns:
        The interactions by user, each user's in order of time.
    """
    if len(items) < MAX_PER_USER:
        return []
    rng = random.Random(f"nano interactions {seed}")
    interactions: list[Interaction] = []
    shelf_size = min(_SHELF, len(items))
    for user in range(num_users):
        taste = _sample_taste(rng)
        shelf = _pick(rng, items, shelf_size)
        likings = [_liking(item, taste) for item in shelf]
        weights = [2**liking for liking in likings]
        timestamp = _START_MS + int(rng.random() * 365 * _DAY_MS)
        for _ in range(MIN_PER_USER + int(rng.random() * (MAX_PER_USER - MIN_PER_USER + 1))):
            cumulative = list(accumulate(weights))  # whole numbers: exact on every machine
            chosen = bisect(cumulative, rng.random() * cumulative[-1])
            weights[chosen] = 0
            timestamp += int((1 + 30 * rng.random()) * _DAY_MS)
            interactions.append(
                Interaction(
                    user_id=f"user-{user:04d}",
                    item_id=shelf[chosen].item_id,
                    timestamp=timestamp,
                    rating=_rate(likings[chosen], rng),
                )
            )
    return interactions


def _sample_taste(rng: random.Random) -> dict[str, Sequence[str]]:
    favourites = _pick(rng, CATEGORIES, 2)
    return {
        "type": [_pick(rng, tuple(TYPES_BY_CATEGORY[category]), 1)[0] for category in favourites],
        "color": _pick(rng, COLORS, 2),
        "pattern": _pick(rng, PATTERNS, 1),
        "material": _pick(rng, MATERIALS, 1),
        "size": _pick(rng, SIZES, 1),
        "brand": [_pick(rng, BRANDS_BY_CATEGORY[category], 1)[0] for category in favourites],
    }


def _liking(item: NanoItem, taste: Mapping[str, Sequence[str]]) -> int:
    return sum(strength for kind, strength in _STRENGTHS.items() if item.attributes.get(kind) in taste[kind])


def _rate(liking: int, rng: random.Random) -> int:
    # No favourite: 2 or 3 stars; a favourite colour: 3 or 4; a favourite type: 4 or 5.
    return max(1, min(5, round(2 + 0.4 * liking + rng.random())))


def _pick(rng: random.Random, values: Sequence[_Value], number: int) -> list[_Value]:
    # Only random() itself is promised to repeat across Python versions; sample() is not.
    left = list(values)
    picked = []
    for _ in range(number):
        position = int(rng.random() * len(left))
        left[position], left[-1] = left[-1], left[position]
        picked.append(left.pop())
    return picked
