"""Open a catalogue folder: good items memory-mapped, broken rows set aside with reasons."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from grpo_mmpc.catalogue.arrow_cache import NormalisedItems, data_rows, normalise_items
from grpo_mmpc.catalogue.images import MAX_IMAGE_PIXELS, find_image, relative_image_path
from grpo_mmpc.catalogue.records import CORE_COLUMNS, FURTHER_TEXTS
from grpo_mmpc.catalogue.signatures import Signatures, image_signatures
from grpo_mmpc.catalogue.tables import SUFFIXES, find_table
from grpo_mmpc.errors import CatalogueError, ImageError
from grpo_mmpc.types import ProductRecord, Quarantined
from grpo_mmpc.utils.hashing import digest_of

if TYPE_CHECKING:
    from datasets import Dataset

_log = logging.getLogger(__name__)

_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Catalogue:
    """The usable items of a catalogue folder."""

    folder: Path
    items_file: Path
    items: "Dataset"
    """Columns item_id, category, title, description, image, attributes (text of a JSON object or
    null), then every further column of the items file. On disk, memory-mapped."""
    quarantined: list[Quarantined]
    """Rows that were set aside; ``rows_read == len(items) + len(quarantined)``."""
    rows_read: int
    broken_by_category: Mapping[str, int]
    """Number of quarantined rows by category, as far as the category could be read."""
    duplicate_ids: int
    """The number of them that repeat the item_id of an earlier row."""
    warnings: list[str]
    """Odd things that cost no row."""
    broken_images: Mapping[str, str]
    """Problem of the image by item_id, for items that are kept although it is broken; see
    ``load_catalogue``."""
    fingerprint: str
    """Hash of the items file's content and, if the images were checked, of every good image's
    content. The same on every machine, whatever the folder is called."""
    max_image_pixels: int
    images_checked: bool

    def __len__(self) -> int:
        return len(self.items)

    def record(self, index: int) -> ProductRecord:
        """Return the item at a position of ``items``."""
        return to_record(self.items[index])

    def row_of(self, item_id: str) -> int:
        """Return the data row of ``items_file`` that an item came from, counted from 1."""
        rows = data_rows(len(self.items), broken_rows=[broken.row for broken in self.quarantined])
        return int(rows[self.items["item_id"][:].index(item_id)])

    def column(self, name: str, indices: Sequence[int]) -> list[Any]:
        """Return a column's cells at positions of ``items``; a selection of it reads slowly."""
        return list(arrow_column(self.items, name).take(pa.array(indices, pa.int64())).to_pylist())

    def records(self, indices: Sequence[int] | None = None) -> Iterator[ProductRecord]:
        """Read the items at some positions of ``items``, or every item in order, in batches."""
        places = range(len(self)) if indices is None else indices
        for start in range(0, len(places), _BATCH_ROWS):
            batch = self.items[places[start : start + _BATCH_ROWS]]
            yield from (to_record(dict(zip(batch, cells, strict=True))) for cells in zip(*batch.values(), strict=True))

    def image_path(self, record: ProductRecord) -> Path | None:
        """Return the absolute path of an item's image; None where the item has none.

        Raises:
            ImageError: The file vanished or lies outside the folder.
        """
        return None if record.image is None else find_image(record.image, folder=self.folder)

    def signatures(self) -> Signatures:
        """Describe each item's image; cheap once images are checked."""
        images = arrow_column(self.items, "image")
        return image_signatures(images, folder=self.folder, max_image_pixels=self.max_image_pixels)


def arrow_column(items: "Dataset", name: str) -> pa.ChunkedArray:
    """Return a column as it lies on disk, which takes no memory."""
    return items.select_columns([name]).with_format("arrow")[:].column(name)


def to_record(row: Mapping[str, Any]) -> ProductRecord:
    """Convert a row of ``Catalogue.items`` to a product record."""
    cells = {name: row[name] for name in CORE_COLUMNS}
    facts = {"attributes": json.loads(row["attributes"] or "{}")}
    images = further_images(row.get("images"), image=row["image"])
    further = {name: _further(row, name) for name in FURTHER_TEXTS}
    return ProductRecord(**cells | facts | further, images=images)


