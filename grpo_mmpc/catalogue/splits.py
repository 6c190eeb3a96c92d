"""Split items so that no near-duplicate of a held-out item is trained on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from grpo_mmpc.catalogue.arrow_cache import code_digest
from grpo_mmpc.catalogue.duplicates import Groups, near_duplicate_groups
from grpo_mmpc.catalogue.reader import Catalogue, arrow_column
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.cache import cache_folder, remembered
from grpo_mmpc.utils.hashing import hex_digest, in_share, number


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Ascending positions in ``Catalogue.items``, each in exactly one of the two lists."""

    train: list[int]
    held_out: list[int]
    groups: Groups = field(compare=False)
    """Near-duplicate group of every item, by position. All items of a group are on one side."""
    num_groups: int


PARENT_COLUMNS = ("parent_id", "parent_sku", "parent_asin", "item_group_id", "parent")
"""Columns that name the product that an item is a variant of."""


def parents_of(catalogue: Catalogue) -> list[str | None] | None:
    """Return each item's parent, from the first of ``PARENT_COLUMNS`` that is there."""
    column = next((name for name in PARENT_COLUMNS if name in catalogue.items.column_names), None)
    if column is None:
        return None
    return [None if value is None else str(value).strip() for value in catalogue.items[column][:]]


def product_groups(catalogue: Catalogue) -> Groups:
    """Return the group of near-duplicates and variants of every item, by position, ``[N]``.

    They are computed once for what a catalogue with checked images holds, and read from the cache
    from then on: by every command, and by every rank but the first.
    """
    return _computed_once(
        catalogue,
        "",
        lambda: near_duplicate_groups(
            titles=catalogue.items["title"], signatures=catalogue.signatures(), parents=parents_of(catalogue)
        ),
    )


def image_groups(catalogue: Catalogue) -> Groups:
    """Return the group of items with similar images of every item, likewise."""
    return _computed_once(
        catalogue,
        "images",
        lambda: near_duplicate_groups(titles=[None] * len(catalogue), signatures=catalogue.signatures()),
    )


def _computed_once(catalogue: Catalogue, kind: str, compute: Callable[[], Groups]) -> Groups:
    if not catalogue.images_checked:
        return compute()
    # Of the same content, other items are kept where broken images do not count.
    key = hex_digest("\0".join([catalogue.fingerprint, code_digest(), kind, *sorted(catalogue.broken_images)]))
    return remembered(cache_folder("groups") / f"{key}.npy", compute, read=np.load, write=_write)


def _write(file: Path, groups: Groups) -> None:
    with file.open("wb") as stream:  # np.save would add a suffix to the name
        np.save(stream, groups)


def catalogue_groups(catalogue: Catalogue) -> dict[str, str]:
    """Return, by item, a name of the group of near-duplicates and variants that it is of.

    Items that stand alone are left out.
    """
    groups = product_groups(catalogue)
    ids, sizes = catalogue.items["item_id"][:], np.bincount(groups)
    names: dict[int, str] = {}
    for item_id, group in zip(ids, groups.tolist(), strict=True):
        names.setdefault(group, item_id)
    return {i: names[group] for i, group in zip(ids, groups.tolist(), strict=True) if sizes[group] > 1}


def split_items(catalogue: Catalogue, *, held_out: float, salt: str = "") -> Split:
    """Split by item, near-duplicates together, decided by a hash.

    A group of near-duplicates is held out if the BLAKE2b hash of the salt and of the smallest of
    its members' hashed identifiers falls into the lowest share ``held_out`` of all values. So an
    item without near-duplicates stays on its side for ever: on every machine, in every order, in
    every subset of the catalogue, whatever else is added, and when its title or image goes missing.
    A larger ``held_out`` only moves items from training to held out.

    Args:
        catalogue: The items.
        held_out: Share of groups to hold out, between 0 and 1 exclusive. The realised share varies
            by chance.
        salt: Another salt gives another, independent split.

    Raises:
        CatalogueError: The share is not between 0 and 1, or one side would be empty.
    """
    if not 0.0 < held_out < 1.0:
        raise CatalogueError(f"held_out is {held_out}, expected a share between 0 and 1 such as 0.1")
    groups = product_groups(catalogue)
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    ids = arrow_column(catalogue.items, "item_id")
    hashed = (number(item_id) for chunk in ids.chunks for item_id in chunk.to_pylist())
    hashes = np.fromiter(hashed, dtype=np.uint64, count=len(ids))
    lowest = np.full(num_groups, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(lowest, groups, hashes)
    is_held_out = np.array([in_share(f"{salt}\0{int(h)}", share=held_out) for h in lowest], dtype=bool)
    item_held_out = is_held_out[groups] if num_groups else np.empty(0, dtype=bool)
    split = Split(
        train=np.flatnonzero(~item_held_out).tolist(),
        held_out=np.flatnonzero(item_held_out).tolist(),
        groups=groups,
        num_groups=num_groups,
    )
    if not split.train or not split.held_out:
        raise CatalogueError(_empty_side_message(catalogue, split, held_out=held_out))
    return split


def _empty_side_message(catalogue: Catalogue, split: Split, *, held_out: float) -> str:
    side = "training" if split.held_out else "held-out"
    message = f"{catalogue.folder}: no item falls on the {side} side with held_out={held_out}; "
    if split.num_groups < 2:
        return message + (
            f"its {len(catalogue)} items form {split.num_groups} group of near-duplicates "
            "(title or image nearly the same), which stays together: add different items"
        )
    change = "lower" if side == "training" else "raise"
    return message + (
        f"the catalogue has only {split.num_groups} groups of near-duplicates, decided one by one by a hash: {change} "
        "held_out, choose another salt, or add items"
    )
