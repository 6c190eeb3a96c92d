"""The faults that files of Amazon Reviews 2023 have, as changes of a good line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Record = dict[str, Any]


class Wart(NamedTuple):
    """One kind of fault."""

    name: str
    change: Callable[[Record], bytes]
    """Make the line of a good record faulty, without its line break."""
    outcome: str = "read"
    """``read``: an item or interaction all the same; ``skipped``: named with file and row."""


class Planted(NamedTuple):
    """A fault that was put into a file."""

    wart: str
    file: str
    row: int | None
    """1-based; None where it is the file's."""
    item_id: str | None
    """Of the record, or of its product."""
    outcome: str
    """See :class:`Wart`."""


def plant(
    lines: pa.Array, warts: list[Wart], *, rows: npt.NDArray[Any], first: int, file: Path, into: list[Planted]
) -> bytes:
    """Return the lines as bytes with some of them replaced.

    Args:
        lines: ``[N]`` texts, each with its line break.
        warts: What to plant.
        rows: Where, ascending positions in ``lines``.
        first: Rows of the file before these lines.
        file: The lines' file.
        into: Gets a record of each.
    """
    text = memoryview(lines.buffers()[2])
    offsets = np.frombuffer(lines.buffers()[1], dtype=np.int32)[lines.offset :]
    parts: list[bytes | memoryview] = []
    at = int(offsets[0])
    for wart, row in zip(warts, rows.tolist(), strict=True):
        begin, end = int(offsets[row]), int(offsets[row + 1])
        record = json.loads(bytes(text[begin:end]))
        item_id = record["parent_asin"]
        line = wart.change(record)
        parts += [text[at:begin], line, b"\n"]
        at = end
        into.append(Planted(wart.name, file.name, first + row + 1, item_id, wart.outcome))
    return b"".join([*parts, text[at : int(offsets[len(lines)])]])


def _with(**changes: Any) -> Callable[[Record], bytes]:
    return lambda record: json.dumps(record | changes).encode()


def _spliced(name: str, raw: bytes) -> Callable[[Record], bytes]:
    """Put bytes that JSON does not allow into a text."""
    return lambda record: json.dumps(record | {name: "\a"}).encode().replace(b"\\u0007", raw)


def _half(record: Record) -> bytes:
    line = json.dumps(record).encode()
    return line[: len(line) // 2]


def _marked(record: Record) -> bytes:
    return json.dumps(record | {"title": f"{record['title']} &amp; More &#8211; <b>New</b>"}).encode()


def _as_text(record: Record) -> bytes:
    return json.dumps(record | {"details": json.dumps(record["details"])}).encode()


def _hub_images(record: Record) -> bytes:
    images = {key: [image[key] for image in record["images"]] for key in ("hi_res", "large", "variant")}
    return json.dumps(record | {"images": images}).encode()


_DEEP = json.loads("[" * 400 + "]" * 400)

_BROKEN = (
    Wart("bad byte", _spliced("title", b"Caf\xe9"), "skipped"),
    Wart("half a line", _half, "skipped"),
    Wart("null bytes", lambda record: b"\0" * 50, "skipped"),
    Wart("array", lambda record: b"[1, 2]", "skipped"),
    Wart("control character", _spliced("title", b"a\x01b"), "skipped"),
)

ITEM_WARTS = (
    *_BROKEN,
    Wart("no identifier", _with(parent_asin=None), "skipped"),
    Wart(
        "second record of an item",
        lambda record: json.dumps(record | {"parent_asin": "B000000000"}).encode(),
        "skipped",
    ),
    Wart("neither title nor image", _with(title=None, images=[]), "skipped"),
    Wart("title of thousands of characters", _with(title="long " * 2000), "skipped"),
    Wart("entities and tags", _marked),
    Wart("half a surrogate pair", _with(title="Mug \ud83d blue")),
    Wart("escaped null", _with(title="Mug\0 blue")),
    Wart("line breaks and wide spaces", _with(title=" Mug\n\u3000blue\xa0 12 ")),
    Wart("deep nesting", _with(details=_DEEP)),
    Wart("details as text", _as_text),
    Wart("details as a list", _with(details=[])),
    Wart("details that are broken text", _with(details="{broken")),
    Wart("images as an object of lists", _hub_images),
    Wart("no images", _with(images=None)),
    Wart("description as text", _with(description="plain")),
    Wart("description as an object", _with(description={"a": 1})),
    Wart("description with gaps", _with(description=[None, "x", "", "y"])),
    Wart("price as words", _with(price="from 14.99")),
    Wart("price as a dash", _with(price="\u2014")),
    Wart("price as a whole number", _with(price=12)),
    Wart("title as a number", _with(title=1001.0)),
)
"""Of item metadata."""

REVIEW_WARTS = (
    *_BROKEN,
    Wart("no user", _with(user_id=None), "skipped"),
    Wart("no product", _with(parent_asin=""), "skipped"),
    Wart("time in seconds", _with(timestamp=1_588_687_728), "skipped"),
    Wart("time before 1970", _with(timestamp=-1), "skipped"),
    Wart("time in words", _with(timestamp="soon"), "skipped"),
    Wart("rating in words", _with(rating="great"), "skipped"),
    Wart("rating as a truth value", _with(rating=True), "skipped"),
    Wart("time as text", _with(timestamp="1588687728923")),
    Wart("time with a fraction of zero", _with(timestamp=1588687728923.0)),
    Wart("no rating", _with(rating=None)),
    Wart("rating as text", _with(rating="4.0")),
    Wart("user with a space", _with(user_id="A 1 ")),
)
"""Of reviews."""
