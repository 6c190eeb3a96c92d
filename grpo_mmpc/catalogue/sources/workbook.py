"""Read a sheet of an Excel workbook, and write the workbook back with some cells filled."""

import re
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from xml.parsers.expat import ExpatError
from zipfile import BadZipFile, ZipFile

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources import sheet_cells
from grpo_mmpc.catalogue.sources.delimited import column_names
from grpo_mmpc.catalogue.sources.listing import choose_fields
from grpo_mmpc.config.problems import nearest
from grpo_mmpc.errors import CatalogueError, first_line
from grpo_mmpc.utils.parquet import room_to_unpack, unpacks_to_too_much

SUFFIXES = (".xlsx", ".xlsm")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""The start of an old workbook, and of a new one that Excel has encrypted."""
_LEAKED = (KeyError, ValueError, TypeError, AttributeError, IndexError, EOFError, OSError, zlib.error)
_LEAKED_TOO = (SyntaxError, RuntimeError, ExpatError)
"""Errors of openpyxl where a part is missing or damaged, of its XML, and of encryption."""
_HEADING = 20
"""Rows of single cells that may be above a table."""
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")
_CALCULATION = re.compile(rb"(<(?:\w+:)?calcPr\b)(?![^>]*\sfullCalcOnLoad=)")


class _Row(NamedTuple):
    """One row of a sheet that holds something."""

    place: int
    """Its number in the sheet, from 1."""
    cells: list[Any]
    """Up to the last one that is filled; of a formula the value that Excel computed."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The table of one sheet."""

    path: Path
    name: str
    others: list[str]
    """Further sheets that hold something."""
    header: int
    """The number in the sheet of the row that names the columns."""
    columns: list[str]
    _places: dict[int, int] = field(default_factory=dict)
    """The numbers in the sheet of the data rows read so far."""

    def rows(self) -> Iterator[RawRow]:
        """Read the rows below the header."""
        with _open(self.path) as book:
            below = (row for row in _rows(book[self.name]) if row.place > self.header)
            for number, row in enumerate(below, start=1):
                cells = [*row.cells, *[None] * (len(self.columns) - len(row.cells))]
                # A date is no text; what was typed reads like this.
                values = {
                    n: c if c is None or isinstance(c, int | float | str) else str(c)
                    for n, c in zip(self.columns, cells, strict=True)
                }
                self._places[number] = row.place
                yield RawRow(row=number, values=values)

    def refusal(self, row: int, column: str, text: str) -> str | None:
        """Return the reason why a text cannot fill a cell, None where it can.

        Args:
            row: Data row, one of those that were read.
            column: Its column.
            text: What to write.
        """
        return self._locked.get((self._places[row], self._place(column))) or sheet_cells.unspellable(text)

    def write_filled(self, out: BinaryIO, filled: Mapping[int, Mapping[str, str]]) -> None:
        """Write the workbook again with some cells filled: texts by data row and column.

        The rows must have been read. Every other part of it, and of the sheet, stays as it was.
        Where there are formulas, a spreadsheet is told to compute them again, since some may depend
        on what is filled.
        """
        texts: defaultdict[int, dict[int, str]] = defaultdict(dict)
        for number, cells in filled.items():
            texts[self._places[number]] |= {self._place(column): text for column, text in cells.items()}
        with _open(self.path) as book, ZipFile(self.path) as parts, ZipFile(out, "w") as written:
            has_formulas = any(_has_formulas(parts, sheet) for sheet in book.worksheets)
            for info in parts.infolist():
                content = parts.read(info)
                if info.filename == _part(book[self.name]):
                    content = sheet_cells.filled(content, texts)
                elif info.filename == "xl/workbook.xml" and has_formulas and texts:
                    content = _CALCULATION.sub(rb'\1 fullCalcOnLoad="1"', content, count=1)
                written.writestr(info, content)

    def _place(self, column: str) -> int:
        return self.columns.index(column) + 1

    @cached_property
    def _locked(self) -> Mapping[sheet_cells.Place, str]:
        with _open(self.path) as book, ZipFile(self.path) as parts:
            return sheet_cells.locked_cells(parts.read(_part(book[self.name])))


