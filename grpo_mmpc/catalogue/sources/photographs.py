"""Read a folder of photographs: one item an image, with what files of text beside it say of it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.images import find_image
from grpo_mmpc.catalogue.rows import RawRow, RowError
from grpo_mmpc.catalogue.sources import delimited
from grpo_mmpc.catalogue.sources.item_images import PHOTOGRAPH_SUFFIXES, PICTURE_SUFFIXES
from grpo_mmpc.catalogue.sources.listing import choose_fields
from grpo_mmpc.catalogue.sources.source_table import SourceTable
from grpo_mmpc.catalogue.sources.webdataset import TITLES
from grpo_mmpc.catalogue.tables import open_table
from grpo_mmpc.errors import CatalogueError, ImageError

PHOTOGRAPHS = "photographs"
"""The kind of a folder of photographs alone."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""What Hugging Face's imagefolder calls a file of texts; ``file_name`` names the image."""
_CAPTIONS = tuple(f".{kind}" for kind in TITLES)
_TABLES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """What a folder of photographs holds, by paths relative to it."""

    folder: Path
    photographs: Sequence[Path]
    captions: Sequence[Path]
    """Texts of a photograph's name."""
    left: Sequence[Path]
    """Other texts and tables."""
    metadata: Mapping[Path, str]
    """Files of metadata, and the column of each that names a photograph."""
    columns: Sequence[str]
    """Those of the metadata but for these."""
    category: str
    """The column that holds the category."""


def photograph_table(folder: Path) -> SourceTable:
    """Open a folder of photographs, those of folders below it included.

    The path without suffix is the ``item_id``, with it where it tells two photographs apart; the
    folder that an image lies in, where that is not the whole, its ``category``. A text of the
    photograph's own name is its ``title``. Each folder may have a file of metadata.

    Raises:
        CatalogueError: There is no photograph, or metadata name none.
    """
    files = _look_through(folder)
    if not files.photographs:
        raise CatalogueError(
            f"{folder} holds no photograph ({', '.join(PHOTOGRAPH_SUFFIXES)}) and no table; correct the path"
        )
    texts = [about.as_posix() for about in files.metadata]
    if len(texts) > 1:
        texts = [f"{len(texts)} files of metadata"]
    if files.captions:
        texts.append(f"texts of {len(files.captions):,} of them")
    own = ["item_id", "image", *(["title"] if files.captions else []), files.category]
    return SourceTable(
        path=folder,
        kind=f"{PHOTOGRAPHS} with {' and '.join(texts)}" if texts else PHOTOGRAPHS,
        columns=list(dict.fromkeys([*own, *files.columns])),
        rows=partial(_rows, files),
        images_in=folder,
    )


def is_by_product(file: Path) -> bool:
    """Return whether a program has put a file or its folder there: hidden, or a lock of Excel."""
    return any(part.startswith((".", "~$")) for part in file.parts)


def photographed(folder: Path) -> set[Path]:
    """Return the paths of a folder's photographs, those below included, without their suffixes."""
    return {folder / path.with_suffix("") for path in _paths(folder, PICTURE_SUFFIXES)}


def _paths(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_by_product(Path(name))]
        below = Path(root).relative_to(folder)
        found += [
            below / name
            for name in names
            if name.lower().endswith(suffixes) and not is_by_product(Path(name)) and Path(root, name).is_file()
        ]
    return sorted(found)


def _look_through(folder: Path) -> _Files:
    paths = _paths(folder, (*PICTURE_SUFFIXES, *_CAPTIONS, *_TABLES))
    metadata: dict[Path, str] = {}
    columns: dict[str, None] = {}
    # Of several that name an image the one in its own folder counts, not one above.
    for about in sorted((path for path in paths if path.name in METADATA), key=lambda path: -len(path.parts)):
        names, _ = _read(folder / about)
        metadata[about] = _naming_column(folder / about, names)
        columns |= dict.fromkeys(_spelled(name) for name in names if name != metadata[about])
    category = choose_fields([*columns, "image"], {})["category"]
    photographs = [path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES]
    stems = {path.with_suffix("") for path in photographs}
    captions = [path for path in paths if path.suffix.lower() in _CAPTIONS and path.with_suffix("") in stems]
    known = {*photographs, *captions, *metadata}
    return _Files(
        folder=folder,
        photographs=photographs,
        captions=captions,
        left=[path for path in paths if path not in known],
        metadata=metadata,
        columns=list(columns),
        category=category[0] if category else "category",
    )


