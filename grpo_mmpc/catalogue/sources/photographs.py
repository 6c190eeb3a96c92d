"""Read a folder of photographs: one item an image, with what a metadata file says of it."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources import delimited
from grpo_mmpc.catalogue.sources.item_images import IMAGE_SUFFIXES
from grpo_mmpc.catalogue.sources.source_table import SourceTable
from grpo_mmpc.catalogue.tables import open_table
from grpo_mmpc.errors import CatalogueError

PHOTOGRAPHS = "photographs"
"""The kind of a folder of photographs alone."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""What Hugging Face's imagefolder calls the file of texts; ``file_name`` names the image."""
_COLUMNS = ("item_id", "image", "category")


def photograph_table(folder: Path) -> SourceTable:
    """Open a folder of photographs, those of folders below it included.

    The path without suffix is the ``item_id``; the folder that an image lies in, where that is not
    the whole, its ``category``.

    Raises:
        CatalogueError: There is no photograph.
    """
    if not any(_photographs(folder)):
        raise CatalogueError(
            f"{folder} holds no photograph ({', '.join(IMAGE_SUFFIXES)}) and no table; correct the path"
        )
    about = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    columns: list[str] = (
        [] if about is None else [name for name in _metadata(about)[0] if name not in (*_COLUMNS, "file_name")]
    )
    return SourceTable(
        path=folder,
        kind=PHOTOGRAPHS if about is None else f"{PHOTOGRAPHS} with {about.name}",
        columns=[*_COLUMNS, *columns],
        rows=partial(_rows, folder, about),
        images_in=folder,
    )


def is_by_product(file: Path) -> bool:
    """Return whether a program has put a file or its folder there: hidden, or a lock of Excel."""
    return any(part.startswith((".", "~$")) for part in file.parts)


def _photographs(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not is_by_product(path.relative_to(folder))
    )


def _rows(folder: Path, about: Path | None) -> Iterator[RawRow]:
    """Yield a row for each photograph, then the rows of texts that are of none."""
    texts: dict[str, Mapping[str, Any]] = {}
    problems: list[str] = []
    for raw in [] if about is None else _metadata(about)[1]:
        name = str(raw.values.get("file_name"))
        problem = raw.problem or (f"{name} was named before; keep one row for each image" if name in texts else None)
        if problem is not None:
            problems.append(f"row {raw.row}: {problem}")
        else:
            texts[name] = {key: value for key, value in raw.values.items() if key != "file_name"}
    number = 0
    for number, path in enumerate(_photographs(folder), start=1):
        name = path.relative_to(folder).as_posix()
        parent = path.parent.relative_to(folder).as_posix()
        own = {"item_id": name.removesuffix(path.suffix), "image": name, "category": None if parent == "." else parent}
        yield RawRow(row=number, values=own | dict(texts.pop(name, {})))
    problems += [f"file_name {name}: there is no such photograph in {folder}; add it" for name in texts]
    for more, problem in enumerate(problems, start=1):
        yield RawRow(row=number + more, problem=f"{about.name if about else ''}, {problem}")


def _metadata(about: Path) -> tuple[list[str], Iterator[RawRow]]:
    if about.suffix != ".csv":
        table = open_table(about)
        return list(table.columns), table.rows()
    dialect = delimited.sniff(about)
    return delimited.read_header(about, dialect), delimited.read_rows(about, dialect)
