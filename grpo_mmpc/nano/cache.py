"""The default nano catalogue, built once per machine and version of its generator."""

import hashlib
from pathlib import Path

from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.cache import cache_folder

REFERENCE = "nano:catalogue"
"""What recipes and commands call it."""

_GENERATOR = ("vocabulary", "texts", "shapes", "drawing", "items", "catalogue", "interactions")


def ensure_catalogue() -> Path:
    """Folder of the default nano catalogue; the first call builds it.

    It lies in ``$GRPO_MMPC_CACHE/nano-catalogue``, by default
    ``~/.cache/grpo_mmpc/nano-catalogue``, under a name that changes with the source of the
    generator. Processes that build it at the same time end with one complete folder: each builds
    its own, the first to finish moves it into place, the others drop theirs.

    Raises:
        CatalogueError: The folder is there but incomplete, or cannot be written.
    """
    folder = cache_folder("nano-catalogue") / generator_version()
    if not _is_complete(folder):
        # heavy: imported on use
        from grpo_mmpc.nano import catalogue

        try:
            catalogue.build_catalogue(folder, num_items=catalogue.DEFAULT_NUM_ITEMS, seed=catalogue.DEFAULT_SEED)
        except CatalogueError as e:
            if folder.exists() and not _is_complete(folder):
                raise CatalogueError(
                    f"the cached nano catalogue {folder} lost files; remove that folder and start again"
                ) from e
            if not folder.exists():
                raise
    return folder


def catalogue_folder(reference: str) -> Path:
    """The folder of ``nano:catalogue``, built if need be; any other reference is a folder itself."""
    return ensure_catalogue() if reference == REFERENCE else Path(reference)


def generator_version() -> str:
    """Hash of the generator's source, 12 hexadecimal digits: changed drawings never meet an old cache."""
    digest = hashlib.sha256()
    for name in _GENERATOR:
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")  # text: newlines do not count
        digest.update(f"{name}\n{source}\n".encode())
    return digest.hexdigest()[:12]


def _is_complete(folder: Path) -> bool:
    return (folder / "items.jsonl").is_file() and (folder / "interactions.jsonl").is_file()
