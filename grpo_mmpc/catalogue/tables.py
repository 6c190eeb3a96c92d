"""Stream the raw rows of one table file (Parquet, JSONL or CSV), broken ones included."""

import codecs
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from grpo_mmpc.catalogue.json_columns import JsonColumns, by_columns
from grpo_mmpc.catalogue.rows import RawRow, json_row
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.files import JsonLine, many_json_lines
from grpo_mmpc.utils.parquet import ParquetTable, open_parquet

SUFFIXES = (".parquet", ".jsonl", ".csv")

SAMPLE_ROWS = 1000
_STORED = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
"""Types of Arrow that most of its functions do not take."""
_READ_ROWS = 256
_BATCH_ROWS = 4096
_UTF8_BYTES = 2**20


class OtherColumnsError(CatalogueError):
    """The columns of the first rows are not those of the file."""


class Batch(NamedTuple):
    """Rows of a file that lie together."""

    rows: npt.NDArray[np.int64]
    """Data row of each that could be read, ascending."""
    cells: Mapping[str, Sequence[Any] | pa.Array]
    """Their cells by column."""
    unread: list[RawRow]
    """Those that could not be read, with their problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """A table file and its columns."""

    path: Path
    columns: Mapping[str, pa.DataType]
    """Type of each column, in the file's order. CSV knows only text; for JSONL the narrowest of
    bool, int64, float64 and text that holds every value, where lists and objects count as text
    (their JSON)."""
    learned: JsonColumns | None = None
    """Of JSONL of which only the first rows were looked at."""

    def rows(self) -> Iterator[RawRow]:
        """Read every row, in order. A row that cannot be read has a problem instead of values."""
        return {".parquet": parquet_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}[_format(self.path)](self.path)

    def batches(self, columns: Sequence[str], *, size: int = _BATCH_ROWS, check: bool = False) -> Iterator[Batch]:
        """Read some columns of every row, in order.

        Args:
            columns: Their names.
            size: Rows at a time.
            check: Refuse rows that do not fit the columns, where they were learned from the first
                rows.

        Raises:
            OtherColumnsError: A row has another column, or a value of another type.
        """
        if _format(self.path) == ".parquet":
            for first, batch in _parquet_batches(self.path, size=size, columns=columns):
                cells = dict(zip(batch.schema.names, batch.columns, strict=True))
                yield Batch(np.arange(first, first + len(batch)), cells, [])
            return
        of_file = _jsonl_batches if _format(self.path) == ".jsonl" else _csv_batches
        for batch in of_file(self.path, size=size):
            if check and self.learned is not None:
                self.learned.learn(batch.cells)
                if self.learned.types() != self.columns:
                    rows = f"rows {batch.rows[0]} to {batch.rows[-1]}"
                    raise OtherColumnsError(f"{self.path}: {rows} have other columns than the rows before them")
            lacking = [None] * len(batch.rows)
            yield batch._replace(cells={name: batch.cells.get(name, lacking) for name in columns})


def find_table(folder: Path, stem: str) -> Path | None:
    """Return the one file ``stem.parquet``, ``stem.jsonl`` or ``stem.csv`` of a folder, or None.

    Raises:
        CatalogueError: There are several: which one is meant cannot be known. Or it is a link to a
            file elsewhere, which a folder from somebody else must not make us read.
    """
    files = [file for suffix in SUFFIXES if (file := folder / f"{stem}{suffix}").is_file()]
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise CatalogueError(f"{folder} holds {names}; keep exactly one of them")
    if not files:
        return None
    real = files[0].resolve()
    if not real.is_relative_to(folder.resolve()):
        raise CatalogueError(f"{files[0]} is a link to {real}, outside the folder; copy the file into the folder")
    return files[0]


def open_table(path: Path, *, at_most: int | None = None) -> TableFile:
    """Check that a file can be read as a table and learn its columns.

    Args:
        path: Parquet, JSONL or CSV, by its suffix.
        at_most: Rows of JSONL that are looked at for its columns, where not all: those of the
            others come to light when they are read.

    Raises:
        CatalogueError: Empty file, wrong encoding, no header, or not the format its name says.
    """
    if path.stat().st_size == 0:
        raise CatalogueError(f"{path} is empty (0 bytes); write it again")
    if _format(path) == ".parquet":
        return TableFile(path=path, columns=_parquet_columns(path))
    check_utf8(path)
    if _format(path) == ".csv":
        return TableFile(path=path, columns=_csv_columns(path))
    learned = _jsonl_columns(path, at_most=at_most)
    return TableFile(path=path, columns=learned.types(), learned=None if at_most is None else learned)


def check_utf8(path: Path) -> None:
    """Refuse a text file that is not UTF-8 (a byte order mark is fine).

    Raises:
        CatalogueError: Names the line, the byte and what it would be in the usual other encodings.
    """
    with path.open("rb") as stream:
        if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise CatalogueError(f'{path} is UTF-16 ("Unicode text" in Excel); save it as UTF-8')
        stream.seek(0)
        decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
        try:
            while block := stream.read(_UTF8_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
            return
        except UnicodeDecodeError:
            stream.seek(0)  # a line at a time, to say where
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as e:
                byte = line[e.start]
                guess = line[e.start : e.start + 1].decode("cp1252", errors="replace")
                raise CatalogueError(
                    f"{path} is not UTF-8: line {number}, byte {e.start + 1} (offset {offset + e.start}) is "
                    f"0x{byte:02x}, {guess!r} in Windows-1252 or Latin-1; save it as UTF-8, for instance with: "
                    f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix}"
                ) from e
            offset += len(line)


def _format(path: Path) -> str:
    """Return the one of ``SUFFIXES`` that a file's name stands for."""
    suffix = path.suffix.lower()
    return ".jsonl" if suffix == ".ndjson" else suffix


