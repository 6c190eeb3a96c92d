"""Read one metadata record of Amazon Reviews 2023 as a row of a catalogue."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.normalise import MISSING_WORDS, readable_text
from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.sources.cleaning import cleaned
from grpo_mmpc.utils.hashing import hex_digest

IMAGE_SIZES = ("hi_res", "large")
"""Of an image, best first."""
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")

ATTRIBUTE_NAMES = {
    "brand": ("brand", 0),
    "brand name": ("brand", 1),
    "color": ("color", 0),
    "colour": ("color", 1),
    "size": ("size", 0),
    "material": ("material", 0),
    "material type": ("material", 1),
}
"""Names under which sellers give an attribute in ``details``: its kind, and 0 for the best name."""
_KINDS = ("brand", "color", "size", "material")


def read_item(record: Mapping[str, Any], *, category: str | None) -> dict[str, Any]:
    """Convert one metadata record to a catalogue row, without its image file.

    An item's item_id is its ``parent_asin``. Entities and tags of HTML are resolved. Brand, color,
    size and material become attributes. ``image_urls`` holds the addresses of the best image.

    Raises:
        RowError: The record cannot become an item.
    """
    item_id = readable_text(record.get("parent_asin"))
    if item_id is None:
        raise RowError("parent_asin is missing: the item cannot be named")
    main_category = plain_text(record.get("main_category"))
    if category is None and main_category is None:
        raise RowError("main_category is missing and the source names no category")
    title = plain_text(record.get("title"))
    urls = image_urls(record.get("images"))
    if title is None and not urls:
        raise RowError("neither title nor image")
    return {
        "item_id": item_id,
        "category": category or main_category,
        "title": title,
        "description": read_description(record.get("description")),
        "attributes": read_attributes(record) or None,
        "image_urls": urls,
        "main_category": main_category,
    }


def plain_text(value: object, counts: Counter[str] | None = None) -> str | None:
    """Return a cell as :func:`cleaned` text; None where it holds nothing, or what is no text."""
    if isinstance(value, str) and value.isascii() and value.isalnum() and value not in MISSING_WORDS:
        return value  # most cells by far are one word
    try:
        return cleaned(value, Counter() if counts is None else counts)
    except TypeError:
        return None


def read_description(paragraphs: object, counts: Counter[str] | None = None) -> str | None:
    """Return the paragraphs that hold text, joined by line breaks."""
    listed = paragraphs if isinstance(paragraphs, list) else [paragraphs]
    return "\n".join(text for part in listed if (text := plain_text(part, counts)) is not None) or None


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
        urls = [url for size in IMAGE_SIZES if (url := readable_text(image.get(size))) is not None]
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
    texts: dict[tuple[str, int], str | None] = {}
    for name, value in details.items() if isinstance(details, Mapping) else ():
        place = _place(name) if isinstance(name, str) else None
        if place is not None:
            texts[place] = plain_text(value)
    facts: dict[str, str] = {}
    for kind in _KINDS:
        text = texts.get((kind, 0)) or texts.get((kind, 1))
        if kind == "brand" and text is None:
            text = plain_text(values.get("store"))
        if text is not None:
            facts[kind] = text
    return facts


@lru_cache(maxsize=10_000)
def _place(name: str) -> tuple[str, int] | None:
    return ATTRIBUTE_NAMES.get(name.strip().casefold())


def image_name(item_id: str, url: str) -> str:
    """Return the path of an item's image file; no identifier leads out of ``images/``."""
    suffix = Path(re.split("[?#]", url, maxsplit=1)[0]).suffix.lower()
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", item_id)[:60]
    if safe != item_id:
        safe += f"-{hex_digest(item_id, size=4)}"  # "a/b" and "a_b" are two items
    return f"images/{safe}{suffix if suffix in _IMAGE_SUFFIXES else '.jpg'}"
