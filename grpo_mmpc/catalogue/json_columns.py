"""The columns of JSON lines: the names in any row, and the narrowest type that holds all values."""

from collections.abc import Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Any

import pyarrow as pa


def by_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the cells of all columns that occur in rows; None where a row lacks one."""
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain.from_iterable(rows))}


class JsonColumns:
    """Learns columns from some rows after others."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[type]] = {}

    def learn(self, cells: Mapping[str, Sequence[Any]]) -> None:
        """Take in the cells of rows, by column."""
        for name, values in cells.items():
            kinds = {kind if kind in (bool, int, float) else str for kind in {*map(type, values)} - {NoneType}}
            if int in kinds and not all(-(2**63) <= value < 2**63 for value in values if type(value) is int):
                kinds.add(str)
            self._kinds.setdefault(name, set()).update(kinds)

    def types(self) -> dict[str, pa.DataType]:
        """Return the type of each column: bool, int64, float64, or text."""
        return {name: _narrowest(kinds) for name, kinds in self._kinds.items()}


def _narrowest(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()
