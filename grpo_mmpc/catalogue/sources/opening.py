"""Open whatever holds a shop's items as tables of raw rows; each format has one small reader."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources import delimited, hub, webdataset, workbook
from grpo_mmpc.catalogue.sources.item_images import PHOTOGRAPH_SUFFIXES
from grpo_mmpc.catalogue.sources.listing import choose_fields
from grpo_mmpc.catalogue.sources.photographs import METADATA, is_by_product, photograph_table, photographed
from grpo_mmpc.catalogue.sources.source_table import SourceTable
from grpo_mmpc.catalogue.tables import open_table
from grpo_mmpc.errors import CatalogueError

_TEXT = (".csv", ".tsv", ".txt", ".tab")
_TABLES = (".parquet", ".jsonl", ".ndjson")
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_source(
    source: str, *, encoding: str | None = None, delimiter: str | None = None, sheet: str | None = None
) -> list[SourceTable]:
    """Open a file, a folder, or a data set of the hub; no row is read yet.

    Args:
        source: CSV, TSV, Excel, Parquet, JSON lines, a WebDataset (.tar); a folder of shards of one
            of these, of photographs, or of ``Dataset.save_to_disk``; or a name on the hub.
        encoding: Of a text file; None guesses it.
        delimiter: Of a text file; None guesses it.
        sheet: Of a workbook; None takes the first that is filled and not hidden.

    Raises:
        CatalogueError: There is no such source, or it cannot be read.
    """
    path = Path(source)
    if path.is_file():
        return [_open_file(path, encoding=encoding, delimiter=delimiter, sheet=sheet)]
    if path.is_dir():
        return _open_folder(path, encoding=encoding, delimiter=delimiter, sheet=sheet)
    if any(mark in path.name for mark in "*?["):
        if files := sorted(path.parent.glob(path.name)):
            return [_open_file(file, encoding=encoding, delimiter=delimiter, sheet=sheet) for file in files]
        raise CatalogueError(f"{source} matches no file (looked from {Path.cwd()}); correct the pattern")
    if _HUB_NAME.fullmatch(source) and not path.suffix:
        return hub.hub_tables(source)
    raise CatalogueError(f"{source} does not exist (looked from {Path.cwd()}); correct the path")


def _open_file(path: Path, *, encoding: str | None, delimiter: str | None, sheet: str | None) -> SourceTable:
    suffix = path.suffix.lower()
    if not path.stat().st_size:
        raise CatalogueError(f"{path} is empty (0 bytes); export it again")
    make: Callable[..., SourceTable] = partial(SourceTable, path=path, images_in=path.parent)
    if suffix in workbook.SUFFIXES:
        found = workbook.open_sheet(path, sheet)
        return make(
            kind=f"Excel, sheet {found.name}{f', from row {found.header}' if found.header > 1 else ''}",
            columns=found.columns,
            rows=found.rows,
            options={"sheet": found.name},
            sheet=found,
        )
    if suffix in _TEXT:
        dialect = delimited.sniff(path, encoding=encoding, delimiter=delimiter)
        line = delimited.find_header(path, dialect).line
        return make(
            kind=f"{dialect}" if line == 1 else f"{dialect}, header in line {line}",
            columns=delimited.read_header(path, dialect),
            rows=partial(delimited.read_rows, path, dialect),
            options={"encoding": dialect.encoding, "delimiter": dialect.delimiter},
        )
    if suffix in _TABLES:
        table = open_table(path)
        return make(
            kind="Parquet" if suffix == ".parquet" else "JSON lines", columns=list(table.columns), rows=table.rows
        )
    if suffix == ".tar":
        return make(kind="WebDataset", columns=webdataset.tar_columns(path), rows=partial(webdataset.read_tar, path))
    advice = "; save it as .xlsx" if suffix in (".xls", ".ods", ".numbers") else ""
    known = ", ".join((*_TEXT, *workbook.SUFFIXES, *_TABLES, ".tar"))
    raise CatalogueError(f"{path} is of no format that is read ({known}, or a folder){advice}")


def _open_folder(folder: Path, **options: Any) -> list[SourceTable]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return hub.saved_tables(folder)
    if any((folder / name).is_file() for name in METADATA):
        return [photograph_table(folder)]
    whole = sorted(file for file in folder.iterdir() if file.is_file() and not is_by_product(file.relative_to(folder)))
    whole = _without_captions(folder, whole, **options)
    formats = [
        [file for file in whole if file.suffix.lower() in suffixes]
        for suffixes in ((".parquet",), (".tar",), (".jsonl", ".ndjson"), (*_TEXT, *workbook.SUFFIXES))
    ]
    tables = [files for files in formats if files]
    if len(tables) > 1:
        named = ", ".join(files[0].name for files in tables)
        raise CatalogueError(f"{folder} holds tables of several formats ({named}); give the one that is meant, by name")
    if tables:
        return [_open_file(file, **options) for file in tables[0]]
    return [photograph_table(folder)] if photographed(folder) else _tables_below(folder, **options)


def _without_captions(folder: Path, files: list[Path], **options: Any) -> list[Path]:
    """Leave out .txt files that are no tables: those of photographs, and by their columns."""
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    stems = photographed(folder) if texts else set()
    if not stems:
        return files

    def is_table(file: Path) -> bool:
        if file.with_suffix("") in stems:
            return False
        try:
            return bool(choose_fields(_open_file(file, **options).columns, {}))
        except CatalogueError:
            return False

    return [file for file in files if file not in texts or is_table(file)]


def _tables_below(folder: Path, **options: Any) -> list[SourceTable]:
    """Open the Parquet files of folders below, as Spark and the hub lay them out.

    Raises:
        CatalogueError: There are none.
    """
    below = sorted(file for file in folder.rglob("*") if file.is_file() and not is_by_product(file.relative_to(folder)))
    # Spark's own files and folders begin with an underscore.
    shards = [
        file
        for file in below
        if file.suffix.lower() == ".parquet" and not any(n.startswith("_") for n in file.relative_to(folder).parts)
    ]
    if shards:
        return [_with_partition(_open_file(file, **options), file.relative_to(folder).parts[:-1]) for file in shards]
    named = ", ".join(file.relative_to(folder).as_posix() for file in below[:3])
    raise CatalogueError(
        f"{folder} holds no photograph ({', '.join(PHOTOGRAPH_SUFFIXES)}) and no table; "
        + (
            f"it holds {named}{', ...' if len(below) > 3 else ''}: give one of these by name"
            if named
            else "correct the path"
        )
    )


def _with_partition(table: SourceTable, folders: Sequence[str]) -> SourceTable:
    """Add the columns that the names of folders hold, such as ``category=Mugs``."""
    told = (name.split("=", 1) for name in folders if "=" in name)
    cells = {unquote(name): None if value == _NO_PARTITION else unquote(value) for name, value in told}
    cells = {name: value for name, value in cells.items() if name not in table.columns}

    def rows() -> Iterator[RawRow]:
        return (raw._replace(values={**raw.values, **cells}) for raw in table.rows())

    return replace(table, columns=[*table.columns, *cells], rows=rows) if cells else table
