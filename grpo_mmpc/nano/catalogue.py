"""The nano catalogue: thousands of distinct drawn products, sampled from a seed and written as a catalogue folder."""

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.nano.items import NanoItem, sample_items

DEFAULT_NUM_ITEMS = 3600
DEFAULT_SEED = 0

"""The full attribute combination of an item: one value per kind, in the order of ``KINDS``, None
where unsaid."""


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