def _further(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """Return the further texts of a row, each once, without the one that is shown."""
    return tuple(text for text in dict.fromkeys(row.get(column) or ()) if text != row[column.removesuffix("s")])


def further_images(cell: Any, *, image: str | None) -> tuple[str, ...]:
    """Read a cell ``images``: a list of paths, or its JSON text, without the first image.

    What is no path of the folder is left out.
    """
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            cell = None
    paths: dict[str, None] = {}
    for one in cell if isinstance(cell, list) else ():
        with suppress(ImageError):
            paths[relative_image_path(str(one))] = None
    return tuple(path for path in paths if path != image)


def load_catalogue(
    folder: Path | str,
    *,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    check_images: bool = True,
    keep_titled: bool = False,
    allow_empty: bool = False,
) -> Catalogue:
    """Open a catalogue folder.

    The folder holds one file ``items.parquet``, ``items.jsonl`` or ``items.csv`` and the images it
    names. Rows that cannot be used are set aside, each with its reason, and the rest is loaded.

    Args:
        folder: The catalogue folder.
        max_image_pixels: Width times height above which an image counts as broken.
        check_images: Decode every image once (in parallel; remembered until the file changes) and
            set rows with a broken one aside. Without it a broken image shows when it is read.
        keep_titled: Keep an item with a title whose image is broken, for a caller to whom such an
            image is a missing one.
        allow_empty: Return a catalogue without items instead of raising.

    Raises:
        CatalogueError: No folder, no items file or several, a missing column, the wrong encoding,
            or no usable row.
    """
    from datasets import Dataset  # heavy: imported on use

    root = Path(folder)
    items_file = _items_file(root)
    read = normalise_items(items_file)
    items = Dataset.from_file(str(read.arrow_file))
    quarantined, broken = list(read.quarantined), Counter(read.broken_by_category)
    fingerprint = read.digest
    kept: dict[str, str] = {}
    if check_images:
        signatures = image_signatures(arrow_column(items, "image"), folder=root, max_image_pixels=max_image_pixels)
        problems = signatures.problems
        if keep_titled:
            kept, problems = _with_title(items, problems)
        items, set_aside = _without_broken_images(items, problems=problems, read=read, file=items_file.name)
        quarantined = sorted([*quarantined, *(q for q, _ in set_aside)], key=lambda q: q.row)
        broken.update(category for _, category in set_aside)
        fingerprint = _with_images(read.digest, signatures)
    catalogue = Catalogue(
        folder=root,
        items_file=items_file,
        items=items,
        quarantined=quarantined,
        rows_read=read.rows_read,
        broken_by_category=dict(broken),
        duplicate_ids=read.duplicate_ids,
        warnings=read.warnings,
        broken_images=kept,
        fingerprint=fingerprint,
        max_image_pixels=max_image_pixels,
        images_checked=check_images,
    )
    if not len(items) and not allow_empty:
        raise CatalogueError(_no_items_message(catalogue))
    if quarantined:
        _log.info("%s: %d of %d rows set aside as broken", items_file, len(quarantined), read.rows_read)
    return catalogue


def _items_file(root: Path) -> Path:
    if not root.exists():
        raise CatalogueError(f"catalogue folder {root} does not exist (looked from {Path.cwd()}); correct the path")
    if not root.is_dir():
        raise CatalogueError(f"{root} is a file; give the folder that holds it, with the images it names")
    items_file = find_table(root, "items")
    if items_file is None:
        names = sorted(p.name for p in root.iterdir() if p.is_file())
        near = [n for n in names if n.lower().startswith("items.")] or names
        seen = f"found: {', '.join(near[:8])}" if near else "the folder holds no file"
        raise CatalogueError(f"{root} has no items{', items'.join(SUFFIXES)}; {seen}; write the items into one of them")
    return items_file


def _with_title(items: "Dataset", problems: Mapping[int, str]) -> tuple[dict[str, str], Mapping[int, str]]:
    """Return the problems of items that have a title, by item_id, and the others by position."""
    rows = items.select(list(problems)) if problems else {"item_id": [], "title": []}
    cells = list(zip(problems.items(), rows["item_id"][:], rows["title"][:], strict=True))
    titled = {item_id: problem for (_, problem), item_id, title in cells if title is not None}
    return titled, {index: problem for (index, problem), _, title in cells if title is None}


def _without_broken_images(
    items: "Dataset", *, problems: Mapping[int, str], read: NormalisedItems, file: str
) -> tuple["Dataset", list[tuple[Quarantined, str]]]:
    if not problems:
        return items, []
    rows = data_rows(len(items), broken_rows=[q.row for q in read.quarantined])
    cells = items.select(list(problems))
    set_aside = [
        (Quarantined(file=file, row=int(rows[index]), item_id=item_id, reason=problem), category)
        for (index, problem), item_id, category in zip(
            problems.items(), cells["item_id"][:], cells["category"][:], strict=True
        )
    ]
    good = np.delete(np.arange(len(items)), list(problems))
    return items.select(good, keep_in_memory=True), set_aside


def _with_images(digest: str, signatures: Signatures) -> str:
    # Row by row, so that exchanging two images changes the fingerprint.
    digests = signatures.files["digest"].cast(pa.binary()).take(pa.array(signatures.row, mask=signatures.row < 0))
    is_broken = np.isin(np.arange(len(signatures.row)), list(signatures.problems))
    marks = pc.if_else(is_broken, b"!", pc.fill_null(digests, b"-"))
    return digest_of((digest, *(chunk.buffers()[2] for chunk in marks.chunks))).hex()


def _no_items_message(catalogue: Catalogue) -> str:
    lines = [f"{catalogue.items_file} has no usable row ({catalogue.rows_read} read)"]
    lines += [f"  row {q.row}: {q.reason}" for q in catalogue.quarantined[:5]]
    if len(catalogue.quarantined) > 5:
        lines.append(f"  ... and {len(catalogue.quarantined) - 5} more")
    lines.append(f"see all of them with: grpo-mmpc data validate {catalogue.folder}")
    return "\n".join(lines)
