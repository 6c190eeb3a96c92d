"""Completions in anybody's completed catalogue: what it holds for items whose title or image was taken away."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from grpo_mmpc.catalogue import Catalogue, load_catalogue
from grpo_mmpc.catalogue.images import find_image
from grpo_mmpc.errors import ImageError, RecBenchError
from grpo_mmpc.recbench.records import Flags

MARK = "completed"
"""Column in which ``grpo-mmpc complete`` names the field that it filled, null elsewhere."""

UNCHANGED = f"unchanged; mark it in the column {MARK} if it is a completion"
NOT_COMPLETED = f"not completed: mostly as in the original, without a column {MARK}"

V = TypeVar("V", str, Path)
_Field = Literal["title", "image"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completions(Generic[V]):
    """Completions of one modality, by position of the benchmark's items."""

    values: tuple[V | None, ...]
    """``[I]``: title or image file; None for observed items and where there is no completion."""
    lacking: tuple[str | None, ...]
    """``[I]``: why a missing item has no completion; None for all others."""
    equals_truth: Flags
    """``[I]``: completions that are exactly the true title, or byte for byte the true image; only
    where they are marked."""
    is_marked: bool
    """Whether the column ``completed`` says what was filled; otherwise every value of a missing
    item counts that is not the true one: items that a mask spared still have it."""
    looks_original: str | None
    """Why the modality looks as if nothing had been taken away, in which case there are no
    completions of it; else None."""
    extra_items: int
    """Items of the catalogue that the benchmark does not know; they are left out."""

    def counts(self) -> dict[str, Any]:
        """What was read, for the record of a run."""
        reasons = Counter(reason for reason in self.lacking if reason is not None)
        return {
            "completed": sum(value is not None for value in self.values),
            "lacking": dict(reasons.most_common()),
            "equal_to_the_truth": int(self.equals_truth.sum()),
            "extra_items": self.extra_items,
            "is_marked": self.is_marked,
        }


def completed_titles(
    folder: Path, *, item_ids: Sequence[str], missing: Flags, truth: Sequence[str | None]
) -> Completions[str]:
    """Titles that a completed catalogue holds for items whose title was taken away.

    Args:
        folder: Catalogue folder with whatever policy's completions.
        item_ids: The benchmark's I items.
        missing: ``[I]``: items whose title was taken away.
        truth: ``[I]``: true titles, as ``load_catalogue`` reads them; they are compared with, never
            returned.

    Raises:
        CatalogueError: The folder cannot be read as a catalogue.
        RecBenchError: It holds none of the missing items, or its column ``completed`` holds
            something else than field names.
    """
    return _read(
        folder,
        field="title",
        item_ids=item_ids,
        missing=missing,
        find=lambda _, title: (title, None),
        is_truth=lambda position, title: title == truth[position],
    )


def completed_images(
    folder: Path, *, item_ids: Sequence[str], missing: Flags, truth: Sequence[Path | None]
) -> Completions[Path]:
    """Image files that a completed catalogue holds for items whose image was taken away.

    Args:
        folder: Catalogue folder with whatever policy's and renderer's completions. Whether a file
            that is there can be decoded shows when it is encoded.
        item_ids: The benchmark's I items.
        missing: ``[I]``: items whose image was taken away.
        truth: ``[I]``: true image files; their bytes are compared with, never returned.

    Raises:
        CatalogueError: The folder cannot be read as a catalogue.
        RecBenchError: As for ``completed_titles``.
    """
    return _read(
        folder,
        field="image",
        item_ids=item_ids,
        missing=missing,
        find=_image,
        is_truth=lambda position, path: _same_file(path, truth[position]),
    )


