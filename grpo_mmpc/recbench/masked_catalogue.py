"""The masked catalogue: a copy with gaps that any policy can complete."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.catalogue.images import place_images
from grpo_mmpc.catalogue.records import FURTHER_TEXTS
from grpo_mmpc.catalogue.tables import find_table
from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.masks import Missingness, missing_items
from grpo_mmpc.recbench.records import FIELDS, Flags
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.files import build_folder, read_object, without_nan, write_json, write_json_lines

MASK = "mask.json"
"""Says in the folder what was taken away from which catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedCatalogue:
    """The counts of what was taken away; ``mask.json`` holds them with the missingness."""

    catalogue: str
    """Fingerprint of the catalogue that the items came from."""
    items: int
    masked: int
    """Items that lost their title (or image)."""
    already_missing: int
    """Items that the mask names but that had none."""
    spared: int
    """Items that the mask names but that have nothing else: an item needs one of the two to
    complete the other from."""


def write_masked_catalogue(catalogue: Catalogue, out: Path, missingness: Missingness) -> MaskedCatalogue:
    """Write a catalogue folder in which the masked items' titles (or images) are null.

    Descriptions and attributes of items whose title is masked are removed with it, and further
    images with an image: they would hand a policy the answer. All other columns stay. Images that
    stay are hard links where the disk allows it. The folder, which may exist if it is empty,
    appears complete or not at all; what it holds from an earlier call is not written again. A mask
    clustered by brand goes by the attribute ``brand`` of each item.

    Raises:
        RecBenchError: Both modalities at once, no item to mask, or ``out`` is the catalogue or has
            something in it.
    """
    if missingness.modality == "both":
        raise RecBenchError(
            "an item without title and without image cannot be completed from anything; write one catalogue with "
            'modality "text" and another with "image"'
        )
    field = FIELDS[missingness.modality]
    is_named = named_items(catalogue, missingness)
    fates = [
        _fate(record, field) if named else "kept" for record, named in zip(catalogue.records(), is_named, strict=True)
    ]
    counts = Counter(fates)
    masked = MaskedCatalogue(
        catalogue=catalogue.fingerprint,
        items=len(catalogue),
        masked=counts["masked"],
        already_missing=counts["already missing"],
        spared=counts["spared"],
    )
    if not masked.masked:
        raise RecBenchError(
            f"no {field} of {catalogue.folder} is masked at rate {missingness.rate} ({masked.already_missing} already "
            f"missing, {masked.spared} spared because the item has nothing else); raise the rate or take another salt"
        )
    content = asdict(missingness) | asdict(masked)
    if read_object(out / MASK) == content:
        return masked
    _refuse_occupied(out, catalogue=catalogue)
    with build_folder(out) as folder:
        _write(folder, catalogue, fates, field=field)
        write_json(folder / MASK, content)
    return masked


def _write(folder: Path, catalogue: Catalogue, fates: Sequence[str], *, field: str) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for row, record, fate in zip(catalogue.items, catalogue.records(), fates, strict=True):
            line = {**row, "attributes": dict(record.attributes) or None}
            if fate == "masked":
                line[field] = None
                hints = ("description", "attributes", *FURTHER_TEXTS) if field == "title" else ("images",)
                line |= dict.fromkeys(set(hints) & set(line))
            if line["image"] is not None:
                place_images(line["image"], record.images, folder=catalogue.folder, into=folder)
            yield without_nan(line)

    write_json_lines(folder / "items.jsonl", rows(), default=str)
    interactions = find_table(catalogue.folder, "interactions")
    if interactions is not None:
        shutil.copyfile(interactions, folder / interactions.name)


def named_items(catalogue: Catalogue, missingness: Missingness) -> Flags:
    """Return which items the mask names, ``[I]`` in the order of ``catalogue.items``."""
    groups: list[str | None] | None = None
    if missingness.clustered_by is not None:
        groups = [
            record.category if missingness.clustered_by == "category" else record.attributes.get("brand")
            for record in catalogue.records()
        ]
    return missing_items(catalogue.items["item_id"][:], missingness=missingness, groups=groups)


def _fate(record: ProductRecord, field: str) -> str:
    if getattr(record, field) is None:
        return "already missing"
    other = record.image if field == "title" else record.title
    return "spared" if other is None else "masked"


def _refuse_occupied(out: Path, *, catalogue: Catalogue) -> None:
    if out.resolve() == catalogue.folder.resolve():
        raise RecBenchError(f"{out} is the catalogue itself; give another folder")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RecBenchError(f"{out} exists and is not an empty folder; remove it or choose another folder")
