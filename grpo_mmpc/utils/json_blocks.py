"""Read many lines of JSON at once, where each plainly holds one object."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_HIDDEN = re.compile(rb"\\u00(20|22|3[aA])")
"""A space, a quote or a colon that is written as its number."""


def plain_objects(lines: Sequence[str]) -> Sequence[dict[str, Any] | None]:
    """Return the object of each line as Python's own reader gives it; None where that has to look.

    That is every line where one of them holds no object, or NaN, half a surrogate pair, a space at
    its end, and otherwise those in which a key appears twice. Written again, an object that dropped
    a member has fewer colons that follow a quote or a space than its line.
    """
    import msgspec  # heavy: imported on use
    import numpy as np

    try:
        text = "".join(lines).encode()
        objects = msgspec.json.Decoder(dict[str, Any]).decode_lines(text)
        written = msgspec.json.Encoder().encode_lines(objects)
    except (ValueError, OverflowError, RecursionError):
        return [None] * len(lines)
    text = text if text.endswith(b"\n") else text + b"\n"
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    # Nothing in JSON can follow "}" on one line and begin the next with "{" but another object.
    if (
        not len(objects) == len(lines) == len(ends)
        or (data[starts] != ord("{")).any()
        or (data[ends - 1] != ord("}")).any()
    ):
        return [None] * len(lines)
    odd = _colons(data) != _colons(np.frombuffer(written, np.uint8))
    if b"\\u00" in text:
        odd[np.searchsorted(ends, [hidden.start() for hidden in _HIDDEN.finditer(text)])] = True
    return [None if is_odd else values for values, is_odd in zip(objects, odd.tolist(), strict=True)]


def _colons(data: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.int64]":
    """Count the colons behind keys, and those in texts that look like one, by line."""
    import numpy as np  # heavy: imported on use

    ends, colons = np.flatnonzero(data == ord("\n")), np.flatnonzero(data == ord(":"))
    structural = colons[np.isin(data[colons - 1], np.frombuffer(b'" \t\r\n', np.uint8))]
    return np.diff(np.searchsorted(structural, ends), prepend=0)