def _read(
    folder: Path,
    *,
    field: _Field,
    item_ids: Sequence[str],
    missing: Flags,
    find: Callable[[Catalogue, str], tuple[V | None, str | None]],
    is_truth: Callable[[int, V], bool],
) -> Completions[V]:
    if missing.shape != (len(item_ids),):
        raise RecBenchError(f"missing flags {missing.shape} for {len(item_ids)} items; give one for each")
    # Pictures are looked at only where they are completions; a broken one must not cost the item
    # its title.
    catalogue = load_catalogue(folder, check_images=False)
    is_marked = MARK in catalogue.items.column_names
    rows: Mapping[str, int] = {item_id: row for row, item_id in enumerate(catalogue.items["item_id"][:])}
    broken = {row.item_id for row in catalogue.quarantined}
    cells: Sequence[str | None] = catalogue.items[field][:]
    marks: Sequence[object] = catalogue.items[MARK][:] if is_marked else ()
    positions = np.flatnonzero(missing).tolist()
    if positions and not any(item_ids[i] in rows for i in positions):
        raise RecBenchError(
            f"{folder} holds none of the {len(positions)} items whose {field} is missing ({item_ids[positions[0]]}, ...); "
            "give the completion of the catalogue that is benchmarked"
        )
    values: list[V | None] = [None] * len(item_ids)
    lacking: list[str | None] = [None] * len(item_ids)
    for i in positions:
        item_id = item_ids[i]
        row = rows.get(item_id)
        if row is None:
            lacking[i] = "its row is broken" if item_id in broken else "it is not in the completed catalogue"
        elif (cell := cells[row]) is None:
            lacking[i] = f"its {field} is empty"
        elif is_marked and field not in _marked_fields(marks[row], folder=folder, item_id=item_id):
            lacking[i] = f"its {field} is not marked as completed"
        else:
            values[i], lacking[i] = find(catalogue, cell)
    equals_truth = np.array(
        [value is not None and is_truth(i, value) for i, value in enumerate(values)], dtype=np.bool_
    ).reshape(len(item_ids))
    looks_original = None
    if not is_marked:
        looks_original = _looks_original(field, values, equals_truth)
        reason = UNCHANGED if looks_original is None else NOT_COMPLETED
        for i in positions:
            if values[i] is not None and (equals_truth[i] or looks_original is not None):
                values[i], lacking[i] = None, reason
        equals_truth = np.zeros_like(equals_truth)
    known = set(item_ids)
    return Completions(
        values=tuple(values),
        lacking=tuple(lacking),
        equals_truth=equals_truth,
        is_marked=is_marked,
        looks_original=looks_original,
        extra_items=sum(item_id not in known for item_id in rows),
    )


def _image(catalogue: Catalogue, cell: str) -> tuple[Path | None, str | None]:
    try:
        return find_image(cell, folder=catalogue.folder), None
    except ImageError:
        return None, "its image file is missing"


def _marked_fields(mark: object, *, folder: Path, item_id: str) -> set[str]:
    """Fields that a cell of the column ``completed`` names: one, several with commas between them, a list, or none."""
    fields = set(re.findall(r"[^\s,\[\]\"']+", "" if mark is None else str(mark)))
    if unknown := sorted(fields - {"title", "image"}):
        raise RecBenchError(
            f"{folder}: the column {MARK} of item {item_id} holds {', '.join(unknown)}, expected title, image or nothing; "
            "name the fields that were filled, or leave the column out"
        )
    return fields


def _looks_original(field: _Field, values: Sequence[object], equals_truth: Flags) -> str | None:
    """Without marks, mostly true values mean that nothing was taken away: every fill would look like the ceiling."""
    equal, completed = int(equals_truth.sum()), sum(value is not None for value in values)
    if 2 * equal <= completed:
        return None
    what = "titles are" if field == "title" else "image files are, byte for byte,"
    return f"{equal} of {completed} {what} the true ones"


def _same_file(path: Path, truth: Path | None) -> bool:
    try:
        return (
            truth is not None
            and path.stat().st_size == truth.stat().st_size
            and path.read_bytes() == truth.read_bytes()
        )
    except OSError:  # one that cannot be read is not encoded either
        return False
