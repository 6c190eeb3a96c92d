"""Read a sheet of an Excel workbook, and write the workbook back with some cells filled."""

import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.delimited import column_names
from grpo_mmpc.config.problems import nearest
from grpo_mmpc.errors import CatalogueError, first_line

SUFFIXES = (".xlsx", ".xlsm")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""The start of an old workbook, and of a new one that Excel has encrypted."""
_LEAKED = (KeyError, ValueError, TypeError, AttributeError, IndexError, EOFError, OSError, zlib.error)
_LEAKED_TOO = (SyntaxError, RuntimeError)
"""Errors of openpyxl where a part is missing or damaged, of its XML, and of encryption."""


def choose_sheet(path: Path, name: str | None) -> str:
    """Return the name of the sheet to read: the given one, else the first that holds something.

    Raises:
        CatalogueError: It is no workbook, has no such sheet, or holds nothing.
    """
    with _open(path, read_only=True) as book:
        if name is not None:
            if name not in book.sheetnames:
                raise CatalogueError(f"{path} has no sheet {name!r}; {nearest(name, book.sheetnames)}")
            return name
        for sheet in book.worksheets:
            if any(_is_filled(row) for row in sheet.iter_rows(values_only=True)):
                return str(sheet.title)
    raise CatalogueError(f"{path} holds no filled sheet; the first line of one must name the columns")


def read_header(path: Path, sheet: str) -> list[str]:
    """Return the names of the columns: of the first row that is not empty.

    Raises:
        CatalogueError: Formulas have no values, as in a file that no spreadsheet has saved.
    """
    _check_values(path, sheet)
    with _open(path, read_only=True) as book:
        return column_names(next(row for row in book[sheet].iter_rows(values_only=True) if _is_filled(row)))


def read_rows(path: Path, sheet: str) -> Iterator[RawRow]:
    """Read the rows below the header; of a formula the value that Excel computed."""
    names: list[str] | None = None
    number = 0
    with _open(path, read_only=True) as book:
        for row in book[sheet].iter_rows(values_only=True):
            if not _is_filled(row):
                continue
            if names is None:
                names = column_names(row)
                continue
            number += 1
            cells = [*row, *[None] * (len(names) - len(row))]
            # A date is no text; what was typed reads like this.
            values = {
                n: c if c is None or isinstance(c, int | float | str) else str(c)
                for n, c in zip(names, cells, strict=False)
            }
            yield RawRow(row=number, values=values)


def write_filled(path: Path, out: BinaryIO, sheet: str, filled: Mapping[int, Mapping[str, str]]) -> None:
    """Write a workbook again with some cells filled: texts by data row and column."""
    with _open(path, read_only=False) as book:
        names: list[str] | None = None
        number = 0
        for row in book[sheet].iter_rows():
            if not _is_filled([cell.value for cell in row]):
                continue
            if names is None:
                names = column_names([cell.value for cell in row])
                continue
            number += 1
            for column, text in filled.get(number, {}).items():
                cell = row[names.index(column)]
                cell.value, cell.data_type = text, "s"  # a text, whatever it begins with
        book.save(out)


def _check_values(path: Path, sheet: str) -> None:
    lacking = []
    with ExitStack() as stack:
        book = stack.enter_context(_open(path, read_only=True))
        parts = stack.enter_context(ZipFile(path))
        names = [name for name in parts.namelist() if name.startswith("xl/worksheets/")]
        if not any(re.search(rb"<f[ >]", parts.read(name)) for name in names):
            return
        written = stack.enter_context(_open(path, read_only=True, formulas=True))
        for values, cells in zip(book[sheet].iter_rows(), written[sheet].iter_rows(), strict=False):
            pairs = zip(values, cells, strict=False)
            lacking += [cell.coordinate for value, cell in pairs if value.value is None and cell.data_type == "f"]
    if lacking:
        raise CatalogueError(
            f"{path}, sheet {sheet}: formulas without their values, {len(lacking):,} of them, such as in {lacking[0]}; "
            "open it in a spreadsheet program and save it there"
        )


@contextmanager
def _open(path: Path, *, read_only: bool, formulas: bool = False) -> Iterator[Any]:
    import openpyxl  # heavy: imported on use
    from openpyxl.utils.exceptions import InvalidFileException

    book = None
    try:
        with warnings.catch_warnings():  # of what openpyxl does not know, such as some kinds of validation
            warnings.simplefilter("ignore")
            keep_vba = not read_only and path.suffix == ".xlsm"
            book = openpyxl.load_workbook(
                path, read_only=read_only, data_only=read_only and not formulas, keep_vba=keep_vba
            )
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


def _is_filled(row: Any) -> bool:
    return any(cell is not None and str(cell).strip() for cell in row)
