"""Parquet files that may be somebody else's: regular files of their folder, unpacked in bounds."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.files import NotOwnError, check_own

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_GROWTH, _FREE_BYTES = 100, 256_000_000
"""A file may unpack to so many times its size, and so many bytes in any case."""
_BATCH_ROWS = 16_384
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 4}
"""Bytes of a value, at least; of a text its offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetTable:
    """A Parquet file whose columns are known and which was seen to unpack to no monster."""

    path: Path
    schema: "pa.Schema"
    metadata: Any

    def batches(self, columns: Sequence[str] | None = None, *, size: int = _BATCH_ROWS) -> Iterator["pa.RecordBatch"]:
        """Read some columns, or all, of at most ``size`` rows at a time.

        They are fewer where each of them could be a long text that the file holds once.

        Raises:
            OSError: It cannot be read, or unpacks to too much.
            pyarrow.ArrowException: It is damaged.
        """
        import pyarrow.parquet as pq  # heavy: imported on use

        room, number = room_to_unpack(self.path), 0
        rows = max(1, min(size, _FREE_BYTES // max(1, self._longest_row(columns))))
        with pq.ParquetFile(self.path, metadata=self.metadata) as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                number += len(batch)
                room -= batch.nbytes + sum(map(_written_out, _packed(batch.columns)))
                if room < 0:
                    raise unpacks_to_too_much(f"by row {number}")
                yield batch

    def read(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """Read some columns, or all, of the whole file; see ``batches``.

        Raises:
            KeyError: It lacks one of them.
        """
        import pyarrow as pa  # heavy: imported on use

        names = self.schema.names if columns is None else list(columns)
        if lacking := [name for name in names if name not in self.schema.names]:
            raise KeyError(f"no column {lacking[0]}")
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches((batch.select(names) for batch in self.batches(columns)), schema)

    def check_size(self, columns: Sequence[str]) -> None:
        """Refuse columns that unpack to too much, before another reader than ``batches``.

        They are read for it only where repeated texts could make it so.

        Raises:
            OSError: They do, or cannot be read.
            pyarrow.ArrowException: The file is damaged.
        """
        most = sum(
            self._longest_of(group, columns)
            * max(self.metadata.row_group(group).column(leaf).num_values for leaf in range(self.metadata.num_columns))
            for group in range(self.metadata.num_row_groups)
        )
        if most > room_to_unpack(self.path):
            for _ in self.batches(columns):
                pass

    def _longest_row(self, columns: Sequence[str] | None) -> int:
        """Return how long the texts of a row can be that the file need not hold for each row.

        It holds those of a dictionary once, and the beginnings that neighbours share.
        """
        return max((self._longest_of(group, columns) for group in range(self.metadata.num_row_groups)), default=0)

    def _top(self, chunk: Any) -> str:
        """Return the column that holds a chunk; names may have dots."""
        return str(next(name for name in self.schema.names if f"{chunk.path_in_schema}.".startswith(f"{name}.")))

    def _longest_of(self, group: int, columns: Sequence[str] | None) -> int:
        import pyarrow.compute as pc  # heavy: imported on use
        import pyarrow.parquet as pq

        chunks = [self.metadata.row_group(group).column(leaf) for leaf in range(self.metadata.num_columns)]
        texts = [
            chunk
            for chunk in chunks
            if chunk.physical_type == "BYTE_ARRAY"
            and (columns is None or self._top(chunk) in columns)
            and (chunk.has_dictionary_page or "DELTA_BYTE_ARRAY" in chunk.encodings)
        ]
        kept = [chunk.path_in_schema for chunk in texts if "DELTA_BYTE_ARRAY" not in chunk.encodings]
        # With beginnings that neighbours share, one text can be as long as all that is held.
        longest = int(sum(chunk.total_uncompressed_size for chunk in texts if chunk.path_in_schema not in kept))
        if not kept:
            return longest
        tops = list(dict.fromkeys(map(self._top, texts)))
        with pq.ParquetFile(self.path, metadata=self.metadata, read_dictionary=kept) as file:
            # With its first row comes the whole dictionary of a column.
            for batch in file.iter_batches(batch_size=1, row_groups=[group], columns=tops):
                return longest + sum(
                    pc.max(pc.binary_length(cells.dictionary)).as_py() or 0 for cells in _packed(batch.columns)
                )
        return longest


def open_parquet(path: Path, *, folder: Path | None = None) -> ParquetTable:
    """Look at a Parquet file in a folder, its own one if none is named, before it is read.

    Raises:
        OSError: It is no regular file of the folder (see ``check_own``), unpacks to too much, or
            has two columns of one name.
        pyarrow.ArrowException: It is no Parquet file.
    """
    import pyarrow.parquet as pq  # heavy: imported on use

    check_own(path, folder=folder)
    with pq.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
    if twice := {name for name in schema.names if schema.names.count(name) > 1}:
        raise OSError(f"it names the column {', '.join(sorted(twice))} more than once")
    leaves = [metadata.schema.column(leaf) for leaf in range(len(metadata.schema))]
    widths = [_WIDTHS.get(one.physical_type, max(one.length, 1)) for one in leaves]
    chunks = (
        (metadata.row_group(group).column(leaf), width)
        for group in range(metadata.num_row_groups)
        for leaf, width in enumerate(widths)
    )
    if sum(max(chunk.total_uncompressed_size, chunk.num_values * width) for chunk, width in chunks) > room_to_unpack(
        path
    ):
        raise unpacks_to_too_much(f"{metadata.num_rows:,} rows")
    return ParquetTable(path=path, schema=schema, metadata=metadata)


def room_to_unpack(path: Path) -> int:
    """Return the most bytes that a packed file may unpack to."""
    return _FREE_BYTES + _MAX_GROWTH * path.stat().st_size


def unpacks_to_too_much(where: str) -> NotOwnError:
    """Return the error of a file that needs more than that."""
    return NotOwnError(f"it unpacks to more than {_MAX_GROWTH} times its size, {where}: it could fill memory and disk")


def _packed(columns: "Iterable[pa.Array]") -> "Iterator[pa.DictionaryArray]":
    """Yield the texts that are held once for all cells that have them, inside of lists as well."""
    import pyarrow.types as kinds  # heavy: imported on use

    for cells in columns:
        if kinds.is_dictionary(cells.type):
            if not kinds.is_primitive(cells.type.value_type):
                yield cells
        elif kinds.is_map(cells.type):  # the one kind that ``flatten`` does not know
            yield from _packed((cells.keys, cells.items))
        elif kinds.is_nested(cells.type):
            inner = cells.flatten()
            yield from _packed(inner if isinstance(inner, list) else [inner])


def _written_out(cells: "pa.DictionaryArray") -> int:
    """Return the bytes of texts when each cell has its own."""
    import pyarrow.compute as pc  # heavy: imported on use

    return int(pc.sum(pc.binary_length(cells.dictionary).take(cells.indices)).as_py() or 0)
