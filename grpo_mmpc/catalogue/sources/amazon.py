"""Turns item metadata of Amazon Reviews 2023 (McAuley-Lab/Amazon-Reviews-2023) into a catalogue folder."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.normalise import clean_text
from grpo_mmpc.catalogue.quarantine import write_quarantine
from grpo_mmpc.catalogue.sources.download import Download, Fetch, download_images
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import replace_atomically

_BATCH = 256
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")

# Kind of attribute -> names under which sellers give it in ``details``, best first.
_DETAIL_NAMES: Mapping[str, tuple[str, ...]] = {
    "brand": ("brand", "brand name"),
    "color": ("color", "colour"),
    "size": ("size",),
    "material": ("material", "material type"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRecord:
    """Stands in a source for a record that is damaged."""

    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AmazonSource:
    """Records of one file or hub configuration: item metadata, or reviews."""

    name: str
    """For messages."""
    category: str | None
    """Category of its items; None takes each metadata record's ``main_category``."""
    records: Iterable[Mapping[str, Any] | UnreadableRecord]
    """Read once, and only as far as needed."""


@dataclass(slots=True, kw_only=True)
class AmazonConversion:
    """What became of the records."""

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


class _RecordError(Exception):
    """This record cannot become an item; the message becomes the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where an item came from, should something be wrong with it."""

    source: str
    row: int
    item_id: str | None

    def set_aside(self, reason: str) -> Quarantined:
        return Quarantined(file=self.source, row=self.row, item_id=self.item_id, reason=reason)


