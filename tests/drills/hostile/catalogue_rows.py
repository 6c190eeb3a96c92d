"""Rows and files of a catalogue, as shops export and editors spoil them."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.drills.hostile.case import GOES_ON, REFUSED, SET_ASIDE, Case, Group, Tally, both, json_lines, write

GOOD = {"item_id": "good", "category": "Kitchen", "title": "Acme Steel Kettle", "description": None, "image": None}


def row(**cells: Any) -> Callable[[Path], object]:
    """A catalogue of a good row and one with these cells."""
    return raw(json.dumps(GOOD | {"item_id": "odd", "title": "Odd Mug"} | cells).encode())


def raw(line: bytes, *, before: bytes = json.dumps(GOOD).encode() + b"\n") -> Callable[[Path], object]:
    """A catalogue of a good row and these bytes."""
    return write("shop/items.jsonl", before + line)


def csv_file(text: str | bytes) -> Callable[[Path], object]:
    return write("shop/items.csv", text)


def parquet(columns: dict[str, list[Any]], cut: int | None = None) -> Callable[[Path], object]:
    """A Parquet catalogue of these cells, without ``cut`` bytes of its end."""

    def make(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        out = io.BytesIO()
        cells = {name: [GOOD[name], GOOD[name]] for name in GOOD} | {"item_id": ["good", "odd"]} | columns
        pq.write_table(pa.table(cells), out, compression="zstd")
        write("shop/items.parquet", out.getvalue()[: -cut if cut else None])(folder)

    return make


def validated(folder: Path) -> Tally:
    """Read the report of ``data validate``."""
    report = json.loads((folder / "report.json").read_text())
    for entry in report["quarantined"]:
        assert entry["file"] and entry["row"] and entry["reason"]
    return Tally(report["rows_read"], report["items"], len(report["quarantined"]))


HEADER = "item_id,category,title,description,image\n"
GOOD_CSV = HEADER + "good,Kitchen,Kettle,,\n"

ROWS = Group(
    title="Rows of items.jsonl",
    command="data validate shop --json report.json",
    outcome=SET_ASIDE,
    count=validated,
    rows=2,
    cases=[
        Case("half a line", raw(b'{"item_id": "odd", "tit'), "items.jsonl row 2: ... not JSON"),
        Case("a list, a word and null in place of objects", raw(b'[1]\n"a"\nnull'), "items.jsonl row 2", rows=4),
        Case("bytes of NUL, as a disk leaves after a power cut", raw(b"\0" * 4096), "items.jsonl row 2: ... not JSON"),
        Case(
            "an object nested 100,000 deep",
            raw(b'{"a":' * 100_000),
            "row 2: ... cannot be read as JSON (maximum recursion depth",
        ),
        Case("a number of 5,000 digits", raw(b'{"item_id": ' + b"9" * 5000 + b"}"), "items.jsonl row 2:"),
        Case("no item_id", row(item_id=None), "row 2: item_id is missing"),
        Case("an item_id that is a list", row(item_id=["a"]), "row 2: item_id holds a list, expected text"),
        Case("an item_id given before", row(item_id="good"), "row 2 (good): item_id good already names row 1"),
        Case("no category", row(category=""), "row 2 (odd): category is missing"),
        Case(
            "a title of invisible characters and no image",
            row(title=" \u200b\ufeff "),
            "row 2 (odd): neither title nor image",
        ),
        Case(
            "a title that is an object", row(title={"en": "Mug"}), "row 2 (odd): title holds an object, expected text"
        ),
        Case("a title that is NaN", row(title=float("nan")), "row 2 (odd): neither title nor image"),
        Case(
            "a title of a million characters",
            row(title="mug " * 250_000),
            "row 2 (odd): title has 999,999 characters, the limit is 5,000",
        ),
        Case("half a surrogate pair", raw(json.dumps(GOOD | {"item_id": "\ud800"}).encode()), "2 usable", GOES_ON),
        Case("numbers as item_id, title and category", row(item_id=7, title=501, category=3), "2 usable", GOES_ON),
        Case("escape sequences of a terminal in a title", row(title="\x1b[2J\x1b[31mMug\x07"), "2 usable", GOES_ON),
        Case("the line separator U+2028 in a title", row(title="Blue\u2028Mug"), "2 usable", GOES_ON),
        Case("attributes that are no JSON", row(attributes="{red"), "row 2 (odd): attributes dropped", GOES_ON),
        Case("a column of mixed types and infinity", row(price=float("inf"), more=[1, {}]), "2 usable", GOES_ON),
        Case("an item_id that climbs out of folders", row(item_id="../../etc/passwd"), "2 usable", GOES_ON),
        Case(
            "an item_id of 10,000 characters", row(item_id="x" * 10_000), "item_id has 10,000 characters, the limit is"
        ),
        Case(
            "a key twice in a row",
            raw(b'{"item_id": "odd", "category": "K", "title": "a", "title": "b"}'),
            "row 2: line 2: the key 'title' appears twice; keep one of them",
        ),
        Case(
            "Windows, old Mac and Unix ends of lines",
            write(
                "shop/items.jsonl",
                b"".join(
                    json.dumps(GOOD | {"item_id": end.hex()}).encode() + end for end in (b"\r\n", b"\n", b"\r\n\n\n")
                ),
            ),
            "3 usable items",
            GOES_ON,
            rows=3,
        ),
        Case(
            "a byte order mark",
            raw(
                json.dumps(GOOD | {"item_id": "b"}).encode(), before=b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n"
            ),
            "2 usable",
            GOES_ON,
        ),
    ],
)


def _link(target: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / "shop").mkdir(), (folder / "shop/items.jsonl").symlink_to(target))


FILES = Group(
    title="Files of a catalogue",
    command="data validate shop --json report.json",
    outcome=REFUSED,
    count=validated,
    rows=2,
    cases=[
        Case("no such folder", lambda folder: None, "catalogue folder shop does not exist"),
        Case("a file in its place", write("shop", "x"), "shop is a file; give the folder"),
        Case("an empty folder", lambda folder: (folder / "shop").mkdir(), "shop has no items.parquet"),
        Case("an empty file", write("shop/items.jsonl", ""), "items.jsonl is empty (0 bytes)"),
        Case("a folder named items.jsonl", lambda f: (f / "shop/items.jsonl").mkdir(parents=True), "shop has no items"),
        Case(
            "a FIFO named items.jsonl",
            lambda f: ((f / "shop").mkdir(), os.mkfifo(f / "shop/items.jsonl")),
            "shop has no items",
        ),
        Case("a link to /dev/zero", _link("/dev/zero"), "shop has no items"),
        Case(
            "a link to a file elsewhere",
            both(write("other.jsonl", json_lines(GOOD)), _link("../other.jsonl")),
            "outside the folder; copy the file",
        ),
        Case("a link to itself", _link("items.jsonl"), "items"),
        Case(
            "items.jsonl and items.csv",
            both(write("shop/items.jsonl", json_lines(GOOD)), csv_file(GOOD_CSV)),
            "keep exactly one of them",
        ),
        Case("one JSON array", write("shop/items.jsonl", json.dumps([GOOD])), "it looks like one JSON array"),
        Case(
            "Latin-1",
            write("shop/items.jsonl", b'{"item_id": "caf\xe9"}\n'),
            "not UTF-8: line 1, byte 17 ... iconv -f WINDOWS-1252",
        ),
        Case("UTF-16", csv_file(GOOD_CSV.encode("utf-16")), "is UTF-16"),
        Case("a CSV without header", csv_file("1,Kitchen,Mug\n"), "lacks the columns"),
        Case("a CSV with semicolons", csv_file(GOOD_CSV.replace(",", ";")), "lacks the columns"),
        Case("a CSV with a column twice", csv_file("item_id,title,title,category,image\n1,a,b,c,\n"), "title"),
        Case(
            "a CSV row of too many cells",
            csv_file(GOOD_CSV + "odd,Kitchen,Mug, red,,,\n"),
            "row 2: ... put quotes around",
            SET_ASIDE,
        ),
        Case(
            "a CSV with a quote that never ends",
            csv_file(GOOD_CSV + 'odd,Kitchen,"Mug\n' + "x,y,z,,\n" * 3),
            "row 2",
            SET_ASIDE,
        ),
        Case(
            "a CSV cell of 200,000 characters",
            csv_file(GOOD_CSV + f"odd,Kitchen,{'m' * 200_000},,\n"),
            "row 2",
            SET_ASIDE,
        ),
        Case("a CSV with NUL", csv_file(GOOD_CSV + "odd,Kitchen,Mu\0g,,\n"), "2 usable", GOES_ON),
        Case(
            "a spreadsheet's formula as title",
            csv_file(GOOD_CSV + "odd,Kitchen,=cmd|' /C calc'!A0,,\n"),
            "2 usable",
            GOES_ON,
        ),
        Case("text named items.parquet", write("shop/items.parquet", GOOD_CSV), "cannot be read as Parquet"),
        Case("a Parquet file without its end", parquet({}, cut=40), "cannot be read as Parquet"),
        Case(
            "a Parquet file of 20 kB that unpacks to 300 MB",
            parquet({"title": ["m" * 150_000_000] * 2}),
            "unpacks to more than 100 times its size",
        ),
        Case(
            "Parquet cells of bytes",
            parquet({"title": [b"\xff\xfe", b"Mug"]}),
            "column title holds binary, expected text",
        ),
        Case(
            "Parquet cells of lists and structures",
            parquet({"title": [["a"], ["b"]], "x": [{"a": 1}, None]}),
            "title holds a list, expected text",
            SET_ASIDE,
            status=1,
        ),
        Case("a Parquet file without rows", parquet({name: [] for name in GOOD}), "No usable item", REFUSED, status=1),
    ],
)

GROUPS = [ROWS, FILES]