def _open_text(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="" if _format(path) == ".csv" else None)


# --- Parquet


def _parquet_columns(path: Path) -> dict[str, pa.DataType]:
    schema = _open_parquet(path).schema
    _check_unique(path, schema.names)
    return {name: _STORED.get(kind, kind) for name, kind in zip(schema.names, schema.types, strict=True)}


def _open_parquet(path: Path) -> ParquetTable:
    try:
        return open_parquet(path.resolve())  # the user's, whether or not a link
    except (pa.ArrowException, OSError) as e:
        raise CatalogueError(f"{path} cannot be read as Parquet: {e}; write it again") from e


def parquet_rows(path: Path) -> Iterator[RawRow]:
    """Read the rows of a Parquet file."""
    for first, batch in _parquet_batches(path, size=_READ_ROWS):
        columns = [python_values(column) for column in batch.columns]
        for number, cells in enumerate(zip(*columns, strict=True), start=first):
            yield RawRow(row=number, values=dict(zip(batch.schema.names, cells, strict=True)))


def python_values(cells: pa.Array) -> list[Any]:
    """Return cells as Python has them; a time that it does not have, as text."""
    try:
        return list(cells.to_pylist())
    except (OverflowError, ValueError):
        pass  # after the year 9999, or in a time zone that nobody knows
    kind = cells.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        cells = cells.cast(pa.timestamp(kind.unit))
    return [_python_value(cell) for cell in cells]


def _python_value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except (OverflowError, ValueError):
        is_one = pa.types.is_temporal(cell.type)
        return cell.cast(pa.string()).as_py() if is_one else "<value out of range>"


