"""Masks: which items lose a modality, decided by hashes of their ids, nested over rates."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.data import BenchmarkData
from grpo_mmpc.recbench.records import MODALITIES, Flags, Modality
from grpo_mmpc.recbench.settings import MissingModality, RecBenchSection
from grpo_mmpc.utils.hashing import in_share

Clustering = Literal["category", "brand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missingness:
    """The settings of a mask: what is taken away from how many items."""

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
    """Return which items lose the modality.

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
    """
    keys = [f"item\0{item_id}" for item_id in item_ids]
    if missingness.clustered_by is not None:
        assert groups is not None
        keys = [key if group is None else f"group\0{group}" for key, group in zip(keys, groups, strict=True)]
    return np.array([in_share(f"{missingness.salt}\0{key}", share=missingness.rate) for key in keys], dtype=bool)


def paper_missing_items(item_ids: Sequence[str], *, rate: float, seed: int) -> Flags:
    """Return which items lose the modality in paper mode: ``int(rate * I)`` of an unordered set.

    Flaw of the protocol, reproduced: the order of a set of texts differs from process to process
    (unless PYTHONHASHSEED is set), and so do the items that a seed samples. Rates are not nested.

    Returns:
        ``[I]``.
    """
    unordered = set(item_ids)
    sampled = set(random.Random(seed).sample(list(unordered), int(rate * len(unordered))))
    return np.array([item_id in sampled for item_id in item_ids], dtype=bool)


def masks(
    settings: RecBenchSection, data: BenchmarkData, *, missing: MissingModality, rate: float
) -> dict[Modality, Flags]:
    """Return the items that lose each modality, ``[I]``; one that is not taken away is absent."""
    if settings.mode == "paper":
        mask = paper_missing_items(data.item_ids, rate=rate, seed=settings.seeds[0])
    else:
        clustered = settings.clustered_by
        mask = missing_items(
            data.item_ids,
            missingness=Missingness(rate=rate, modality=missing, clustered_by=clustered, salt=settings.salt),
            groups=data.groups[clustered] if clustered else None,
        )
    return dict.fromkeys(MODALITIES if missing == "both" else (missing,), mask)


def widest_masks(settings: RecBenchSection, data: BenchmarkData) -> dict[Modality, Flags]:
    """Return the items that lose each modality at any rate, ``[I]``: those to be completed."""
    widest: dict[Modality, Flags] = {}
    for missing in settings.missing:
        if missing == "both":
            continue  # an item without title and image cannot be completed from anything
        for rate in settings.rates:
            for modality, mask in masks(settings, data, missing=missing, rate=rate).items():
                widest[modality] = widest.get(modality, False) | mask
    return widest
