"""The reader of completed catalogues: what they hold for items whose title or image was masked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grpo_mmpc.catalogue import Catalogue, load_catalogue
from grpo_mmpc.catalogue.images import find_image
from grpo_mmpc.completion import proposal
from grpo_mmpc.errors import CatalogueError, ImageError, RecBenchError
from grpo_mmpc.recbench.completions import Completion, encoded_completion
from grpo_mmpc.recbench.data import BenchmarkData
from grpo_mmpc.recbench.masks import widest_masks
from grpo_mmpc.recbench.records import FIELDS, MODALITY_WORDS, Flags, Modality
from grpo_mmpc.recbench.settings import RecBenchSection
from grpo_mmpc.utils.console import Progress, Say

MARK = "completed"
"""Column in which ``grpo-mmpc complete`` names the field that it filled, null elsewhere."""

UNMARKED = "not marked as completed"
UNCHANGED = f"unchanged; mark it in the column {MARK} if it is a completion"
NOT_COMPLETED = f"not completed: mostly as in the original, without a column {MARK}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompletedField:
    """Completions of one modality, in the order of the benchmark's items."""

    values: tuple[Any, ...]
    """``[I]``: title or image file; None for observed items and where there is no completion."""
    lacking: tuple[str | None, ...]
    """``[I]``: why a missing item has no completion; None for all others."""
    equals_truth: Flags
    """``[I]``: completions that are exactly the true title, or byte for byte the true image; only
    where they are marked."""
    looks_original: str | None
    """The reason why the modality looks as if nothing had been taken away, so that there are no
    completions of it; else None."""
    extra_items: int
    """Items of the catalogue that the benchmark does not know; they are left out."""


def read_completed(
    folder: Path, modality: Modality, *, item_ids: Sequence[str], missing: Flags, truth: Sequence[str | Path | None]
) -> CompletedField:
    """Read titles or image files that a completed catalogue holds for items that lost theirs.

    Args:
        folder: Catalogue folder with whatever policy's completions. Whether an image file can be
            decoded shows when it is encoded.
        modality: What was completed.
        item_ids: The benchmark's I items.
        missing: ``[I]``: items whose title (image) was taken away.
        truth: ``[I]``: true titles or image files, as ``load_catalogue`` reads them; they are
            compared with, files by their bytes, and never returned.

    Raises:
        CatalogueError: The folder cannot be read as a catalogue.
        RecBenchError: It holds none of the missing items, or its column ``completed`` holds
            something else than field names.
    """
    field = FIELDS[modality]
    # Images are looked at only where they are completions; a broken one must not cost the item
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
            f"{folder} holds none of the {len(positions)} items whose {field} is missing ({item_ids[positions[0]]}, "
            "...); give the completion of the catalogue that is benchmarked"
        )
    values: list[str | Path | None] = [None] * len(item_ids)
    lacking: list[str | None] = [None] * len(item_ids)
    for i in positions:
        item_id = item_ids[i]
        row = rows.get(item_id)
        if row is None:
            lacking[i] = "its row is broken" if item_id in broken else "it is not in the completed catalogue"
        elif (cell := cells[row]) is None:
            lacking[i] = f"its {field} is empty"
        elif is_marked and field not in _marked_fields(marks[row], folder=folder, item_id=item_id):
            lacking[i] = f"its {field} is {UNMARKED}"
        else:
            values[i], lacking[i] = _image(catalogue, cell) if modality == "image" else (cell, None)
    same = (value is not None and _is_same(value, true) for value, true in zip(values, truth, strict=True))
    equals_truth = np.fromiter(same, dtype=np.bool_)
    looks_original = None
    if not is_marked:
        # Every value counts that is not the true one: items that a mask spared still have that.
        looks_original = _looks_original(field, values, equals_truth)
        reason = UNCHANGED if looks_original is None else NOT_COMPLETED
        for i in positions:
            if values[i] is not None and (equals_truth[i] or looks_original is not None):
                values[i], lacking[i] = None, reason
        equals_truth = np.zeros_like(equals_truth)
    known = set(item_ids)
    return CompletedField(
        values=tuple(values),
        lacking=tuple(lacking),
        equals_truth=equals_truth,
        looks_original=looks_original,
        extra_items=sum(item_id not in known for item_id in rows),
    )


