"""Interactions of users, and the files of Amazon Reviews 2023."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

from tests.drills.hostile.case import GOES_ON, REFUSED, SET_ASIDE, Case, Group, Tally, both, json_lines, write
from tests.drills.hostile.catalogue_rows import GOOD

SHOP = write("shop/items.jsonl", json_lines(GOOD))
GOOD_ROW = {"user_id": "u", "item_id": "good", "timestamp": 1600000000000, "rating": 5}


def clicked(line: str | bytes) -> Callable[[Path], object]:
    """A good interaction and this line."""
    line = line.encode() if isinstance(line, str) else line
    return both(SHOP, write("shop/interactions.jsonl", json_lines(GOOD_ROW).encode() + line))


def odd(**cells: object) -> Callable[[Path], object]:
    return clicked(json.dumps(GOOD_ROW | {"user_id": "v"} | cells))


def counted(folder: Path) -> Tally:
    report = json.loads((folder / "report.json").read_text())["interactions"]
    unknown = sum(report["unknown_items"].values())
    return Tally(
        report["rows_read"], report["rows_read"] - unknown - len(report["broken"]), unknown + len(report["broken"])
    )


INTERACTIONS = Group(
    title="Interactions",
    command="data validate shop --json report.json",
    outcome=SET_ASIDE,
    count=counted,
    rows=2,
    cases=[
        Case("half a line", clicked('{"user_id": "u", "it'), "interactions.jsonl row 2: ... not JSON"),
        Case("no user", odd(user_id=None), "row 2 ... user_id is missing"),
        Case("an item that is not in the catalogue", odd(item_id="gone"), "gone"),
        Case("a timestamp in words", odd(timestamp="yesterday"), "timestamp is 'yesterday', expected milliseconds"),
        Case(
            "a timestamp of 10^400", clicked(json.dumps(GOOD_ROW)[:-1].replace("1600000000000", "1e400") + "}"), "row 2"
        ),
        Case("a rating of NaN", odd(rating="great"), "rating is 'great', expected a number"),
        Case("a timestamp in seconds", odd(timestamp=1600000000), "seconds", GOES_ON),
        Case("the same row twice", clicked(json.dumps(GOOD_ROW)), "1 repeated (user, item) pairs", GOES_ON),
        Case("bytes of NUL", clicked(b"\0" * 100), "interactions.jsonl row 2"),
        Case(
            "a CSV without the column user_id",
            both(SHOP, write("shop/interactions.csv", "item_id,timestamp\ngood,1\n")),
            "user_id",
            REFUSED,
        ),
        Case(
            "two files of interactions",
            both(clicked(""), write("shop/interactions.csv", "x")),
            "keep exactly one of them",
            REFUSED,
        ),
        Case(
            "a link to /etc/passwd",
            both(SHOP, lambda f: (f / "shop/interactions.csv").symlink_to("/etc/passwd")),
            "outside the folder",
            REFUSED,
        ),
    ],
)

RECORD = {"parent_asin": "B1", "title": "Mug", "description": ["Holds."], "images": [], "details": {}}


def records(more: bytes, name: str = "meta_Kitchen.jsonl") -> Callable[[Path], object]:
    return write(name, json_lines(RECORD).encode() + more)


def converted(folder: Path) -> Tally:
    used = len((folder / "out/items.jsonl").read_text().splitlines())
    skipped = folder / "out/skipped.jsonl"
    aside = len(skipped.read_text().splitlines()) if skipped.exists() else 0
    return Tally(used + aside, used, aside)


def record(**cells: object) -> Callable[[Path], object]:
    return records(json.dumps(RECORD | {"parent_asin": "B2"} | cells).encode())


AMAZON = Group(
    title="Files of Amazon Reviews 2023",
    command="data amazon meta_Kitchen.jsonl --out out",
    outcome=SET_ASIDE,
    count=converted,
    rows=2,
    cases=[
        Case("half a line", records(b'{"parent_asin": "B'), "meta_Kitchen.jsonl row 2"),
        Case(
            "a wrong byte",
            records(b'{"parent_asin": "B2", "title": "caf\xe9"}'),
            "row 2: line 2: not UTF-8 (invalid continuation byte); save the file as UTF-8",
        ),
        Case(
            "an item twice", record(parent_asin="B1"), "parent_asin B1 was already read from meta_Kitchen.jsonl row 1"
        ),
        Case("no parent_asin", record(parent_asin=None), "parent_asin is missing"),
        Case("neither title nor image", record(title=" "), "neither title nor image"),
        Case("images that are no list", record(images="x.jpg"), "items: 2", GOES_ON),
        Case(
            "tags and entities in a title", record(title="<b>Mug</b> &amp; Cup<script>x</script>"), "items: 2", GOES_ON
        ),
        Case(
            "a byte order mark",
            write("meta_Kitchen.jsonl", b"\xef\xbb\xbf" + json_lines(RECORD, RECORD | {"parent_asin": "B2"}).encode()),
            "items: 2",
            GOES_ON,
        ),
        Case(
            "a gzip archive without its end",
            write(
                "meta_Kitchen.jsonl",
                gzip.compress(json_lines(RECORD).encode()) + gzip.compress(json_lines(RECORD).encode())[:-12],
            ),
            "row 2: meta_Kitchen.jsonl is damaged here, and nothing behind it is read",
        ),
        Case(
            "a gzip archive named .jsonl",
            write("meta_Kitchen.jsonl", gzip.compress(json_lines(RECORD, RECORD | {"parent_asin": "B2"}).encode())),
            "items: 2",
            GOES_ON,
        ),
        Case("a file that does not exist", write("x", ""), "meta_Kitchen.jsonl", REFUSED),
        Case(
            "an empty file",
            write("meta_Kitchen.jsonl", ""),
            "No item: no record of meta_Kitchen.jsonl could become one",
            REFUSED,
            status=1,
        ),
    ],
)

GROUPS = [INTERACTIONS, AMAZON]
