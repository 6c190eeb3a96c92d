"""The items that every nano asset is trained on, none of which the default catalogue holds."""

from grpo_mmpc.nano.catalogue import DEFAULT_NUM_ITEMS, DEFAULT_SEED, NanoItem, sample_items, signature

POOL_SEED = 20_260_119
"""Seed of the pre-training pool; far from the small seeds people give to catalogues of their own."""


def pretraining_items(*, num_items: int, seed: int) -> list[NanoItem]:
    """Items to pre-train on.

    No attribute combination of the default catalogue occurs: whichever way that catalogue is split, nothing about its
    held-out items is known to a nano asset.

    Args:
        num_items: How many.
        seed: Added to ``POOL_SEED``.
    """
    return sample_items(num_items=num_items, seed=POOL_SEED + seed, exclude=default_signatures())


def default_signatures() -> frozenset[tuple[str | None, ...]]:
    """Attribute combinations of the whole default catalogue."""
    return frozenset(signature(item) for item in sample_items(num_items=DEFAULT_NUM_ITEMS, seed=DEFAULT_SEED))


def unseen_items(*, num_items: int) -> list[NanoItem]:
    """Items for measuring quality: the first of the default catalogue, which no nano asset was trained on."""
    return sample_items(num_items=DEFAULT_NUM_ITEMS, seed=DEFAULT_SEED)[:num_items]
