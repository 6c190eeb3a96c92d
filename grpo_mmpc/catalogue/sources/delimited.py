"""Read any CSV or TSV cell by cell as it stands there, and write it back with some cells filled.

The csv module forgets how a cell was quoted and how a line ended; here a file that is written back
differs from the one that was read in the filled cells alone, to the byte.
"""

import codecs
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.errors import CatalogueError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Of what shops write; more of them would find Baltic letters in a French list of three words.
_ENCODINGS = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "mac_roman"),
    *("koi8_r", "cp932", "gb18030", "big5", "euc_kr", "euc_jp"),
]
_SAMPLE_BYTES, _SAMPLE_RECORDS = 65_536, 30
_LONGEST = 1_000_000
"""Characters of a record above which an open quote is a slip, not a text of many lines."""
_MOST_COLUMNS = 16_384
"""As many as a sheet of Excel can have."""
_DECLARED = re.compile(r"sep=(.)$")
"""The first line by which spreadsheets are told the separator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a file spells its table."""

    encoding: str
    """Python's name of it; a byte order mark is kept apart."""
    delimiter: str

    def __str__(self) -> str:
        """Return it in words."""
        name = {"cp1252": "Windows-1252"}.get(self.encoding, self.encoding.upper().replace("_", "-"))
        return f"{name}, separated by {DELIMITERS.get(self.delimiter, repr(self.delimiter))}"


class Record(NamedTuple):
    """One record of a file."""

    mark: str
    """The byte order mark, before the first one."""
    cells: list[str]
    """As they stand in the file, quotes included."""
    end: str
    """Of its last line."""
    line: int
    problem: str | None

    @property
    def is_blank(self) -> bool:
        """Return whether it is an empty line, or the line that declares the separator."""
        return self.cells == [""] or (self.line == 1 and re.fullmatch("sep=.?", "".join(self.cells)) is not None)


