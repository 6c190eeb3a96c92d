"""Read a WebDataset shard: files of a tar archive that share a name up to the dot are a sample."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.item_images import IMAGE_SUFFIXES
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.files import parse_json

COLUMNS = ("item_id", "title", "description", "category", "image", "attributes", "parent_id")
"""The columns of a sample: its key, its image, its text, and what its JSON object says."""
_TEXTS = {"txt": "title", "text": "title", "title": "title", "caption": "title", "cls": "category"}
_MOST_BYTES = 50_000_000
"""Of one file of the archive."""


def read_tar(path: Path) -> Iterator[RawRow]:
    """Read one row a sample; several images of a sample are its ``image`` in the order of names.

    Raises:
        CatalogueError: The file is no archive.
    """
    key, number, values, problem = "", 0, dict[str, Any](), ""

    def sample() -> RawRow:
        return RawRow(row=number, values={"item_id": key} | values, problem=problem or None)

    try:
        with tarfile.open(path, "r|*", tarinfo=_Header) as archive:
            for member in archive:
                if not member.isfile() or Path(member.name).name.startswith("."):
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                own = f"{folder}/{stem}" if folder else stem
                if own != key:
                    if number:
                        yield sample()
                    key, number, values, problem = own, number + 1, {}, ""
                if member.size > _MOST_BYTES:
                    problem = f"{member.name} has {member.size:,} bytes, the limit is {_MOST_BYTES:,}"
                elif content := archive.extractfile(member):
                    problem = _take(kind.lower(), content.read(), values) or problem
            _refuse_more(archive)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if not number:
            raise CatalogueError(f"{path} is no tar archive: {error}; download or copy it again") from error
        values = {}  # of a sample that may go on behind the damage
        problem = f"{path.name} is damaged here, and nothing behind it is read: {error}; download or copy it again"
    if number:
        yield sample()


class _Header(tarfile.TarInfo):
    """A header of an archive; tarfile itself takes one that is cut or damaged for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if "end of file" in str(error):  # marked by blocks of zeros
                raise
            raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from error


def _refuse_more(archive: tarfile.TarFile) -> None:
    """Refuse what is behind the end that an archive marks, as in several that were joined."""
    while piece := archive.fileobj.read(1 << 20) if archive.fileobj else b"":
        if any(piece):
            raise tarfile.ReadError("the archive ends, and more follows; give archives one by one, not joined")


def _take(kind: str, content: bytes, values: dict[str, Any]) -> str:
    """Add one file of a sample to its values; return its problem."""
    if f".{kind.rpartition('.')[2]}" in IMAGE_SUFFIXES:
        values.setdefault("image", []).append(content)
        return ""
    try:
        if kind in _TEXTS:
            values.setdefault(_TEXTS[kind], content.decode("utf-8-sig"))
        elif kind == "json":
            facts = parse_json(content.decode("utf-8-sig"))
            if not isinstance(facts, dict):
                return "its .json holds no object"
            values |= {name: value for name, value in facts.items() if name != "image" and value is not None}
    except (ValueError, RecursionError) as error:
        return f"its .{kind} cannot be read: {error}"
    return ""
