"""The nano catalogue: thousands of distinct drawn products, sampled from a seed and written as a catalogue folder."""

import json
import random
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.nano.texts import description, seller_title
from grpo_mmpc.nano.vocabulary import (
    BRANDS_BY_CATEGORY,
    CATEGORIES,
    COLORS,
    KINDS,
    PACKS,
    PATTERNS,
    SIZES,
    TYPES_BY_CATEGORY,
    pick,
)

DEFAULT_NUM_ITEMS = 3600
DEFAULT_SEED = 0

Signature = tuple[str | None, ...]
"""The full attribute combination of an item: one value per kind, in the order of ``KINDS``, None where unsaid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoItem:
    """One generated product."""

    item_id: str
    """``nano-00042``."""
    category: str
    attributes: Mapping[str, str]
    """Kind -> value, in the order of ``KINDS``; a single item has no ``pack``."""
    title: str
    """Seller's title; names every attribute."""
    description: str
    jitter: int
    """Seed of the picture's position and light; see ``drawing.draw``."""


def signature(item: NanoItem) -> Signature:
    """What makes the item distinct; two items with one signature have the same title."""
    return tuple(item.attributes.get(kind) for kind in KINDS)


def sample_items(*, num_items: int, seed: int, exclude: Collection[Signature] = frozenset()) -> list[NanoItem]:
    """Sample items with distinct attribute combinations, balanced over the nine categories.

    The same arguments give the same items in every process and Python version.

    Args:
        num_items: How many; categories differ by at most one item.
        seed: Any integer.
        exclude: Signatures that must not occur, for instance those of the default catalogue.

    Raises:
        ValueError: No more distinct combinations could be found.
    """
    rng = random.Random(f"nano catalogue {seed}")
    seen = set(exclude)
    items: list[NanoItem] = []
    for number in range(num_items):
        category = CATEGORIES[number % len(CATEGORIES)]
        for _ in range(1000):
            attributes = _sample_attributes(category, rng)
            key = tuple(attributes.get(kind) for kind in KINDS)
            if key not in seen:
                break
        else:
            raise ValueError(
                f"found no unused attributes in {category} after {number} of {num_items} items; ask for fewer"
            )
        seen.add(key)
        items.append(
            NanoItem(
                item_id=f"nano-{number:05d}",
                category=category,
                attributes=attributes,
                title=seller_title(attributes, rng),
                description=description(attributes, rng),
                jitter=int(rng.random() * 2**31),
            )
        )
    return items


def _sample_attributes(category: str, rng: random.Random) -> dict[str, str]:
    types = TYPES_BY_CATEGORY[category]
    product_type = pick(rng, tuple(types))
    sampled = {
        "type": product_type,
        "color": pick(rng, COLORS),
        "pattern": pick(rng, PATTERNS),
        "material": pick(rng, types[product_type]),
        "size": pick(rng, SIZES),
        "pack": pick(rng, PACKS),
        "brand": pick(rng, BRANDS_BY_CATEGORY[category]),
    }
    if sampled["pack"] == "1":
        del sampled["pack"]
    return sampled


def build_catalogue(out: Path, *, num_items: int = DEFAULT_NUM_ITEMS, seed: int = DEFAULT_SEED) -> Path:
    """Write a catalogue folder: ``items.jsonl``, ``images/*.png``, ``interactions.jsonl``.

    The folder appears complete or not at all: it is written beside its destination and renamed.

    Args:
        out: The folder to create; it may exist if it is empty.
        num_items: How many products.
        seed: Of products, pictures and users.

    Returns:
        ``out``.

    Raises:
        CatalogueError: ``out`` is a file or a folder with something in it.
    """
    _refuse_occupied(out)
    # heavy: imported on use
    from grpo_mmpc.nano.drawing import draw
    from grpo_mmpc.nano.interactions import sample_interactions

    items = sample_items(num_items=num_items, seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "catalogue"
        (folder / "images").mkdir(parents=True)
        for number, item in enumerate(items, start=1):
            draw(item.attributes, jitter=item.jitter).save(folder / _image(item), compress_level=4)
            _show_progress(number, len(items))
        _write_jsonl(folder / "items.jsonl", [_row(item) for item in items])
        interactions = sample_interactions(items, seed=seed)
        _write_jsonl(folder / "interactions.jsonl", [asdict(interaction) for interaction in interactions])
        try:
            folder.replace(out)
        except OSError as e:
            _refuse_occupied(out)  # another process was faster
            raise CatalogueError(f"cannot move the finished catalogue to {out}: {e}; choose a writable folder") from e
    return out


def _refuse_occupied(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise CatalogueError(f"{out} exists and is not an empty folder; remove it or choose another folder")


def _image(item: NanoItem) -> str:
    return f"images/{item.item_id}.png"


def _row(item: NanoItem) -> dict[str, object]:
    return {
        "item_id": item.item_id,
        "category": item.category,
        "title": item.title,
        "description": item.description,
        "image": _image(item),
        "attributes": dict(item.attributes),
    }


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done % 100 == 0 or done == total):
        sys.stderr.write(f"\rdrawing the nano catalogue: {done}/{total}" + ("\n" if done == total else ""))
        sys.stderr.flush()