def _read(about: Path) -> tuple[list[str], Iterator[RawRow]]:
    if about.suffix != ".csv":
        table = open_table(about)
        return list(table.columns), table.rows()
    dialect = delimited.sniff(about)
    return delimited.read_header(about, dialect), delimited.read_rows(about, dialect)


def _naming_column(about: Path, names: Sequence[str]) -> str:
    column = next((name for name in names if "".join(filter(str.isalnum, name)).casefold() == "filename"), None)
    if column is None:
        raise CatalogueError(
            f"{about} has no column file_name, which names the photograph of each row; it has: {', '.join(names)}; "
            "rename the one that does"
        )
    return column


def _spelled(column: str) -> str:
    """Return the name of a column of metadata; ``image`` is that of the photograph itself."""
    return "source_image" if column == "image" else column


def _rows(files: _Files) -> Iterator[RawRow]:
    """Yield a row for each photograph, then one for each text that is of none."""
    texts, problems = _texts(files)
    titles, unread = _titles(files)
    problems += unread
    stems = [path.with_suffix("") for path in files.photographs]
    is_read = [path.suffix.lower() in PHOTOGRAPH_SUFFIXES for path in files.photographs]
    namesakes = Counter(compress(stems, is_read))
    number = 0
    for number, (path, stem, good) in enumerate(zip(files.photographs, stems, is_read, strict=True), start=1):
        own = {
            "item_id": (stem if good and namesakes[stem] == 1 else path).as_posix(),
            "image": path.as_posix(),
            files.category: None if path.parent == Path() else path.parent.as_posix(),
            "title": titles.get(stem),
        }
        said = {column: value for column, value in texts.get(path, {}).items() if value is not None}
        yield RawRow(row=number, values=own | said)
    problems += [
        f"{path.as_posix()} is neither metadata nor has a photograph's name; if it is a table of items, give it by name"
        for path in files.left
    ]
    for row, problem in enumerate(problems, start=number + 1):
        yield RawRow(row=row, problem=problem)


def _titles(files: _Files) -> tuple[dict[Path, str], list[str]]:
    """Return the texts by the path that they share with a photograph, and problems."""
    titles: dict[Path, str] = {}
    problems = []
    for path in files.captions:
        try:
            titles.setdefault(path.with_suffix(""), (files.folder / path).read_text("utf-8-sig"))
        except ValueError as error:
            problems.append(f"{path.as_posix()} is not UTF-8 ({error}); save it as UTF-8")
    return titles, problems


def _texts(files: _Files) -> tuple[dict[Path, Mapping[str, Any]], list[str]]:
    """Return the rows of the metadata by photograph, and the problems of those that are of none."""
    texts: dict[Path, Mapping[str, Any]] = {}
    problems = []
    photographs = set(files.photographs)
    for about, naming in files.metadata.items():
        for raw in _read(files.folder / about)[1]:
            try:
                values = dict(raw.cells())
                name = values.pop(naming, None)
                if not isinstance(name, str):
                    raise RowError(f"{naming} is empty or no text; name the photograph in it")
                path = _photograph(name, files.folder, about.parent, photographs)
                if path in texts:
                    raise RowError(f"{name} was named before; keep one row for each image")
                texts[path] = {_spelled(column): value for column, value in values.items()}
            except RowError as error:
                problems.append(f"{about.as_posix()}, row {raw.row}: {error}")
    return texts, problems


def _photograph(name: str, folder: Path, below: Path, photographs: set[Path]) -> Path:
    """Return the photograph that a file of metadata in the folder ``below`` names.

    Raises:
        RowError: There is none.
    """
    if (path := below / name) in photographs:
        return path
    try:
        file = find_image(name, folder=folder / below)
    except ImageError as error:
        what = str(error).rpartition(";")[0].replace("the catalogue folder", str(folder / below))
        raise RowError(f"{what}; add it to {folder / below}, or correct the name") from error
    path = below / file.relative_to(os.path.realpath(folder / below))
    if path not in photographs:
        raise RowError(f"{name} is no photograph ({', '.join(PHOTOGRAPH_SUFFIXES)}); name one")
    return path