def _parquet_batches(
    path: Path, *, size: int, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches of rows, each with the number of its first."""
    number = 0
    try:
        for batch in _open_parquet(path).batches(columns, size=size):
            stored = [cells.cast(_STORED.get(cells.type, cells.type)) for cells in batch.columns]
            yield number + 1, pa.RecordBatch.from_arrays(stored, names=batch.schema.names)
            number += len(batch)
    except (pa.ArrowException, OSError) as e:
        raise CatalogueError(f"{path} cannot be read after row {number}: {e}; write it again") from e


# --- JSON lines


def _jsonl_rows(path: Path) -> Iterator[RawRow]:
    for good, objects, unread in _jsonl_blocks(path, size=_BATCH_ROWS):
        yield from sorted([*map(RawRow, good.tolist(), objects), *unread])


def _jsonl_batches(path: Path, *, size: int) -> Iterator[Batch]:
    for good, objects, unread in _jsonl_blocks(path, size=size):
        yield Batch(good, by_columns(objects), unread)


def _jsonl_blocks(
    path: Path, *, size: int
) -> Iterator[tuple[npt.NDArray[np.int64], list[dict[str, Any]], list[RawRow]]]:
    """Yield numbers and objects of rows that could be read, and the other rows."""
    first = 1
    with _open_text(path) as lines:
        for block in many_json_lines(lines, at_once=size):
            unread = [json_row(row, line) for row, line in enumerate(block, first) if isinstance(line, JsonLine)]
            good = np.delete(np.arange(first, first + len(block)), [raw.row - first for raw in unread])
            yield good, [line for line in block if not isinstance(line, JsonLine)], unread
            first += len(block)


def _jsonl_columns(path: Path, *, at_most: int | None) -> JsonColumns:
    learned, any_object = JsonColumns(), False
    for batch in _jsonl_batches(path, size=at_most or _BATCH_ROWS):
        any_object |= len(batch.rows) > 0
        learned.learn(batch.cells)
        if any_object and at_most is not None:
            break
    if not any_object:
        with _open_text(path) as lines:
            start = lines.read(200).lstrip()
        hint = "it looks like one JSON array; " if start.startswith("[") else ""
        raise CatalogueError(f"{path} has no line that holds a JSON object; {hint}write one object per line")
    return learned


# --- CSV


def _csv_columns(path: Path) -> dict[str, pa.DataType]:
    with _open_text(path) as stream:
        try:
            header = next(csv.reader(stream, strict=True), [])
        except csv.Error as e:
            raise CatalogueError(
                f"{path}: the header cannot be read as CSV ({e}); save it as comma-separated UTF-8"
            ) from e
    names = _header_names(header)
    if not names:
        raise CatalogueError(f"{path} has no header line; the first line must name the columns")
    _check_unique(path, names)
    return dict.fromkeys(names, pa.string())


def _header_names(header: list[str]) -> list[str]:
    # Pandas writes its index under an empty name.
    return [name.strip() or f"unnamed_{position}" for position, name in enumerate(header, start=1)]


def _csv_rows(path: Path) -> Iterator[RawRow]:
    with _open_text(path) as stream:
        # strict: an unclosed quote must be an error, not a cell that swallows the rows after it.
        reader = csv.reader(stream, strict=True)
        names = _header_names(next(reader))
        number = 0
        while True:
            first_line = reader.line_num + 1
            try:
                cells = next(reader)
                problem = f"has {len(cells)} cells, the header names {len(names)}; "
                problem += "put quotes around a cell that contains a comma"
            except StopIteration:
                return
            except csv.Error as e:
                cells = None
                problem = f"cannot be read as CSV ({e}); a quote inside a quoted cell must be doubled, and closed"
            if cells == []:
                continue
            number += 1
            if cells is not None and len(cells) == len(names):
                yield RawRow(row=number, values={name: cell or None for name, cell in zip(names, cells, strict=True)})
            else:
                last = reader.line_num
                lines = f"line {first_line}" if last <= first_line else f"lines {first_line} to {last}"
                yield RawRow(row=number, problem=f"{lines} {problem}")


def _csv_batches(path: Path, *, size: int) -> Iterator[Batch]:
    rows = _csv_rows(path)
    while some := list(islice(rows, size)):
        good = [raw for raw in some if raw.problem is None]
        numbers = np.array([raw.row for raw in good], dtype=np.int64)
        yield Batch(numbers, by_columns([raw.values for raw in good]), [raw for raw in some if raw.problem is not None])


def _check_unique(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CatalogueError(f"{path} names the column {', '.join(twice)} more than once; rename or remove one")
