"""Check interactions by columns; rows that are not plainly right go through the rule for one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from grpo_mmpc.catalogue.interactions import COLUMNS, read_interaction
from grpo_mmpc.catalogue.normalise import MISSING_WORDS
from grpo_mmpc.catalogue.rows import MAX_CHARACTERS, RawRow, RowError
from grpo_mmpc.catalogue.tables import Batch, TableFile
from grpo_mmpc.types import Quarantined

_NAME = r"^[!-~]+( [!-~]+)*$"
"""One that cleaning leaves as it is."""
_WHOLE = "^[0-9]{1,18}$"
_NUMBER = "^[0-9]{1,9}([.][0-9]{1,9})?$"
_EXACT = 2.0**53

_Flags = npt.NDArray[np.bool_]


class Checked(NamedTuple):
    """Rows that lie together: usable ones by column, ``[N]`` each, and the broken ones."""

    rows: npt.NDArray[np.int64]
    """Data rows, from 1."""
    user_ids: pa.StringArray
    item_ids: pa.StringArray
    timestamps: npt.NDArray[np.int64]
    """Milliseconds since 1970."""
    ratings: npt.NDArray[np.float64]
    """NaN where there is none."""
    broken: list[Quarantined]

    @property
    def read(self) -> int:
        """The number of rows."""
        return len(self.rows) + len(self.broken)


def checked_batches(table: TableFile) -> Iterator[Checked]:
    """Read every row of an interactions file in order, as ``read_interaction`` would."""
    for batch in table.batches(COLUMNS):
        yield _check(batch, file=table.path.name)


def _check(batch: Batch, *, file: str) -> Checked:
    broken = [raw.set_aside(raw.problem, file=file) for raw in batch.unread]
    read = {name: _READ[name](cells) for name in COLUMNS if (cells := _array(batch.cells[name])) is not None}
    good = np.ones(len(batch.rows), dtype=bool) if len(read) == len(COLUMNS) else np.zeros(len(batch.rows), dtype=bool)
    for _, is_plain in read.values():
        good &= is_plain
    columns = [
        read[name][0] if good.any() else pa.nulls(len(good), kind) for name, kind in zip(COLUMNS, _TYPES, strict=True)
    ]
    odd = np.flatnonzero(~good)
    values = [_cell(batch.cells[name], odd) for name in COLUMNS]
    slow = []
    for position, *cells in zip(odd, *values, strict=True):
        raw = RawRow(row=int(batch.rows[position]), values=dict(zip(COLUMNS, cells, strict=True)))
        try:
            slow.append(read_interaction(raw.cells()))
            good[position] = True
        except RowError as error:
            broken.append(raw.set_aside(error, file=file))
    if slow:
        usable = np.zeros(len(good), dtype=bool)
        usable[odd] = good[odd]
        columns = [
            pc.replace_with_mask(column, pa.array(usable), pa.array(cells, kind))
            for column, cells, kind in zip(columns, zip(*slow, strict=True), _TYPES, strict=True)
        ]
    user_ids, item_ids, timestamps, ratings = (column.filter(pa.array(good)) for column in columns)
    return Checked(
        rows=batch.rows[good],
        user_ids=user_ids,
        item_ids=item_ids,
        timestamps=timestamps.to_numpy(zero_copy_only=False).astype(np.int64),
        ratings=ratings.to_numpy(zero_copy_only=False).astype(np.float64),
        broken=sorted(broken, key=lambda row: row.row),
    )


def _array(cells: Sequence[Any] | pa.Array) -> pa.Array | None:
    """Return the cells of one type; None where they are of several."""
    if isinstance(cells, pa.Array):
        return cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells
    try:
        return pa.array(cells)
    except (pa.ArrowException, TypeError, OverflowError, ValueError):
        return None


def _cell(cells: Sequence[Any] | pa.Array, positions: npt.NDArray[np.int64]) -> list[Any]:
    if isinstance(cells, pa.Array):
        return list(cells.take(pa.array(positions)).to_pylist())
    return [cells[position] for position in positions]


def _names(cells: pa.Array) -> tuple[pa.Array, _Flags]:
    kind = cells.type
    if pa.types.is_integer(kind):
        return cells.cast(pa.string()), _flags(cells.is_valid())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return _none(cells, pa.string())
    cells = cells.cast(pa.string())
    plain = pc.ascii_is_alnum(cells)  # most identifiers, several times as fast
    if not pc.all(plain).as_py():
        plain = pc.match_substring_regex(cells, _NAME)
    plain = pc.and_(plain, pc.less_equal(pc.binary_length(cells), MAX_CHARACTERS))
    return cells, _flags(plain) & ~_flags(pc.is_in(cells, pa.array(sorted(MISSING_WORDS))))


def _times(cells: pa.Array) -> tuple[pa.Array, _Flags]:
    kind = cells.type
    if pa.types.is_string(kind):
        whole = pc.match_substring_regex(cells, _WHOLE)
        return pc.if_else(whole, cells, "0").cast(pa.int64()), _flags(whole)
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(pc.floor(cells), cells), pc.less(pc.abs(cells), _EXACT))
        cells = pc.if_else(whole, cells, pa.scalar(None, kind))
    elif pa.types.is_timestamp(kind):
        try:
            cells = cells.cast(pa.timestamp("ms", kind.tz))
        except pa.ArrowInvalid:  # finer than that
            return _none(cells, pa.int64())
    elif not pa.types.is_signed_integer(kind):
        return _none(cells, pa.int64())
    cells = cells.cast(pa.int64())
    return cells, _flags(pc.greater_equal(cells, 0))


def _ratings(cells: pa.Array) -> tuple[pa.Array, _Flags]:
    kind = cells.type
    if pa.types.is_string(kind):
        number = pc.fill_null(pc.match_substring_regex(cells, _NUMBER), True)
        return pc.if_else(number, cells, pa.scalar(None, kind)).cast(pa.float64()), _flags(number)
    if not (pa.types.is_null(kind) or pa.types.is_floating(kind) or pa.types.is_signed_integer(kind)):
        return _none(cells, pa.float64())
    cells = cells.cast(pa.float64(), safe=False)
    return cells, ~_flags(pc.is_inf(cells))


def _none(cells: pa.Array, kind: pa.DataType) -> tuple[pa.Array, _Flags]:
    return pa.nulls(len(cells), kind), np.zeros(len(cells), dtype=bool)


def _flags(values: pa.Array) -> _Flags:
    flags: _Flags = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return flags


_READ: dict[str, Callable[[pa.Array], tuple[pa.Array, _Flags]]] = {
    "user_id": _names,
    "item_id": _names,
    "timestamp": _times,
    "rating": _ratings,
}
_TYPES = (pa.string(), pa.string(), pa.int64(), pa.float64())
