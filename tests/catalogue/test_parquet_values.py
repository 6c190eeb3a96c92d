"""Parquet as other programs write it: types that Python has no value for, text as bytes."""

import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.catalogue.sources.importing import Imported, import_tables
from grpo_mmpc.catalogue.sources.opening import open_source

SHOWN = pa.array([None, "red mug.png", "red mug.png"])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "shop"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red mug.png")
    return folder


def write(folder: Path, **columns: pa.Array) -> Path:
    """Three items; the second has two spaces in its category, so that not every row is plain."""
    plain = {
        "item_id": pa.array(["a", "b", "c"]),
        "category": pa.array(["Mugs", "Cups  and mugs", "Mugs"]),
        "title": pa.array(["Mug", None, "Pot"]),
        "image": SHOWN,
    }
    pq.write_table(pa.table({**plain, **columns}), folder / "items.parquet")
    return folder / "items.parquet"


def imported(file: Path) -> tuple[Imported, list[dict]]:
    done = import_tables(open_source(str(file)), out=file.parent / "out")
    return done, [json.loads(line) for line in (file.parent / "out/items.jsonl").open()]


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        (pa.array([0, 86_400_000, None], pa.timestamp("ms")), ["1970-01-01 00:00:00", "1970-01-02 00:00:00", None]),
        (pa.array([2_932_897, 1, None], pa.date32()), ["10000-01-01", "1970-01-02", None]),
        (
            pa.array([1, 2_000_000, None], pa.timestamp("us", tz="Mars/Phobos")),
            ["1970-01-01 00:00:00.000001", "1970-01-01 00:00:02", None],
        ),
    ],
    ids=["usual", "after the year 9999", "unknown zone"],
)
def test_times_are_text_whether_or_not_python_has_them(folder, cells, texts):
    file = write(folder, sold=cells)
    assert load_catalogue(folder).items["sold"][:] == texts
    assert [row.get("sold") for row in imported(file)[1]] == texts


def test_a_time_that_has_no_date_is_said_to_be_out_of_range(folder):
    file = write(folder, sold=pa.array([1_700_000_000_000_000, 0, None], pa.timestamp("ms")))
    sold = ["<value out of range: 1700000000000000>", "1970-01-01 00:00:00", None]
    assert load_catalogue(folder).items["sold"][:] == sold
    assert [row.get("sold") for row in imported(file)[1]] == sold


def test_the_newest_kind_of_text_column_is_text(folder):
    view = pa.array(["Mug", None, "Pot"], pa.string_view())
    file = write(folder, title=view, note=view)
    items = load_catalogue(folder).items
    assert items["title"][:] == items["note"][:] == ["Mug", None, "Pot"]
    assert [row["title"] for row in imported(file)[1]] == ["Mug", None, "Pot"]


def test_identifiers_may_be_decimals(folder):
    write(folder, item_id=pa.array([Decimal("1"), Decimal("2.5"), Decimal("30")], pa.decimal128(10, 2)))
    assert [record.item_id for record in load_catalogue(folder).records()] == ["1", "2.50", "30"]


def test_text_that_is_imported_may_be_its_bytes(folder):
    file = write(
        folder,
        item_id=pa.array([b"1", b"2", b"30"]),
        title=pa.array(["Tasse à thé".encode(), None, b"Pot"]),
        note=pa.array([b"new", b"\xff\xfe\x00", None]),
    )
    done, rows = imported(file)
    assert [(row["item_id"], row["title"], row.get("note")) for row in rows] == [
        ("1", "Tasse à thé", "new"),
        ("2", None, None),
        ("30", "Pot", None),
    ]
    assert done.cleaned["bytes that are no text"] == 1


def test_a_map_of_facts_is_imported_as_attributes(folder):
    facts = pa.array([[("color", "red"), ("brand", "Acme")], None, []], pa.map_("string", "string"))
    rows = imported(write(folder, attributes=facts))[1]
    assert [row["attributes"] for row in rows] == [{"color": "red", "brand": "Acme"}, None, None]
