"""Read any CSV or TSV cell by cell as it stands there, and write it back with some cells filled.

The csv module forgets how a cell was quoted and how a line ended; here a file that is written back
differs from the one that was read in the filled cells alone, to the byte.
"""

import codecs
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.encodings import guess_encoding
from grpo_mmpc.errors import CatalogueError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_SAMPLE_BYTES, _SAMPLE_LINES, _SAMPLE_RECORDS = 65_536, 2_000, 30
_LONGEST = 1_000_000
"""Characters of a record above which an open quote is a slip, not a text of many lines."""
_MOST_COLUMNS = 16_384
"""As many as a sheet of Excel can have."""
_DECLARED = re.compile(r"sep=(.)$")
"""The first line by which spreadsheets are told the separator."""
_FOREIGN = re.compile("[\udc00-\udcff]")
"""Stand for bytes that are no letter of the encoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a file spells its table."""

    encoding: str
    """Python's name of it; a byte order mark is kept apart."""
    delimiter: str
    examples: tuple[str, ...] = ()
    """Words by which to see whether the encoding is guessed right; none where it is sure."""

    @property
    def name(self) -> str:
        """The encoding, as people write it."""
        return {"cp1252": "Windows-1252"}.get(self.encoding, self.encoding.upper().replace("_", "-"))

    def __str__(self) -> str:
        """Return it in words."""
        guessed = f" (a guess, which reads {', '.join(self.examples)}; else --encoding)" if self.examples else ""
        return f"{self.name}{guessed}, separated by {DELIMITERS.get(self.delimiter, repr(self.delimiter))}"


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
        known = codecs.lookup(encoding).name if encoding else ""
    except LookupError as error:
        raise CatalogueError(f"{error}; give a name such as utf-8 or windows-1252") from error
    if known in ("utf-16", "utf-8-sig"):  # which would write a mark before each record
        with path.open("rb") as stream:
            is_reversed = stream.read(2) == codecs.BOM_UTF16_BE
        known = "utf-8" if known == "utf-8-sig" else "utf-16-be" if is_reversed else "utf-16-le"
    found, examples = (known, ()) if known else _encoding(path)
    return Dialect(encoding=found, delimiter=delimiter or _delimiter(path, found), examples=examples)