def convert_amazon_metadata(
    sources: Iterable[AmazonSource],
    *,
    out: Path | str,
    max_items: int | None = None,
    fetch: Fetch | None = None,
    progress: Callable[[AmazonConversion], None] | None = None,
) -> AmazonConversion:
    """Write ``items.jsonl`` (and images) from metadata records, one at a time, whatever their number.

    An item's item_id is its ``parent_asin``; of several records with one parent_asin the first
    counts. The description paragraphs are joined by line breaks; the image is the largest of the
    main picture; brand, color, size and material become attributes. Further columns: ``image_url``
    and ``main_category``.

    Args:
        sources: For instance from :func:`~grpo_mmpc.catalogue.sources.amazon_files.open_sources`.
        out: Folder to write. An interrupted conversion can be repeated: images that are there are
            not fetched again, and ``items.jsonl`` appears only when it is complete.
        max_items: Keep at most this many items of each category, the first ones.
        fetch: Downloads an image; None downloads nothing and leaves ``image`` empty.
        progress: Called now and then with what was done so far.
    """
    folder = Path(out)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    done = AmazonConversion(folder=folder)
    queue = _items(sources, done=done, max_items=max_items)
    with replace_atomically(folder / "items.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
        while batch := list(islice(queue, _BATCH)):
            if fetch is not None:
                done.image_failures.extend(_fetch_images(batch, folder=folder, fetch=fetch))
            for _, item in batch:
                done.images += item["image"] is not None
                lines.write(json.dumps(item, ensure_ascii=False) + "\n")
            if progress is not None:
                progress(done)
    write_quarantine(folder / "skipped.jsonl", done.skipped)
    if fetch is not None:
        write_quarantine(folder / "image_failures.jsonl", done.image_failures)
    return done


def _items(
    sources: Iterable[AmazonSource], *, done: AmazonConversion, max_items: int | None
) -> Iterator[tuple[_Origin, dict[str, Any]]]:
    """Items to write; counts what it reads and skips in ``done``."""
    first_seen: dict[str, str] = {}

    def is_full(category: str | None) -> bool:
        return max_items is not None and category is not None and done.items.get(category, 0) >= max_items

    for source in sources:
        if is_full(source.category):
            continue
        for row, record in enumerate(source.records, start=1):
            done.records_read += 1
            item_id = None if isinstance(record, UnreadableRecord) else _text(record.get("parent_asin"))
            origin = _Origin(source=source.name, row=row, item_id=item_id)
            try:
                item = read_item(record, category=source.category)
                if item["item_id"] in first_seen:
                    raise _RecordError(f"parent_asin {item_id} was already read from {first_seen[item['item_id']]}")
            except _RecordError as e:
                done.skipped.append(origin.set_aside(str(e)))
                continue
            if is_full(item["category"]):
                continue
            first_seen[item["item_id"]] = f"{source.name} row {row}"
            done.items[item["category"]] = done.items.get(item["category"], 0) + 1
            yield origin, item
            if is_full(source.category):
                break  # before the next record: a hub source would go on downloading


def read_item(record: Mapping[str, Any] | UnreadableRecord, *, category: str | None) -> dict[str, Any]:
    """The catalogue row of one metadata record, without its image file."""
    if isinstance(record, UnreadableRecord):
        raise _RecordError(record.problem)
    item_id = _text(record.get("parent_asin"))
    if item_id is None:
        raise _RecordError("parent_asin is missing: the item cannot be named")
    main_category = _text(record.get("main_category"))
    if category is None and main_category is None:
        raise _RecordError("main_category is missing and the source names no category")
    title = _text(record.get("title"))
    image_url = main_image_url(record.get("images"))
    if title is None and image_url is None:
        raise _RecordError("neither title nor image")
    paragraphs = record.get("description")
    paragraphs = paragraphs if isinstance(paragraphs, list) else [paragraphs]
    return {
        "item_id": item_id,
        "category": category or main_category,
        "title": title,
        "description": "\n".join(t for p in paragraphs if (t := _text(p)) is not None) or None,
        "image": None,
        "attributes": read_attributes(record) or None,
        "image_url": image_url,
        "main_category": main_category,
    }


def main_image_url(images: object) -> str | None:
    """Address of the best picture: the MAIN variant before others, ``hi_res`` before ``large``.

    Args:
        images: A list of objects with the keys thumb, large, hi_res, variant (the JSONL files), or
            one object of equally long lists under those keys (the Parquet files).
    """
    if isinstance(images, Mapping):
        lists = {key: list(column) for key, column in images.items() if isinstance(column, list | tuple)}
        length = max((len(column) for column in lists.values()), default=0)
        pictures: list[Mapping[str, Any]] = [{k: c[i] for k, c in lists.items() if i < len(c)} for i in range(length)]
    elif isinstance(images, list):
        pictures = [picture for picture in images if isinstance(picture, Mapping)]
    else:
        return None
    for picture in sorted(pictures, key=lambda p: p.get("variant") != "MAIN"):
        for size in ("hi_res", "large"):
            url = _text(picture.get(size))
            if url is not None:
                return url
    return None


def read_attributes(values: Mapping[str, Any]) -> dict[str, str]:
    """Brand, color, size and material out of ``details`` (an object or its JSON text); brand falls back to ``store``."""
    details = values.get("details")
    if isinstance(details, str):
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            details = None  # a seller's broken table costs the attributes, not the item
    known = {str(k).strip().casefold(): v for k, v in details.items()} if isinstance(details, Mapping) else {}
    facts: dict[str, str] = {}
    for kind, names in _DETAIL_NAMES.items():
        text = next((t for name in names if (t := _text(known.get(name))) is not None), None)
        if kind == "brand" and text is None:
            text = _text(values.get("store"))
        if text is not None:
            facts[kind] = text
    return facts


def _fetch_images(batch: list[tuple[_Origin, dict[str, Any]]], *, folder: Path, fetch: Fetch) -> list[Quarantined]:
    wanted = [(origin, item) for origin, item in batch if item["image_url"] is not None]
    downloads = [
        Download(item["image_url"], folder / image_name(item["item_id"], item["image_url"])) for _, item in wanted
    ]
    failures = []
    for (origin, item), (download, problem) in zip(wanted, download_images(downloads, fetch=fetch), strict=True):
        if problem is None:
            item["image"] = download.file.relative_to(folder).as_posix()
        else:
            failures.append(origin.set_aside(problem))
    return failures


def image_name(item_id: str, url: str) -> str:
    """Where an item's image is kept; an identifier can name no file outside ``images/``."""
    suffix = Path(re.split("[?#]", url, maxsplit=1)[0]).suffix.lower()
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", item_id)
    return f"images/{safe}{suffix if suffix in _IMAGE_SUFFIXES else '.jpg'}"


def _text(value: object) -> str | None:
    try:
        return clean_text(value)
    except TypeError:
        return None
