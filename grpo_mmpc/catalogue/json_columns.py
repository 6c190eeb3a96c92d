"""The columns of JSON lines: the names in any row, and the narrowest type that holds all values."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

_MOST_SHAPES = 10_000


class JsonColumns:
    """Learns columns from one row after another."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[type]] = {}
        self._shapes: set[tuple[object, ...]] = set()
        """Names and types of rows that hold nothing new."""

    def learn(self, values: Mapping[str, Any]) -> bool:
        """Take in a row; return whether it may have changed the columns."""
        cells = values.values()
        shape = (*values, *map(type, cells))
        if shape in self._shapes and not (int in shape and any(v.bit_length() > 63 for v in cells if type(v) is int)):
            return False
        if len(self._shapes) < _MOST_SHAPES:
            self._shapes.add(shape)
        for name, value in values.items():
            kind = type(value) if isinstance(value, bool | float) or _fits_int64(value) else str
            self._kinds.setdefault(name, set()).update(() if value is None else (kind,))
        return True

    def types(self) -> dict[str, pa.DataType]:
        """Return the type of each column: bool, int64, float64, or text."""
        return {name: _narrowest(kinds) for name, kinds in self._kinds.items()}


def _fits_int64(value: object) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _narrowest(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()