def completions_of_catalogues(
    settings: RecBenchSection,
    named: Mapping[str, Path],
    data: BenchmarkData,
    *,
    say: Say,
    progress: Progress | None = None,
) -> list[Completion]:
    """Read and encode what completed catalogues hold for the items that lose something.

    Raises:
        RecBenchError: Catalogues that cannot be read, hold none of the items, or are the original.
    """
    masks = {
        # What an item never had was not taken away from it.
        modality: mask & np.array([value is not None for value in data.true_values(modality)], dtype=bool)
        for modality, mask in widest_masks(settings, data).items()
    }
    read: dict[str, dict[Modality, CompletedField]] = {}
    problems = []
    for name, folder in named.items():
        try:
            read[name] = _read_all(folder, masks, data)
        except (RecBenchError, CatalogueError) as error:
            problems.append(str(error))
    if problems:
        raise RecBenchError("\n".join(problems))
    completions = []
    for name, fields in read.items():
        for modality, one in fields.items():
            say(f"{name}: {_summary(one, modality, num_missing=int(masks[modality].sum()))}")
        # One of which only the original is there (titles were completed, images are what they were)
        # is not completed.
        given = {modality: one.values for modality, one in fields.items() if one.looks_original is None}
        lacking = {modality: one.lacking for modality, one in fields.items()}
        completions.append(encoded_completion(settings, name, values=given, lacking=lacking, progress=progress))
    return completions


def _read_all(folder: Path, masks: Mapping[Modality, Flags], data: BenchmarkData) -> dict[Modality, CompletedField]:
    fields = {
        modality: read_completed(
            folder, modality, item_ids=data.item_ids, missing=missing, truth=data.true_values(modality)
        )
        for modality, missing in masks.items()
    }
    originals = [one.looks_original for one in fields.values() if one.looks_original is not None]
    if originals and len(originals) == len(fields):
        raise RecBenchError(
            f"{folder}: {' and '.join(originals)}: it looks like the original catalogue; give the completed one. If "
            f"these are completions, say so: a column {MARK} names the field (title, image) for each item that was "
            "filled"
        )
    reasons = Counter(reason for one in fields.values() for reason in one.lacking if reason is not None)
    if UNMARKED in {reason.partition(" is ")[2] for reason in reasons} and not any(
        value is not None for one in fields.values() for value in one.values
    ):
        why = "; ".join(f"{count:,} because {reason}" for reason, count in reasons.most_common())
        raise RecBenchError(
            f"{folder} completes nothing that the benchmark takes away ({why}): it fills gaps of which the catalogue "
            "has no true values. Take values away first, grpo-mmpc data mask CATALOGUE --out MASKED, and complete "
            "MASKED"
        )
    return fields


def _summary(read: CompletedField, modality: Modality, *, num_missing: int) -> str:
    completed = sum(value is not None for value in read.values)
    parts = [f"{completed:,} of {num_missing:,} missing {MODALITY_WORDS[modality]} completed"]
    reasons = Counter(reason for reason in read.lacking if reason is not None)
    parts += [f"{count:,} not, because {reason}" for reason, count in reasons.most_common()]
    if equal := int(read.equals_truth.sum()):
        parts.append(f"{equal:,} exactly as they were")
    if read.extra_items:
        parts.append(f"{read.extra_items:,} more in the folder, which the benchmark does not rank")
    return "; ".join(parts)


def _image(catalogue: Catalogue, cell: str) -> tuple[Path | None, str | None]:
    try:
        return find_image(cell, folder=catalogue.folder), None
    except ImageError as error:
        is_missing = "does not exist" in str(error)
        return None, "its image file is missing" if is_missing else "its image is no file inside the folder"


def _marked_fields(mark: object, *, folder: Path, item_id: str) -> set[str]:
    """Return the fields that a cell of the column ``completed`` names: several, one or none."""
    fields = set(proposal.filled_fields({MARK: mark}))
    if unknown := sorted(fields - set(proposal.FIELDS)):
        raise RecBenchError(
            f"{folder}: the column {MARK} of item {item_id} holds {', '.join(unknown)}, expected title, image or "
            "nothing; name the fields that were filled, or leave the column out"
        )
    return fields


def _looks_original(field: str, values: Sequence[object], equals_truth: Flags) -> str | None:
    """Say why an unmarked field, mostly of true values, looks as if nothing had been taken away."""
    equal, completed = int(equals_truth.sum()), sum(value is not None for value in values)
    if 2 * equal <= completed:
        return None
    what = "titles are" if field == "title" else "image files are, byte for byte,"
    return f"{equal} of {completed} {what} the true ones"


def _is_same(value: str | Path, truth: str | Path | None) -> bool:
    if not isinstance(value, Path) or not isinstance(truth, Path):
        return value == truth
    try:
        return value.stat().st_size == truth.stat().st_size and value.read_bytes() == truth.read_bytes()
    except OSError:  # one that cannot be read is not encoded either
        return False
