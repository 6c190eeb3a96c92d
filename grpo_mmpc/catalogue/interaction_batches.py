"""Check interactions by columns; rows that are not plainly right go through the rule for one."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from grpo_mmpc.catalogue.interactions import COLUMNS, read_interaction
from grpo_mmpc.catalogue.plain_rows import Cells, Column, as_array, by_rule, flags, not_plain, texts
from grpo_mmpc.catalogue.tables import Batch, TableFile
from grpo_mmpc.types import Quarantined

_WHOLE = "^[0-9]{1,18}$"
_NUMBER = "^[0-9]{1,9}([.][0-9]{1,9})?$"
_EXACT = 2.0**53
_BATCH_ROWS = 2**15
"""Of few and short cells."""


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
    for batch in table.batches(COLUMNS, size=_BATCH_ROWS):
        yield _check(batch, file=table.path.name)


def _check(batch: Batch, *, file: str) -> Checked:
    columns = [read(batch.cells[name]) for name, read in _READ.items()]
    rows = by_rule(batch, columns, lambda raw: read_interaction(raw.cells()))
    user_ids, item_ids, timestamps, ratings = (column.filter(pa.array(rows.is_usable)) for column in rows.columns)
    return Checked(
        rows=batch.rows[rows.is_usable],
        user_ids=user_ids,
        item_ids=item_ids,
        timestamps=timestamps.to_numpy(zero_copy_only=False).astype(np.int64),
        ratings=ratings.to_numpy(zero_copy_only=False).astype(np.float64),
        broken=[raw.set_aside(reason, file=file) for raw, reason in rows.broken],
    )


def _times(column: Cells) -> Column:
    if (cells := as_array(column)) is None:
        return not_plain(column, pa.int64())
    kind = cells.type
    if pa.types.is_string(kind):
        whole = pc.match_substring_regex(cells, _WHOLE)
        return pc.if_else(whole, cells, "0").cast(pa.int64()), flags(whole)
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(pc.floor(cells), cells), pc.less(pc.abs(cells), _EXACT))
        cells = pc.if_else(whole, cells, pa.scalar(None, kind))
    elif pa.types.is_timestamp(kind):
        try:
            cells = cells.cast(pa.timestamp("ms", kind.tz))
        except pa.ArrowInvalid:  # finer than that
            return not_plain(cells, pa.int64())
    elif not pa.types.is_signed_integer(kind):
        return not_plain(cells, pa.int64())
    cells = cells.cast(pa.int64())
    return cells, flags(pc.greater_equal(cells, 0))


def _ratings(column: Cells) -> Column:
    if (cells := as_array(column)) is None:
        return not_plain(column, pa.float64())
    kind = cells.type
    if pa.types.is_string(kind):
        number = pc.fill_null(pc.match_substring_regex(cells, _NUMBER), True)
        return pc.if_else(number, cells, pa.scalar(None, kind)).cast(pa.float64()), flags(number)
    if not (pa.types.is_null(kind) or pa.types.is_floating(kind) or pa.types.is_signed_integer(kind)):
        return not_plain(cells, pa.float64())
    cells = cells.cast(pa.float64(), safe=False)
    return cells, ~flags(pc.is_inf(cells))


_READ: dict[str, Callable[[Cells], Column]] = {
    "user_id": texts,
    "item_id": texts,
    "timestamp": _times,
    "rating": _ratings,
}
