"""Convert item metadata of Amazon Reviews 2023 into a catalogue folder."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from grpo_mmpc.catalogue.normalise import readable_text
from grpo_mmpc.catalogue.quarantine import write_quarantine
from grpo_mmpc.catalogue.records import read_core
from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.sources.amazon_records import AmazonSource
from grpo_mmpc.catalogue.sources.download import Download
from grpo_mmpc.catalogue.sources.markup import without_markup
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import json_lines, remove_partial, write_json_lines
from grpo_mmpc.utils.hashing import hex_digest

_REPORT_EVERY = 1_000
_SIZES = ("hi_res", "large")
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
    """A row of the catalogue, where it comes from, and the addresses of its image."""

    cells: dict[str, Any]
    file: str
    row: int
    urls: list[str]


Fetch = Callable[[Iterable[Download]], Mapping[Path, str]]
"""Fetches images, returns the problems of those that could not be had; see ``download_images``."""


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
    counts. Entities and tags of HTML are resolved. The description paragraphs are joined by line
    breaks; the image is the largest of the main image that can be had; brand, color, size and
    material become attributes. Further columns: ``image_url`` and ``main_category``.

    Args:
        sources: For instance from :func:`~grpo_mmpc.catalogue.sources.amazon_records.open_sources`.
        out: Folder to write. An interrupted conversion can be repeated: images that are there are
            not fetched again, and ``items.jsonl`` appears only when it is complete.
        max_items: Keep at most this many items of each category, the first ones.
        fetch: Downloads images; None downloads nothing and leaves ``image`` empty.
        progress: Called now and then with the result so far.
    """
    folder = Path(out)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    done = AmazonConversion(folder=folder)

    def drafts() -> Iterator[dict[str, Any]]:
        for item in _items(sources, done=done, max_items=max_items):
            yield item._asdict()
            if progress is not None and done.records_read % _REPORT_EVERY == 0:
                progress(done)

    draft = folder / ".draft.partial"
    try:
        write_json_lines(draft, drafts())
        problems = {} if fetch is None else fetch(_downloads(draft, folder=folder))
        write_json_lines(folder / "items.jsonl", _rows(draft, problems, done=done, fetched=fetch is not None))
    finally:
        draft.unlink(missing_ok=True)
    write_quarantine(folder / "skipped.jsonl", done.skipped)
    if fetch is not None:
        write_quarantine(folder / "image_failures.jsonl", done.image_failures)
    if progress is not None:
        progress(done)
    return done


def _drafts(draft: Path) -> Iterator[_Item]:
    with draft.open("rb") as lines:
        for line in json_lines(lines):
            assert line.values is not None
            yield _Item(**line.values)


def _downloads(draft: Path, *, folder: Path) -> Iterator[Download]:
    for item in _drafts(draft):
        if item.urls:
            yield Download(urls=tuple(item.urls), file=folder / image_name(item.cells["item_id"], item.urls[0]))


def _rows(
    draft: Path, problems: Mapping[Path, str], *, done: AmazonConversion, fetched: bool
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the catalogue: items with a title or an image that is there."""
    for item in _drafts(draft):
        cells, item_id = item.cells, item.cells["item_id"]
        name = image_name(item_id, item.urls[0]) if fetched and item.urls else None
        problem = None if name is None else problems.get(done.folder / name)
        set_aside = partial(Quarantined, file=item.file, row=item.row, item_id=item_id)
        if problem is not None:
            done.image_failures.append(set_aside(reason=problem))
        elif name is not None:
            cells["image"] = name
            done.images += 1
        try:
            read_core(cells)  # what would be set aside when the catalogue is read does not enter it
        except RowError as error:
            done.skipped.append(
                set_aside(reason=f"{error} (its image was not downloaded)" if item.urls else str(error))
            )
            done.items[cells["category"]] -= 1
            continue
        yield cells


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
            yield _Item(item, source.name, record.row, image_urls(record.values.get("images")))
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
    main_category = _plain(record.get("main_category"))
    if category is None and main_category is None:
        raise RowError("main_category is missing and the source names no category")
    title = _plain(record.get("title"))
    urls = image_urls(record.get("images"))
    if title is None and not urls:
        raise RowError("neither title nor image")
    paragraphs = record.get("description")
    paragraphs = paragraphs if isinstance(paragraphs, list) else [paragraphs]
    return {
        "item_id": item_id,
        "category": category or main_category,
        "title": title,
        "description": "\n".join(t for p in paragraphs if (t := _plain(p)) is not None) or None,
        "image": None,
        "attributes": read_attributes(record) or None,
        "image_url": urls[0] if urls else None,
        "main_category": main_category,
    }


def _plain(value: object) -> str | None:
    """Return a cell as text without markup; None where it holds nothing."""
    return readable_text(without_markup(value) if isinstance(value, str) else value)


def image_urls(images: object) -> list[str]:
    """Return the addresses of the best image, best first: MAIN before others, then by size.

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
        return []
    for image in sorted(candidates, key=lambda image: image.get("variant") != "MAIN"):
        urls = [url for size in _SIZES if (url := readable_text(image.get(size))) is not None]
        if urls:
            return urls
    return []


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
        text = next((t for name in names if (t := _plain(known.get(name))) is not None), None)
        if kind == "brand" and text is None:
            text = _plain(values.get("store"))
        if text is not None:
            facts[kind] = text
    return facts


def image_name(item_id: str, url: str) -> str:
    """Return the path of an item's image file; no identifier leads out of ``images/``."""
    suffix = Path(re.split("[?#]", url, maxsplit=1)[0]).suffix.lower()
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", item_id)[:60]
    if safe != item_id:
        safe += f"-{hex_digest(item_id, size=4)}"  # "a/b" and "a_b" are two items
    return f"images/{safe}{suffix if suffix in _IMAGE_SUFFIXES else '.jpg'}"