def sniff(path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> Dialect:
    """Find out how a file is spelled, as far as it is not given.

    Raises:
        CatalogueError: The encoding is unknown or cannot be guessed.
    """
    try:
        encoding = codecs.lookup(encoding).name if encoding else _encoding(path)
    except LookupError as error:
        raise CatalogueError(f"{error}; give a name such as utf-8 or windows-1252") from error
    return Dialect(encoding=encoding, delimiter=delimiter or _delimiter(path, encoding))


def _encoding(path: Path) -> str:
    from charset_normalizer import from_bytes  # heavy: imported on use

    with path.open("rb") as stream:
        head = stream.read(4)
        stream.seek(0)
        for mark, encoding in _BYTE_ORDER_MARKS:
            if head.startswith(mark):
                return encoding
        for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros == b"\0\0":  # Latin letters without a byte order mark
                return encoding
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while piece := stream.read(1 << 20):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
            return "utf-8"
        except UnicodeDecodeError:
            stream.seek(0)
        if b"\0" in stream.read(_SAMPLE_BYTES):
            raise CatalogueError(f"{path} is no text, whatever its name says; export it as CSV or .xlsx")
        stream.seek(0)
        telling = b"".join(islice((line for line in stream if not line.isascii()), 2_000))[:_SAMPLE_BYTES]
    best = from_bytes(telling.rpartition(b"\n")[0] or telling, cp_isolation=_ENCODINGS).best()
    if best is None:
        raise CatalogueError(f"{path}: the encoding cannot be guessed; name it, for instance: --encoding windows-1252")
    # Where both mean the same letters: of Western Europe and the Americas, by far the most usual.
    return (
        "cp1252" if telling.decode("cp1252", "replace") == telling.decode(best.encoding, "replace") else best.encoding
    )


def _delimiter(path: Path, encoding: str) -> str:
    def agreement(delimiter: str) -> tuple[int, int]:
        dialect = Dialect(encoding=encoding, delimiter=delimiter)
        sample = [r for r in islice(records(path, dialect), _SAMPLE_RECORDS) if not r.is_blank]
        widths = [len(record.cells) for record in sample]
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    with path.open(encoding=encoding, errors="surrogateescape") as stream:
        declared = _DECLARED.match(stream.readline(20).lstrip("\ufeff").strip())
    return declared[1] if declared else max(DELIMITERS, key=agreement)


def records(path: Path, dialect: Dialect) -> Iterator[Record]:
    """Read every record. A quote that is never closed costs its line, not the rest of the file."""
    pattern = _cell_pattern(dialect.delimiter)
    with path.open(encoding=dialect.encoding, errors="surrogateescape", newline="") as stream:
        ahead: deque[str] = deque()
        number, mark = 0, ""
        while text := ahead.popleft() if ahead else stream.readline():
            number += 1
            if number == 1 and text.startswith("\ufeff"):
                mark, text = text[0], text[1:]
            first, more = number, []
            cells = _cells(text, pattern, dialect.delimiter)
            while cells is None:
                line = ahead.popleft() if ahead else stream.readline()
                more.append(line)
                if not line or sum(map(len, more)) > _LONGEST:
                    break
                if '"' in line:
                    cells = _cells(text + "".join(more), pattern, dialect.delimiter)
            problem = None
            if cells is None:
                ahead.extendleft(reversed([line for line in more if line]))
                cells, more = _body(text)[0].split(dialect.delimiter), []
                problem = f"line {first} opens a quote that is never closed; close it, and double a quote in a cell"
            number += len(more)
            yield Record(mark, cells, _body(text + "".join(more))[1], first, problem)
            mark = ""


@cache
def _cell_pattern(delimiter: str) -> re.Pattern[str]:
    other = f"[^{re.escape(delimiter)}]*+"
    return re.compile(f'(?:"(?:[^"]++|"")*+"{other}|(?!"){other})(?={re.escape(delimiter)}|\\Z)')


def _body(text: str) -> tuple[str, str]:
    body = text.rstrip("\r\n")
    # a file may end its lines by "\r\r\n"; whatever it is, it is kept
    return body, text[len(body) :]


def _cells(text: str, pattern: re.Pattern[str], delimiter: str) -> list[str] | None:
    """Split a record; None where it ends inside a quoted cell."""
    body = _body(text)[0]
    if '"' not in body:
        return body.split(delimiter)
    cells, place = [], 0
    while match := pattern.match(body, place):
        cells.append(match[0])
        if match.end() == len(body):
            return cells
        place = match.end() + 1
    return None


def value_of(cell: str) -> str:
    """Return what a cell says: without its quotes."""
    if not cell.startswith('"'):
        return cell
    inner, _, rest = cell[1:].rpartition('"')
    return inner.replace('""', '"') + rest


def spelled(text: str, *, instead: str, delimiter: str) -> str:
    """Return a text as a cell: quoted where it must be, or where the one that it replaces was."""
    needs = instead.startswith('"') or text != text.strip()
    if needs or any(c in text for c in (delimiter, '"', "\n", "\r")):
        return '"' + text.replace('"', '""') + '"'
    return text


def column_names(header: Sequence[object]) -> list[str]:
    """Return a name for each column, no two of them equal."""
    names: dict[str, int] = {}
    for position, cell in enumerate(header, start=1):
        name = own = str(cell if cell is not None else "").strip() or f"unnamed_{position}"
        while own in names:
            names[name] += 1
            own = f"{name} ({names[name]})"
        names[own] = 1
    return list(names)


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        CatalogueError: It has no line, or one that is no header.
    """
    for record in records(path, dialect):
        if len(record.cells) > _MOST_COLUMNS:
            raise CatalogueError(
                f"{path} has {len(record.cells):,} columns, the limit is {_MOST_COLUMNS:,}; is {dialect.delimiter!r} "
                "its separator (--separator), and the first line its header?"
            )
        if not record.is_blank:
            return column_names([value_of(cell) for cell in record.cells])
    raise CatalogueError(f"{path} has no header line; the first line must name the columns")


def read_rows(path: Path, dialect: Dialect) -> Iterator[RawRow]:
    """Read the rows below the header; an empty cell is None."""
    for number, record, names in _numbered(path, dialect):
        if names is None or number is None:
            continue
        problem = record.problem
        if problem is None and len(record.cells) != len(names):
            problem = (
                f"line {record.line} has {len(record.cells)} cells, the header names {len(names)}; put quotes around a "
                "cell that contains the separator"
            )
        if problem is not None:
            yield RawRow(row=number, problem=problem)
        else:
            cells = zip(names, record.cells, strict=True)
            yield RawRow(row=number, values={name: value_of(cell) or None for name, cell in cells})


def _numbered(path: Path, dialect: Dialect) -> Iterator[tuple[int | None, Record, list[str] | None]]:
    """Yield each record with its data row (None if it is none) and the columns (None before)."""
    names, number = None, 0
    for record in records(path, dialect):
        if record.is_blank:
            yield None, record, names
        elif names is None:
            yield None, record, None
            names = column_names([value_of(cell) for cell in record.cells])
        else:
            number += 1
            yield number, record, names


def write_filled(path: Path, out: BinaryIO, dialect: Dialect, filled: Mapping[int, Mapping[str, str]]) -> None:
    """Write a file again with some cells filled; every other byte stays.

    Args:
        path: The file.
        out: Where to write.
        dialect: How it is spelled.
        filled: Texts by data row and column.

    Raises:
        CatalogueError: The encoding spells some letter in two ways, so that the bytes would differ.
    """
    encoding, errors = dialect.encoding, "surrogateescape"
    if encoding != "utf-8":  # which has one spelling
        content = path.read_bytes()
        if content.decode(encoding, errors).encode(encoding, errors) != content:
            raise CatalogueError(
                f"{path}: {encoding} cannot be written back to the byte; save it as UTF-8, import again"
            )
    for number, record, names in _numbered(path, dialect):
        cells = list(record.cells)
        for column, text in (filled.get(number, {}) if number is not None else {}).items():
            place = (names or []).index(column)
            cells[place] = spelled(text, instead=cells[place], delimiter=dialect.delimiter)
        out.write((record.mark + dialect.delimiter.join(cells) + record.end).encode(encoding, errors))
