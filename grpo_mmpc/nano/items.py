"""Items of the nano catalogue: distinct products sampled from a seed."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from grpo_mmpc.nano.texts import description, seller_title
from grpo_mmpc.nano.vocabulary import (
    BRANDS_BY_CATEGORY,
    CATEGORIES,
    COLORS,
    KINDS,
    PACKS,
    PATTERNS,
    SIZES,
    TYPES_BY_CATEGORY,
    pick,
)

DEFAULT_NUM_ITEMS = 3600
DEFAULT_SEED = 0

Signature = tuple[str | None, ...]
"""The attribute combination of an item: values in the order of ``KINDS``, None if unsaid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoItem:
    """One generated product."""

    item_id: str
    """``nano-00042``."""
    category: str
    attributes: Mapping[str, str]
    """Kind -> value, in the order of ``KINDS``; a single item has no ``pack``."""
    title: str
    """Seller's title; names every attribute."""
    description: str
    jitter: int
    """Seed of the image's position and light; see ``drawing.draw``."""


def signature(item: NanoItem) -> Signature:
    """Return what makes an item distinct; two items with one signature have the same title."""
    return tuple(item.attributes.get(kind) for kind in KINDS)


def sample_items(*, num_items: int, seed: int, exclude: Collection[Signature] = frozenset()) -> list[NanoItem]:
    """Sample items with distinct attribute combinations, balanced over the nine categories.

    Categories differ by at most one item, and none has a signature of ``exclude``. The same
    arguments give the same items in every process and Python version.

    Raises:
        ValueError: There are not as many distinct combinations.
    """
    rng = random.Random(f"nano catalogue {seed}")
    seen = set(exclude)
    items: list[NanoItem] = []
    for number in range(num_items):
        category = CATEGORIES[number % len(CATEGORIES)]
        for _ in range(1000):
            attributes = _sample_attributes(category, rng)
            key = tuple(attributes.get(kind) for kind in KINDS)
            if key not in seen:
                break
        else:
            raise ValueError(
                f"no unused attributes are left in {category} after {number} of {num_items} items; ask for fewer"
            )
        seen.add(key)
        items.append(
            NanoItem(
                item_id=f"nano-{number:05d}",
                category=category,
                attributes=attributes,
                title=seller_title(attributes, rng),
                description=description(attributes, rng),
                jitter=int(rng.random() * 2**31),
            )
        )
    return items


def _sample_attributes(category: str, rng: random.Random) -> dict[str, str]:
    types = TYPES_BY_CATEGORY[category]
    product_type = pick(rng, tuple(types))
    sampled = {
        "type": product_type,
        "color": pick(rng, COLORS),
        "pattern": pick(rng, PATTERNS),
        "material": pick(rng, types[product_type]),
        "size": pick(rng, SIZES),
        "pack": pick(rng, PACKS),
        "brand": pick(rng, BRANDS_BY_CATEGORY[category]),
    }
    if sampled["pack"] == "1":
        del sampled["pack"]
    return sampled