def _encoding(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return a file's encoding, and words that show it where it is a guess."""
    with path.open("rb") as stream:
        head = stream.read(4)
        stream.seek(0)
        for mark, encoding in _BYTE_ORDER_MARKS:
            if head.startswith(mark):
                return encoding, ()
        for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros == b"\0\0":  # Latin letters without a byte order mark
                return encoding, ()
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while piece := stream.read(1 << 20):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
            return "utf-8", ()
        except UnicodeDecodeError:
            stream.seek(0)
        if b"\0" in stream.read(_SAMPLE_BYTES):
            raise CatalogueError(f"{path} is no text, whatever its name says; export it as CSV or .xlsx")
        stream.seek(0)
        lines = (line for block in stream for line in block.splitlines(keepends=True) if not line.isascii())
        sample: list[bytes] = []
        surplus = 0  # lines of UTF-8 less lines that are none; letters of another encoding never pass for it
        for line in lines:
            surplus += 1 if _is_utf8(line) else -1
            if len(sample) < _SAMPLE_LINES:
                sample.append(line)
    telling = b"".join(sample)[:_SAMPLE_BYTES]
    telling = telling.rpartition(b"\n")[0] or telling
    if surplus > 0:
        return "utf-8", ()
    guessed = guess_encoding(telling)
    if guessed is None:
        raise CatalogueError(f"{path}: the encoding cannot be guessed; name it, for instance: --encoding windows-1252")
    words = re.findall(r"[^\W\d_]+", telling.decode(guessed, "ignore"))
    return guessed, tuple(islice(dict.fromkeys(w[:40] for w in words if w.isalpha() and not w.isascii()), 3))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@cache
def _kept_bytes() -> str:
    """Return an error handler that keeps bytes that are no letter; see ``_encoded``."""

    def keep(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end

    codecs.register_error("grpo_mmpc.kept_bytes", keep)
    return "grpo_mmpc.kept_bytes"


def _encoded(text: str, encoding: str) -> bytes:
    parts = re.split("([\udc00-\udcff]+)", text)  # an error handler could not give UTF-16 single bytes
    return b"".join(
        bytes(ord(letter) - 0xDC00 for letter in part) if place % 2 else part.encode(encoding)
        for place, part in enumerate(parts)
    )


def _delimiter(path: Path, encoding: str) -> str:
    def widths(delimiter: str) -> list[int]:
        dialect = Dialect(encoding=encoding, delimiter=delimiter)
        return [len(r.cells) for r in islice(records(path, dialect), _SAMPLE_RECORDS) if not r.is_blank]

    def agreement(delimiter: str) -> tuple[int, int, int]:
        """Return how many lines have as many cells as the first, or else as most have."""
        found = widths(delimiter)
        if not found:
            return (0, 0, 0)
        usual = Counter(found).most_common(1)[0][0]
        first = (found.count(found[0]), found[0]) if found[0] > 1 else (0, 0)
        return (*first, found.count(usual) if usual > 1 else 0)

    with path.open(encoding=encoding, errors=_kept_bytes()) as stream:
        declared = _DECLARED.match(stream.readline(20).lstrip("\ufeff").strip())
    return declared[1] if declared else max(DELIMITERS, key=agreement)


def records(path: Path, dialect: Dialect, *, width: int | None = None) -> Iterator[Record]:
    """Read every record.

    A text of several lines counts where each of its quotes is doubled or closes a cell, and its
    record fits the header; any other quote that stays open costs its line, not those behind it.

    Args:
        path: The file.
        dialect: How it is spelled.
        width: The number of the header's columns; None takes any number.
    """
    with path.open(encoding=dialect.encoding, errors=_kept_bytes(), newline="") as stream:
        ahead: deque[str] = deque()
        number, mark, opened = 0, "", None
        while text := ahead.popleft() if ahead else stream.readline():
            number += 1
            if number == 1 and text.startswith("\ufeff"):
                mark, text = text[0], text[1:]
            more: list[str] = []
            scan = _Scan(dialect.delimiter)
            scan.read(text)
            while scan.is_open:
                line = ahead.popleft() if ahead else stream.readline()
                more.append(line)
                scan.size += len(line)
                if not line or scan.size > _LONGEST or (width is not None and len(scan.cells) >= width):
                    break
                scan.read(line)
            cells = scan.cells
            if more and (scan.is_open or scan.is_broken or not _fits(cells, width)):
                ahead.extendleft(reversed([line for line in more if line]))
                more, scan.is_broken = [], True
            problem = None
            if scan.is_broken:
                opened = number
                cells = _single(text, dialect.delimiter, width)
                if not cells:
                    cells = _body(text)[0].split(dialect.delimiter)
                    problem = f"line {number} has a quote that is never closed, or not doubled; close it, or double it"
            if problem is None and width is not None:
                problem = _problem(cells, width, line=number, opened=opened)
                opened = opened if len(cells) < width or opened == number else None
            whole = text + "".join(more)
            if _FOREIGN.search(whole):
                problem = f"line {number} holds bytes that are no letter in {dialect.name}; correct it there"
            yield Record(mark, cells, _body(whole)[1], number, problem)
            number += len(more)
            mark = ""


def _fits(cells: Sequence[str], width: int | None) -> bool:
    return width is None or (len(cells) >= width and not any(map(value_of, cells[width:])))


def _problem(cells: Sequence[str], width: int, *, line: int, opened: int | None) -> str | None:
    """Return why a line is no row; the last cells of one may be left out, further ones be empty."""
    if len(cells) > width and not _fits(cells, width):
        return (
            f"line {line} has {len(cells)} cells, the header names {width}; put quotes around a cell that contains the "
            "separator"
        )
    if len(cells) < width and opened is not None:
        return (
            f"line {line} has {len(cells)} cells, the header names {width}; it may belong to the text whose quote "
            f"opens in line {opened}: close that one, and double a quote in a cell"
        )
    return None


class _Scan:
    """Splits a record line by line; each letter is looked at once."""

    def __init__(self, delimiter: str) -> None:
        self.cells: list[str] = []
        self.is_open = False
        """The last line has ended inside quotes."""
        self.is_broken = False
        """Something stands between a closing quote and the separator."""
        self.size = 0
        self._delimiter = delimiter
        self._parts: list[str] = []

    def read(self, text: str) -> None:
        """Read the next line of the record."""
        body = _body(text)[0]
        if '"' not in text:
            if self.is_open:
                self._parts.append(text)
            else:
                self.cells = body.split(self._delimiter)
            return
        start, inside, closed = _patterns(self._delimiter)
        place = 0
        if not self.is_open:
            place = self._begin(body, place, start)
        while self.is_open:
            rest = inside.match(body, place)
            end = rest.end() if rest else place
            if end == len(body):
                self._parts.append(text[place:])
                return
            after = closed.match(body, end)
            if after is None:
                self.is_open, self.is_broken = False, True
                return
            self.cells.append("".join([*self._parts, body[place : after.end()]]))
            self._parts, self.is_open = [], False
            if after.end() < len(body):
                place = self._begin(body, after.end() + 1, start)

    def _begin(self, body: str, place: int, start: re.Pattern[str]) -> int:
        """Take cells up to one that opens quotes; return the place behind its quote."""
        while match := start.match(body, place):
            if match[1] is not None:
                self._parts, self.is_open = [match[1]], True
                return match.end()
            self.cells.append(match[0])
            if match.end() == len(body):
                break
            place = match.end() + 1
        return len(body)


@cache
def _patterns(delimiter: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return what begins a cell, what stands in quotes, and what may end them."""
    gap, other = "" if delimiter == " " else " *+", re.escape(delimiter)
    return (
        re.compile(f'({gap}")|[^{other}]*+'),
        re.compile('(?:[^"]++|"")*+'),
        re.compile(f'"{gap}(?={other}|\\Z)'),
    )


@cache
def _lenient(delimiter: str) -> re.Pattern[str]:
    other = f"[^{re.escape(delimiter)}]*+"
    return re.compile(f'(?:"(?:[^"]++|"")*+"{other}|(?!"){other})(?={re.escape(delimiter)}|\\Z)')


def _single(text: str, delimiter: str, width: int | None) -> list[str]:
    """Split a line with a quote too many in the way that fits the header; else into none."""
    body = _body(text)[0]
    cells, place = [], 0
    while match := _lenient(delimiter).match(body, place):
        cells.append(match[0])
        if match.end() == len(body):
            if width in (None, len(cells)):
                return cells
            break
        place = match.end() + 1
    plain = body.split(delimiter)
    return plain if len(plain) == width else []


def _body(text: str) -> tuple[str, str]:
    body = text.rstrip("\r\n")
    # a file may end its lines by "\r\r\n"; whatever it is, it is kept
    return body, text[len(body) :]


def value_of(cell: str) -> str:
    """Return what a cell says: without its quotes."""
    inner = cell.strip(" ")
    if len(inner) < 2 or not inner.startswith('"') or not inner.endswith('"'):
        return cell
    return inner[1:-1].replace('""', '"')


def spelled(text: str, *, instead: str, delimiter: str) -> str:
    """Return a text as a cell: quoted where it must be, or where the one that it replaces was."""
    bare = instead.lstrip(" ")
    needs = bare.startswith('"') or text != text.strip()
    if needs or any(c in text for c in (delimiter, '"', "\n", "\r")):
        return instead[: len(instead) - len(bare)] + '"' + text.replace('"', '""') + '"'
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


def find_header(path: Path, dialect: Dialect) -> Record:
    """Return the record that names the columns: the first one, below what an export says of itself.

    Lines above it are those that fill less than half as many cells as most lines do.

    Raises:
        CatalogueError: There is no line, or one that is no header.
    """
    sample = [record for record in islice(records(path, dialect), _SAMPLE_RECORDS) if not record.is_blank]
    if not sample:
        raise CatalogueError(f"{path} has no header line; the first line must name the columns")
    filled = [
        max((at for at, cell in enumerate(r.cells, start=1) if value_of(cell).strip()), default=0) for r in sample
    ]
    usual = max(filled, key=lambda cells: (filled.count(cells), cells))
    place = next(at for at, cells in enumerate(filled) if 2 * cells >= usual)
    if 2 * filled.count(usual) <= len(filled) - place:  # no number of cells is that of most lines
        place = 0
    header = sample[place]
    if len(header.cells) > _MOST_COLUMNS:
        raise CatalogueError(
            f"{path} has {len(header.cells):,} columns, the limit is {_MOST_COLUMNS:,}; is {dialect.delimiter!r} "
            f"its separator (--separator), and line {header.line} its header?"
        )
    return header


def _names(header: Record) -> list[str]:
    return column_names([_FOREIGN.sub("\ufffd", value_of(cell)) for cell in header.cells])


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        CatalogueError: See ``find_header``.
    """
    return _names(find_header(path, dialect))


def read_rows(path: Path, dialect: Dialect) -> Iterator[RawRow]:
    """Read the rows below the header; a cell that is empty, or left out at the end, is None."""
    for number, record, names in _numbered(path, dialect):
        if number is None:
            continue
        if record.problem is not None:
            yield RawRow(row=number, problem=record.problem)
        else:
            cells = zip_longest(names, record.cells[: len(names)], fillvalue="")
            yield RawRow(row=number, values={name: value_of(cell) or None for name, cell in cells})


def _numbered(path: Path, dialect: Dialect) -> Iterator[tuple[int | None, Record, list[str]]]:
    """Yield each record with its data row (None if it is none) and the columns."""
    header = find_header(path, dialect)
    names, number = _names(header), 0
    for record in records(path, dialect, width=len(names)):
        if record.is_blank or record.line <= header.line:
            yield None, record, names
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
    encoding = dialect.encoding
    if encoding != "utf-8":  # which has one spelling
        content = path.read_bytes()
        if _encoded(content.decode(encoding, _kept_bytes()), encoding) != content:
            raise CatalogueError(
                f"{path}: {encoding} cannot be written back to the byte; save it as UTF-8, import again"
            )
    for number, record, names in _numbered(path, dialect):
        cells = list(record.cells)
        for column, text in (filled.get(number, {}) if number is not None else {}).items():
            place = names.index(column)
            cells += [""] * (place + 1 - len(cells))
            cells[place] = spelled(text, instead=cells[place], delimiter=dialect.delimiter)
        out.write(_encoded(record.mark + dialect.delimiter.join(cells) + record.end, encoding))
