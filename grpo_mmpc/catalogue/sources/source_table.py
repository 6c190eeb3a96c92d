"""A table of raw rows, whatever the format it is read from."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.workbook import Sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """One file of rows, or something that reads like one."""

    path: Path
    """The file; of a data set its folder, or that of the split."""
    kind: str
    """The format and how it is spelled, in words."""
    columns: Sequence[str]
    rows: Callable[[], Iterator[RawRow]]
    """Begins to read the rows."""
    images_in: Path
    """The folder that paths of images are relative to."""
    options: Mapping[str, str] = field(default_factory=dict)
    """By which ``open_source`` opens a file that can be written back in the same way."""
    sheet: Sheet | None = None
    """Of a workbook the one that is read."""
    name: str = ""
    """What identifiers that are made up for its rows begin with; see :func:`told_apart`."""


def told_apart(tables: Sequence[SourceTable]) -> list[SourceTable]:
    """Name each table by its file's stem; where another has the same, by what tells them apart.

    That is its file's name, or else its path from the folder that they share.
    """
    paths = [table.path for table in tables]
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    spellings = [
        [path.stem for path in paths],
        [path.name for path in paths],
        [path.relative_to(root).as_posix() for path in paths],
    ]
    counts = [Counter(names) for names in spellings]
    shortest = (
        next((name for name, count in zip(names, counts, strict=True) if count[name] == 1), names[-1])
        for names in zip(*spellings, strict=True)
    )
    return [replace(table, name=name) for table, name in zip(tables, shortest, strict=True)]
