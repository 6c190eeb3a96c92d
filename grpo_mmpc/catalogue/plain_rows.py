"""Read rows by columns: those that are plainly right at once, each other one by its rule."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from grpo_mmpc.catalogue.normalise import MISSING_WORDS
from grpo_mmpc.catalogue.rows import MAX_CHARACTERS, RawRow, RowError
from grpo_mmpc.catalogue.tables import Batch, python_values

ONE_LINE = r"^[!-~]+( [!-~]+)*$"
"""Text that cleaning leaves as it is."""

Cells: TypeAlias = Sequence[Any] | pa.Array
Flags = npt.NDArray[np.bool_]
Column: TypeAlias = tuple[pa.Array, Flags]
"""Cells as they are kept, and which of them plainly need no rule, ``[N]``."""


class Usable(NamedTuple):
    """Which rows of a batch are usable."""

    is_usable: Flags
    """By the batch's rows, ``[N]``."""
    columns: list[pa.Array]
    """Cells of all N rows."""
    broken: list[tuple[RawRow, str]]
    """The others and those that could not be read, in order, with the reason."""


def by_rule(batch: Batch, columns: Sequence[Column], rule: Callable[[RawRow], Sequence[Any]]) -> Usable:
    """Put the rows of which some cell is not plain through the rule for one row.

    Args:
        batch: N rows.
        columns: What was read of them.
        rule: Returns the cells of one row, one a column; raises ``RowError``.
    """
    is_usable = np.logical_and.reduce([plain for _, plain in columns])
    arrays = [array for array, _ in columns]
    broken = [(raw, str(raw.problem)) for raw in batch.unread]
    odd = np.flatnonzero(~is_usable)
    cells = [_taken(column, odd) for column in batch.cells.values()]
    given: list[Sequence[Any]] = []
    for position, *values in zip(odd.tolist(), *cells, strict=True):
        raw = RawRow(row=int(batch.rows[position]), values=dict(zip(batch.cells, values, strict=True)))
        try:
            given.append(rule(raw))
            is_usable[position] = True
        except RowError as error:
            broken.append((raw, str(error)))
    if given:
        replaced = np.zeros(len(is_usable), dtype=bool)
        replaced[odd] = is_usable[odd]
        arrays = [
            pc.replace_with_mask(array, pa.array(replaced), pa.array(values, array.type))
            for array, values in zip(arrays, zip(*given, strict=True), strict=True)
        ]
    return Usable(is_usable, arrays, sorted(broken, key=lambda pair: pair[0].row))


def as_array(cells: Cells) -> pa.Array | None:
    """Return the cells of one type; None where they are of several."""
    if isinstance(cells, pa.Array):
        return cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells
    try:
        return pa.array(cells)
    except (pa.ArrowException, TypeError, OverflowError, ValueError):
        return None


def texts(cells: Cells, pattern: str = ONE_LINE, *, at_most: int = MAX_CHARACTERS, may_lack: bool = False) -> Column:
    """Read names, titles and paths: plain are whole numbers, and what matches the pattern.

    Args:
        cells: Of one column.
        pattern: Matches text that the rule leaves as it is.
        at_most: Characters of a plain one.
        may_lack: A missing one is plain.
    """
    array = as_array(cells)
    if array is None:
        return not_plain(cells, pa.string())
    lacks = flags(array.is_null()) & may_lack
    if pa.types.is_integer(array.type):
        return array.cast(pa.string()), flags(array.is_valid()) | lacks
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        column, _ = not_plain(cells, pa.string())
        return column, lacks
    array = array.cast(pa.string())
    plain = pc.ascii_is_alnum(array)  # most identifiers, several times as fast
    if not pc.all(plain).as_py():
        plain = pc.match_substring_regex(array, pattern)
    plain = pc.and_(plain, pc.less_equal(pc.binary_length(array), at_most))
    return array, (flags(plain) & ~flags(pc.is_in(array, pa.array(sorted(MISSING_WORDS))))) | lacks


def not_plain(cells: Cells, kind: pa.DataType) -> Column:
    """Leave all cells of a column to the rule."""
    return pa.nulls(len(cells), kind), np.zeros(len(cells), dtype=bool)


def flags(values: pa.Array) -> Flags:
    """Return booleans as an array; a missing one is false."""
    plain: Flags = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return plain


def _taken(cells: Cells, positions: npt.NDArray[np.int64]) -> list[Any]:
    if isinstance(cells, pa.Array):
        return python_values(cells.take(pa.array(positions)))
    return [cells[position] for position in positions.tolist()]
