"""Read many lines of JSON at once, where each plainly holds one object."""

from collections.abc import Sequence
from typing import Any


def plain_objects(lines: Sequence[str]) -> Sequence[dict[str, Any] | None]:
    """Return the object of each line as Python's own reader gives it; None where that has to look.

    That is every line where one of them holds no object, or NaN, half a surrogate pair, a space at
    its end, and otherwise those in which a key may appear twice. An object has as many members as
    its text has colons that follow a quote or a space; one that dropped a member has fewer, one
    with such colons in its texts as well.
    """
    import msgspec  # heavy: imported on use
    import numpy as np

    try:
        text = "".join(lines).encode()
        objects = msgspec.json.Decoder(dict[str, Any]).decode_lines(text)
    except (ValueError, RecursionError):
        return [None] * len(lines)
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if not text.endswith(b"\n"):
        ends = np.append(ends, len(text))
    starts = np.append(0, ends[:-1] + 1)
    # Nothing in JSON can follow "}" on one line and begin the next with "{" but another object.
    if (
        not len(objects) == len(lines) == len(ends)
        or (data[starts] != ord("{")).any()
        or (data[ends - 1] != ord("}")).any()
    ):
        return [None] * len(lines)
    colons = np.flatnonzero(data == ord(":"))
    structural = colons[np.isin(data[colons - 1], np.frombuffer(b'" \t\r\n', np.uint8))]
    counts = np.bincount(np.searchsorted(ends, structural), minlength=len(lines)).tolist()
    return [values if _members(values) == count else None for values, count in zip(objects, counts, strict=True)]


def _members(values: dict[str, Any]) -> int:
    """Count the members of an object and of those in it."""
    count = len(values)
    for value in values.values():
        if type(value) is dict:
            count += _members(value)
        elif type(value) is list:
            count += sum(_members(one) for one in value if type(one) is dict)
    return count
