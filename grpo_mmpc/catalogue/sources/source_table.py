"""A table of raw rows, whatever the format it is read from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.workbook import Sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """One file of rows, or something that reads like one."""

    path: Path
    """The file; of a data set its folder."""
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
