"""Which items lose a modality: decided by hashes of their identifiers, the same everywhere and nested over rates."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.records import Flags

Clustering = Literal["category", "brand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missingness:
    """What is taken away from how many items."""

    rate: float
    """Share of the items, 0 to 1. The realised share varies by chance (by less than 0.05 of 400
    items in 19 of 20 salts; by far more of a few clusters)."""
    modality: Literal["text", "image", "both"]
    clustered_by: Clustering | None
    """Take it away from whole categories or brands; None takes single items."""
    salt: str
    """Another salt takes it away from other items."""

    def __post_init__(self) -> None:
        """Refuse a rate that is no share."""
        if not 0.0 <= self.rate <= 1.0:
            raise RecBenchError(f"the missing rate is {self.rate}, expected a share of the items between 0 and 1")


def missing_items(item_ids: Sequence[str], *, missingness: Missingness, groups: Sequence[str | None] | None) -> Flags:
    """Which items lose the modality.

    An item loses it if the BLAKE2b hash of the salt and of its identifier, as a number in [0, 1),
    is below the rate; clustered, the hash of its group's value decides. So an item that is missing
    at one rate is missing at every higher one, on every machine, in every order and subset of the
    items. At rate 1 every item is missing, at rate 0 none.

    Args:
        item_ids: I identifiers.
        missingness: Rate, clustering and salt; the modality makes no difference.
        groups: Category or brand of each item where ``clustered_by`` is set; an item without one
            (None) decides for itself. Not looked at otherwise.

    Returns:
        ``[I]``.

    Raises:
        RecBenchError: Clustered without groups, or not one group an item.
    """
    limit = int(missingness.rate * 2**64)
    keys = [f"item\0{item_id}" for item_id in item_ids]
    if missingness.clustered_by is not None:
        if groups is None or len(groups) != len(item_ids):
            found = "none" if groups is None else f"{len(groups)}"
            raise RecBenchError(
                f"missingness clustered by {missingness.clustered_by} needs the {missingness.clustered_by} of each of the "
                f"{len(item_ids)} items, found {found}"
            )
        keys = [key if group is None else f"group\0{group}" for key, group in zip(keys, groups, strict=True)]
    return np.array([_hash(f"{missingness.salt}\0{key}") < limit for key in keys], dtype=bool)


def paper_missing_items(item_ids: Sequence[str], *, rate: float, seed: int) -> Flags:
    """Which items lose the modality in paper mode: ``int(rate * I)`` drawn from an unordered set of their identifiers.

    Flaw of the protocol, reproduced: the order of a set of texts differs from process to process
    (unless PYTHONHASHSEED is set), and so do the items that the same seed draws from it. Rates are
    not nested.

    Returns:
        ``[I]``.
    """
    unordered = set(item_ids)
    drawn = set(random.Random(seed).sample(list(unordered), int(rate * len(unordered))))
    return np.array([item_id in drawn for item_id in item_ids], dtype=bool)


def _hash(text: str) -> int:
    """64 bits; compared as whole numbers, because the largest would round up to 1.0 as a share."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest())
