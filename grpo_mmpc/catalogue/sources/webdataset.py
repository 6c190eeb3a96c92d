"""Read a WebDataset shard: files of a tar archive that share a name up to the dot are a sample."""

import posixpath
import tarfile
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.item_images import PICTURE_SUFFIXES
from grpo_mmpc.catalogue.sources.listing import choose_fields
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.files import parse_json

_OWN = ("item_id", "title", "description", "category", "image", "attributes", "parent_id")
"""The columns of a sample: its key, its image, its text, and what its JSON object says."""
TITLES = ("txt", "text", "title", "caption")
"""Kinds of files that hold the title."""
_SAMPLES_SEEN = 100
"""Of which the keys of JSON objects are columns that ``--map`` can name."""
_MOST_BYTES = 50_000_000
"""Of one file of the archive."""


def tar_columns(path: Path) -> list[str]:
    """Return the columns of an archive, by its first samples.

    A key that would be an image's is none where the samples hold their images.

    Raises:
        CatalogueError: The file is no archive.
    """
    seen: dict[str, None] = {}
    has_image = False
    for raw in islice(read_tar(path), _SAMPLES_SEEN):
        seen |= dict.fromkeys(raw.values)
        has_image |= isinstance(raw.values.get("image"), list)
    keys = [name for name in seen if name not in _OWN]
    others = choose_fields([*keys, "image"], {})["image"] if has_image else []
    return [*_OWN, *(name for name in keys if name not in others)]


def read_tar(path: Path) -> Iterator[RawRow]:
    """Read one row a sample; several images of a sample are its ``image`` in the order of names.

    A title, description, category or parent that is missing is what the JSON object says under
    another name by which a column would be recognised.

    Raises:
        CatalogueError: The file is no archive.
    """
    key, number, values, facts, problem = "", 0, dict[str, Any](), dict[str, Any](), ""

    def sample() -> RawRow:
        return RawRow(row=number, values={"item_id": key} | _with_facts(values, facts), problem=problem or None)

    try:
        with tarfile.open(path, "r|*", tarinfo=_Header) as archive:
            for member in archive:
                if not member.isfile() or Path(member.name).name.startswith("."):
                    continue
                folder, name = posixpath.split(posixpath.normpath(unicodedata.normalize("NFC", member.name)))
                stem, _, kind = name.partition(".")
                own = posixpath.join(folder, stem)
                if own != key:
                    if number:
                        yield sample()
                    key, number, values, facts, problem = own, number + 1, {}, {}, ""
                if member.size > _MOST_BYTES:
                    problem = f"{member.name} has {member.size:,} bytes, the limit is {_MOST_BYTES:,}"
                elif content := archive.extractfile(member):
                    problem = _take(kind.lower(), content.read(), values, facts) or problem
            _refuse_more(archive)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if not number:
            raise CatalogueError(f"{path} is no tar archive: {error}; download or copy it again") from error
        values, facts = {}, {}  # of a sample that may go on behind the damage
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


def _take(kind: str, content: bytes, values: dict[str, Any], facts: dict[str, Any]) -> str:
    """Add a file of a sample to its values, or its JSON object to its facts; return its problem."""
    parts = kind.split(".")
    if f".{parts[-1]}" in PICTURE_SUFFIXES:
        values.setdefault("image", []).append(content)
        return ""
    try:
        if set(parts) <= set(TITLES):
            values.setdefault("title", content.decode("utf-8-sig"))
        elif kind == "cls":
            values.setdefault("category", content.decode("utf-8-sig"))
        elif kind == "json":
            said = parse_json(content.decode("utf-8-sig"))
            if not isinstance(said, dict):
                return "its .json holds no object"
            facts |= {name: value for name, value in said.items() if value is not None}
    except (ValueError, RecursionError) as error:
        return f"its .{kind} cannot be read: {error}"
    return ""


def _with_facts(values: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    if "image" in values and "image" in facts:  # the name that its file had elsewhere
        facts["source_image"] = facts.pop("image")
    values |= facts
    texts = [name for name, value in values.items() if isinstance(value, str | int)]
    for name, columns in choose_fields([*texts, "image"], {}).items():
        if name in ("title", "description", "category", "parent_id") and columns:
            values.setdefault(name, values[columns[0]])
    return values
