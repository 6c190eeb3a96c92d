"""Items for training and measuring nano assets, none of which is in the default catalogue."""

from functools import cache

from grpo_mmpc.nano.items import DEFAULT_NUM_ITEMS, DEFAULT_SEED, NanoItem, Signature, sample_items, signature

POOL_SEED = 20_260_119
"""Seed of the pre-training pool; far from the small seeds that people give to catalogues."""

POOL_SIZE = 50_000
"""Items every model is trained on. The vision towers see an image once or twice: with ten views
each of 6,000 images they learnt those by heart, and read the type of one unseen product in five
wrong."""


def pretraining_items(*, num_items: int, seed: int) -> list[NanoItem]:
    """Sample items to pre-train on; ``seed`` is added to ``POOL_SEED``.

    No attribute combination of the default catalogue occurs: whichever way that catalogue is split,
    nothing about its held-out items is known to a nano asset.
    """
    return sample_items(num_items=num_items, seed=POOL_SEED + seed, exclude=default_signatures())


def default_signatures() -> frozenset[Signature]:
    """Return the attribute combinations of the whole default catalogue."""
    return frozenset(signature(item) for item in sample_items(num_items=DEFAULT_NUM_ITEMS, seed=DEFAULT_SEED))


@cache
def unseen_items(*, num_items: int) -> tuple[NanoItem, ...]:
    """Sample items that are neither in the pool of seed 0 nor in the default catalogue.

    Settings of the build are chosen by measuring on these, so that the default catalogue stays
    unseen by that choice too.
    """
    pool = (signature(item) for item in pretraining_items(num_items=POOL_SIZE, seed=0))
    return tuple(sample_items(num_items=num_items, seed=POOL_SEED - 1, exclude=default_signatures() | set(pool)))
