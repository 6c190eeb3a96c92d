"""The nano catalogue as a folder: written from a seed, the default one once per machine."""

from pathlib import Path

from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.nano.items import DEFAULT_NUM_ITEMS, DEFAULT_SEED, NanoItem, sample_items
from grpo_mmpc.utils.cache import cache_folder
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.files import build_folder, read_object, write_json, write_json_lines
from grpo_mmpc.utils.hashing import hex_digest

NANO_CATALOGUE = "nano:catalogue"
"""Name of the default catalogue in recipes and commands."""

MADE_OF = "nano.json"
"""In the folder: what it was made of."""
_GENERATOR = ("vocabulary", "texts", "shapes", "drawing", "items", "catalogue", "interactions")


def build_catalogue(
    out: Path, *, num_items: int = DEFAULT_NUM_ITEMS, seed: int = DEFAULT_SEED, hard: bool = False
) -> Path:
    """Write a catalogue folder: ``items.jsonl``, ``images/*.png``, ``interactions.jsonl``.

    ``out``, which is returned, may exist if it is empty, or holds this catalogue; it appears
    complete or not at all. The seed is that of products, images and users. With ``hard``, images
    are spoiled and some brands and types are such as no policy has seen; see
    ``grpo_mmpc.nano.hard``.

    Raises:
        CatalogueError: ``out`` is a file or a folder with something else in it.
    """
    made_of = {"num_items": num_items, "seed": seed, "hard": hard, "generator": generator_version()}
    if _is_complete(out) and read_object(out / MADE_OF) == made_of:
        return out
    _refuse_occupied(out)
    from grpo_mmpc.nano.drawing import draw  # heavy: imported on use
    from grpo_mmpc.nano.hard import drawn_attributes, harden, spoil
    from grpo_mmpc.nano.interactions import sample_interactions

    sampled = sample_items(num_items=num_items, seed=seed)
    items = list(map(harden, sampled)) if hard else sampled
    try:
        with build_folder(out) as folder, Progress() as progress:
            (folder / "images").mkdir()
            for number, item in enumerate(items, start=1):
                image = draw(drawn_attributes(item), jitter=item.jitter)
                (spoil(image, item) if hard else image).save(folder / _image(item), compress_level=4)
                progress("drawing the nano catalogue", number, len(items))
            write_json_lines(folder / "items.jsonl", map(_row, items))
            purchases = sample_interactions(sampled, seed=seed)
            write_json_lines(folder / "interactions.jsonl", (purchase._asdict() for purchase in purchases))
            write_json(folder / MADE_OF, made_of)
    except OSError:
        _refuse_occupied(out)  # another process was faster
        raise
    return out


def ensure_catalogue() -> Path:
    """Return the folder of the default nano catalogue; the first call builds it.

    It lies in ``$GRPO_MMPC_CACHE/nano-catalogue``, by default
    ``~/.cache/grpo_mmpc/nano-catalogue``, under a name that changes with the source of the
    generator. Of processes that build it at the same time the first to finish moves it into place;
    the others drop their copy.

    Raises:
        CatalogueError: The folder is there but incomplete.
    """
    folder = cache_folder("nano-catalogue") / generator_version()
    if not _is_complete(folder):
        try:
            build_catalogue(folder, num_items=DEFAULT_NUM_ITEMS, seed=DEFAULT_SEED)
        except CatalogueError as e:
            if folder.exists() and not _is_complete(folder):
                raise CatalogueError(
                    f"the cached nano catalogue {folder} lost files; remove that folder and start again"
                ) from e
            if not folder.exists():
                raise
    return folder


def catalogue_folder(reference: str) -> Path:
    """Return the folder of ``nano:catalogue``, built if need be, or of another catalogue.

    Raises:
        CatalogueError: ``nano:`` followed by another name.
    """
    if reference.startswith("nano:") and reference != NANO_CATALOGUE:
        raise CatalogueError(f"there is no embedded catalogue {reference!r}; did you mean {NANO_CATALOGUE!r}?")
    return ensure_catalogue() if reference == NANO_CATALOGUE else Path(reference)


def generator_version() -> str:
    """Hash the generator's source, so that changed drawings never meet an old cache."""
    # As text: newlines do not count.
    sources = (Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in _GENERATOR)
    return hex_digest(*(f"{name}\n{source}\n" for name, source in zip(_GENERATOR, sources, strict=True)), size=6)


def _is_complete(folder: Path) -> bool:
    return (folder / "items.jsonl").is_file() and (folder / "interactions.jsonl").is_file()


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
