"""Convert item metadata of Amazon Reviews 2023 into a catalogue folder."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from grpo_mmpc.catalogue.normalise import readable_text
from grpo_mmpc.catalogue.quarantine import write_quarantine
from grpo_mmpc.catalogue.rows import RawRow, RowError
from grpo_mmpc.catalogue.sources.amazon_records import AmazonSource
from grpo_mmpc.catalogue.sources.download import Download, Fetch, download_images
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import write_json_lines

_BATCH = 256
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")

# Kind of attribute -> names under which sellers give it in ``details``, best first.
_DETAIL_NAMES: Mapping[str, tuple[str, ...]] = {
    "brand": ("brand", "brand name"),
    "color": ("color", "colour"),
    "size": ("size",),
    "material": ("material", "material type"),
}


@dataclass(slots=True, kw_only=True)
class AmazonConversion:
    """The result of a conversion: items, skipped records and missing images."""

    folder: Path
    records_read: int = 0
    items: dict[str, int] = field(default_factory=dict)
    """Items written, by category."""
    skipped: list[Quarantined] = field(default_factory=list)
    """Records that could not become items; also in ``skipped.jsonl``."""
    images: int = 0
    """Items with an image file."""
    image_failures: list[Quarantined] = field(default_factory=list)
    """Items whose image could not be fetched, kept without one; also in
    ``image_failures.jsonl``."""


class _Item(NamedTuple):
    """A row of the catalogue, and the record it was made from."""

    cells: dict[str, Any]
    record: RawRow
    source: str


def convert_amazon_metadata(
    sources: Iterable[AmazonSource],
    *,
    out: Path | str,
    max_items: int | None = None,
    fetch: Fetch | None = None,
    progress: Callable[[AmazonConversion], None] | None = None,
) -> AmazonConversion:
    """Write ``items.jsonl`` (and images) from metadata records, read one at a time.

    An item's item_id is its ``parent_asin``; of several records with one parent_asin the first
    counts. The description paragraphs are joined by line breaks; the image is the largest of the
    main image; brand, color, size and material become attributes. Further columns: ``image_url``
    and ``main_category``.

    Args:
        sources: For instance from :func:`~grpo_mmpc.catalogue.sources.amazon_records.open_sources`.
        out: Folder to write. An interrupted conversion can be repeated: images that are there are
            not fetched again, and ``items.jsonl`` appears only when it is complete.
        max_items: Keep at most this many items of each category, the first ones.
        fetch: Downloads an image; None downloads nothing and leaves ``image`` empty.
        progress: Called now and then with the result so far.
    """
    folder = Path(out)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    done = AmazonConversion(folder=folder)
    queue = _items(sources, done=done, max_items=max_items)

    def rows() -> Iterator[dict[str, Any]]:
        while batch := list(islice(queue, _BATCH)):
            if fetch is not None:
                done.image_failures.extend(_fetch_images(batch, folder=folder, fetch=fetch))
            done.images += sum(item.cells["image"] is not None for item in batch)
            yield from (item.cells for item in batch)
            if progress is not None:
                progress(done)

    write_json_lines(folder / "items.jsonl", rows())
    write_quarantine(folder / "skipped.jsonl", done.skipped)
    if fetch is not None:
        write_quarantine(folder / "image_failures.jsonl", done.image_failures)
    return done


def _items(sources: Iterable[AmazonSource], *, done: AmazonConversion, max_items: int | None) -> Iterator[_Item]:
    """Yield the items to write; read and skipped records are counted in ``done``."""
    first_seen: dict[str, str] = {}

    def is_full(category: str | None) -> bool:
        return max_items is not None and category is not None and done.items.get(category, 0) >= max_items

    for source in sources:
        if is_full(source.category):
            continue
        for record in source.records:
            done.records_read += 1
            try:
                item = read_item(record.cells(), category=source.category)
                item_id, category = item["item_id"], item["category"]
                if item_id in first_seen:
                    raise RowError(f"parent_asin {item_id} was already read from {first_seen[item_id]}")
            except RowError as e:
                done.skipped.append(record.set_aside(e, file=source.name, id_column="parent_asin"))
                continue
            if is_full(category):
                continue
            first_seen[item_id] = f"{source.name} row {record.row}"
            done.items[category] = done.items.get(category, 0) + 1
            yield _Item(item, record, source.name)
            if is_full(source.category):
                break  # before the next record: a hub source would go on downloading


def read_item(record: Mapping[str, Any], *, category: str | None) -> dict[str, Any]:
    """Convert one metadata record to a catalogue row, without its image file.

    Raises:
        RowError: The record cannot become an item.
    """
    item_id = readable_text(record.get("parent_asin"))
    if item_id is None:
        raise RowError("parent_asin is missing: the item cannot be named")
    main_category = readable_text(record.get("main_category"))
    if category is None and main_category is None:
        raise RowError("main_category is missing and the source names no category")
    title = readable_text(record.get("title"))
    image_url = main_image_url(record.get("images"))
    if title is None and image_url is None:
        raise RowError("neither title nor image")
    paragraphs = record.get("description")
    paragraphs = paragraphs if isinstance(paragraphs, list) else [paragraphs]
    return {
        "item_id": item_id,
        "category": category or main_category,
        "title": title,
        "description": "\n".join(t for p in paragraphs if (t := readable_text(p)) is not None) or None,
        "image": None,
        "attributes": read_attributes(record) or None,
        "image_url": image_url,
        "main_category": main_category,
    }


def main_image_url(images: object) -> str | None:
    """Return the address of the best image: MAIN before others, ``hi_res`` before ``large``.

    Args:
        images: A list of objects with the keys thumb, large, hi_res, variant (the JSONL files), or
            one object of equally long lists under those keys (the Parquet files).
    """
    if isinstance(images, Mapping):
        lists = {key: list(column) for key, column in images.items() if isinstance(column, list | tuple)}
        length = max((len(column) for column in lists.values()), default=0)
        candidates: list[Mapping[str, Any]] = [{k: c[i] for k, c in lists.items() if i < len(c)} for i in range(length)]
    elif isinstance(images, list):
        candidates = [image for image in images if isinstance(image, Mapping)]
    else:
        return None
    for image in sorted(candidates, key=lambda image: image.get("variant") != "MAIN"):
        for size in ("hi_res", "large"):
            url = readable_text(image.get(size))
            if url is not None:
                return url
    return None


def read_attributes(values: Mapping[str, Any]) -> dict[str, str]:
    """Read brand (else ``store``), color, size and material from ``details`` or its JSON text."""
    details = values.get("details")
    if isinstance(details, str):
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            details = None  # a seller's broken table costs the attributes, not the item
    known = {str(k).strip().casefold(): v for k, v in details.items()} if isinstance(details, Mapping) else {}
    facts: dict[str, str] = {}
    for kind, names in _DETAIL_NAMES.items():
        text = next((t for name in names if (t := readable_text(known.get(name))) is not None), None)
        if kind == "brand" and text is None:
            text = readable_text(values.get("store"))
        if text is not None:
            facts[kind] = text
    return facts


def _fetch_images(batch: list[_Item], *, folder: Path, fetch: Fetch) -> list[Quarantined]:
    wanted = [(item, url) for item in batch if (url := item.cells["image_url"]) is not None]
    downloads = [Download(url, folder / image_name(item.cells["item_id"], url)) for item, url in wanted]
    failures = []
    for (item, _), (download, problem) in zip(wanted, download_images(downloads, fetch=fetch), strict=True):
        if problem is None:
            item.cells["image"] = download.file.relative_to(folder).as_posix()
        else:
            failures.append(item.record.set_aside(problem, file=item.source, id_column="parent_asin"))
    return failures


def image_name(item_id: str, url: str) -> str:
    """Return the path of an item's image file; no identifier leads out of ``images/``."""
    suffix = Path(re.split("[?#]", url, maxsplit=1)[0]).suffix.lower()
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", item_id)
    return f"images/{safe}{suffix if suffix in _IMAGE_SUFFIXES else '.jpg'}"
