"""Parquet files that may be somebody else's: regular files of their folder, unpacked in bounds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.files import check_own

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_GROWTH, _FREE_BYTES = 100, 256_000_000
"""A file may unpack to so many times its size, and so many bytes in any case."""
_BATCH_ROWS = 16_384
"""Rows read at a time, at least: a dictionary is rebuilt for each."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 16}
"""Bytes of a value, at least; of a text its offset and a pointer to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetTable:
    """A Parquet file whose columns are known and which was seen to unpack to no monster."""

    path: Path
    schema: "pa.Schema"
    metadata: Any

    def batches(self, columns: Sequence[str] | None = None, *, size: int = _BATCH_ROWS) -> Iterator["pa.RecordBatch"]:
        """Read some columns, or all, of at most ``size`` rows at a time.

        Texts that could be too large come packed, each different one once, so that their size is
        known before they are written out.

        Raises:
            OSError: It cannot be read, or unpacks to too much.
            pyarrow.ArrowException: It is damaged.
        """
        import pyarrow as pa  # heavy: imported on use
        import pyarrow.parquet as pq

        kinds = dict(zip(self.schema.names, self.schema.types, strict=True))
        packed, room, number = self._packed(columns), _room(self.path), 0
        with pq.ParquetFile(self.path, metadata=self.metadata, read_dictionary=packed) as file:
            for read in file.iter_batches(batch_size=max(size, _BATCH_ROWS if packed else 1), columns=columns):
                for batch in (read.slice(start, size) for start in range(0, len(read), size)):
                    number += len(batch)
                    room -= sum(map(_unpacked, batch.columns)) if packed else batch.nbytes
                    if room < 0:
                        raise _too_much(f"by row {number}")
                    if not packed:
                        yield batch
                        continue
                    cells = [
                        _written_out(one, kinds[name]) for name, one in zip(batch.schema.names, batch, strict=True)
                    ]
                    yield pa.RecordBatch.from_arrays(cells, names=batch.schema.names)

    def _packed(self, columns: Sequence[str] | None) -> list[str]:
        """Return the texts that would be too large if each cell were the longest that repeats."""
        import pyarrow.compute as pc  # heavy: imported on use
        import pyarrow.parquet as pq

        leaves = _leaves(self.metadata)
        texts = {one.path: leaf for leaf, one in enumerate(leaves) if _is_text(one)}
        bounds = dict.fromkeys(texts, 0)
        with pq.ParquetFile(self.path, metadata=self.metadata, read_dictionary=list(texts)) as file:
            for group in range(self.metadata.num_row_groups):
                # With its first row comes the whole dictionary of a column: what can repeat.
                for batch in islice(file.iter_batches(batch_size=1, row_groups=[group], columns=columns), 1):
                    for path in texts.keys() & set(batch.schema.names):
                        chunk = self.metadata.row_group(group).column(texts[path])
                        longest = pc.max(pc.binary_length(batch.column(path).dictionary)).as_py()
                        repeated = _room(self.path) if longest is None else longest * chunk.num_values
                        bounds[path] += chunk.total_uncompressed_size + repeated
        known = [
            path for path in texts if columns is None or f"{path}.".startswith(tuple(f"{one}." for one in columns))
        ]
        most = _room(self.path) / max(len(known), 1)
        return [path for path in known if bounds[path] > most or path not in self.schema.names]

    def read(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """Read some columns, or all, of the whole file; see ``batches``.

        Raises:
            KeyError: It lacks one of them.
            OSError: It has two of one name.
        """
        import pyarrow as pa  # heavy: imported on use

        for name in columns or ():
            if name not in self.schema.names:
                raise KeyError(f"no column {name}")
        if twice := {name for name in self.schema.names if self.schema.names.count(name) > 1}:
            raise OSError(f"it names the column {', '.join(sorted(twice))} more than once")
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([(name, self.schema.field(name).type) for name in names])
        return pa.Table.from_batches((batch.select(names) for batch in self.batches(columns)), schema)


def open_parquet(path: Path, *, folder: Path | None = None) -> ParquetTable:
    """Look at a Parquet file in a folder, its own one if none is named, before it is read.

    Raises:
        OSError: It is no regular file of the folder (see ``check_own``), or unpacks to too much.
        pyarrow.ArrowException: It is no Parquet file.
    """
    import pyarrow.parquet as pq  # heavy: imported on use

    check_own(path, folder=folder)
    with pq.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
    widths = [_WIDTHS.get(one.physical_type, max(one.length, 1)) for one in _leaves(metadata)]
    chunks = (
        (metadata.row_group(group).column(leaf), width)
        for group in range(metadata.num_row_groups)
        for leaf, width in enumerate(widths)
    )
    if sum(max(chunk.total_uncompressed_size, chunk.num_values * width) for chunk, width in chunks) > _room(path):
        raise _too_much(f"{metadata.num_rows:,} rows")
    return ParquetTable(path=path, schema=schema, metadata=metadata)


def _room(path: Path) -> int:
    return _FREE_BYTES + _MAX_GROWTH * path.stat().st_size


def _too_much(where: str) -> OSError:
    return OSError(f"it unpacks to more than {_MAX_GROWTH} times its size, {where}, which could fill memory and disk")


def _leaves(metadata: Any) -> list[Any]:
    return [metadata.schema.column(leaf) for leaf in range(len(metadata.schema))]


def _is_text(leaf: Any) -> bool:
    return bool(leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in ("STRING", "NONE"))


def _written_out(cells: "pa.Array", kind: "pa.DataType") -> "pa.Array":
    import pyarrow as pa  # heavy: imported on use

    try:
        return cells.cast(kind)
    except pa.ArrowNotImplementedError:  # views of texts
        return pa.array(cells.to_pylist(), kind)


def _unpacked(cells: "pa.Array") -> int:
    """Return the bytes that cells take when each text is written out."""
    import pyarrow.compute as pc  # heavy: imported on use
    import pyarrow.types as kinds

    if kinds.is_dictionary(cells.type) and not kinds.is_primitive(cells.type.value_type):
        lengths = pc.binary_length(cells.dictionary).take(cells.indices)
        return int(cells.indices.nbytes + (pc.sum(lengths).as_py() or 0))
    if kinds.is_map(cells.type):  # the one kind that ``flatten`` does not know
        first, end = cells.offsets[0].as_py(), cells.offsets[-1].as_py()
        return 4 * len(cells) + sum(_unpacked(part[first:end]) for part in (cells.keys, cells.items))
    if kinds.is_nested(cells.type):
        inner = cells.flatten()
        return 4 * len(cells) + sum(map(_unpacked, inner if isinstance(inner, list) else [inner]))
    return int(cells.nbytes)