def open_sheet(path: Path, name: str | None) -> Sheet:
    """Find a sheet's columns.

    They are named by the first row that is not empty; where that is a heading, a single cell, by
    the first row of several cells below, if it names a title or an image.

    Args:
        path: The workbook.
        name: Of the sheet; None takes the first that is not hidden and holds something.

    Raises:
        CatalogueError: It is no workbook, has no such sheet, or holds nothing; or formulas have no
            values, as in a file that no spreadsheet has saved.
    """
    from openpyxl.utils import get_column_letter  # heavy: imported on use

    with _open(path) as book:
        sheets = {str(sheet.title): sheet for sheet in book.worksheets}
        if name is not None and name not in sheets:
            raise CatalogueError(f"{path} has no sheet {name!r}; {nearest(name, sheets)}")
        filled = [title for title, sheet in sheets.items() if next(_rows(sheet), None) is not None]
        if not filled and _is_strict(path):
            raise CatalogueError(f"{path} is saved as Strict Open XML; save it as an ordinary Excel workbook (.xlsx)")
        shown = [title for title in filled if sheets[title].sheet_state == "visible"]
        if name not in filled and not (name is None and shown):
            hidden = f"; hidden ones do: {', '.join(filled)} (--sheet)" if name is None and filled else ""
            what = "no filled sheet" if name is None else f"nothing in the sheet {name}"
            raise CatalogueError(f"{path} holds {what}; the first line of one must name the columns{hidden}")
        name = name or shown[0]
        header = _header(_rows(sheets[name]))
        with ZipFile(path) as parts:
            widest, uncomputed = sheet_cells.survey(parts.read(_part(sheets[name])))
    if uncomputed:
        row, column = uncomputed[0]
        raise CatalogueError(
            f"{path}, sheet {name}: formulas without their values, {len(uncomputed):,} of them, such as in "
            f"{get_column_letter(column)}{row}; open it in a spreadsheet program and save it there"
        )
    return Sheet(
        path=path,
        name=name,
        others=[title for title in filled if title != name],
        header=header.place,
        columns=column_names([*header.cells, *[None] * (widest - len(header.cells))]),
    )


def _is_strict(path: Path) -> bool:
    with ZipFile(path) as parts:
        return b"http://purl.oclc.org/ooxml/" in parts.read("xl/workbook.xml")


def _header(rows: Iterator[_Row]) -> _Row:
    """Return the row that names the columns: the first one, or one that does so below a heading."""
    first = next(rows)
    for row in chain([first], islice(rows, _HEADING)):
        if sum(cell is not None for cell in row.cells) > 1:
            with suppress(CatalogueError):
                choose_fields(column_names(row.cells), {})
                return row
            break
    return first


def _rows(sheet: Any) -> Iterator[_Row]:
    """Read the rows of a sheet that hold something, by what they hold: of formulas the values."""
    from openpyxl.utils.escape import unescape  # heavy: imported on use

    for place, values in enumerate(_quietly(sheet.iter_rows(values_only=True)), start=1):
        cells = [unescape(cell) if isinstance(cell, str) else cell for cell in values]
        while cells and (cells[-1] is None or not str(cells[-1]).strip()):
            cells.pop()
        if cells:
            yield _Row(place, cells)


def _part(sheet: Any) -> str:
    """Return the name of a sheet's XML in the workbook."""
    return str(sheet._worksheet_path)


def _has_formulas(parts: ZipFile, sheet: Any) -> bool:
    return _FORMULA.search(parts.read(_part(sheet))) is not None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of what openpyxl does not know, such as some kinds of validation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _quietly(rows: Iterator[Any]) -> Iterator[Any]:
    """Yield rows; only the reading of them is silent, not what is done with them."""
    while True:
        with _quiet():
            row = next(rows, None)
        if row is None:
            return
        yield row


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import openpyxl  # heavy: imported on use
    from openpyxl.utils.exceptions import InvalidFileException

    book = None
    try:
        with ZipFile(path) as parts:
            if sum(part.file_size for part in parts.infolist()) > room_to_unpack(path):
                raise unpacks_to_too_much("all parts together")
        with _quiet():
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # programs write wrong ones, by which rows would be lost
        yield book
    except (BadZipFile, InvalidFileException, *_LEAKED, *_LEAKED_TOO) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        with path.open("rb") as file:
            locked = file.read(8) == _OLE or "encrypted" in str(error)
        reason = "it is protected by a password, or an old .xls by another name" if locked else first_line(error)
        without = ", without a password" if locked else " again"
        raise CatalogueError(
            f"{path} cannot be read as an Excel workbook: {reason}; save it as .xlsx{without}"
        ) from error
    finally:
        if book is not None:
            book.close()
