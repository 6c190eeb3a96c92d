"""Items are checked by columns to the same cells, reasons and warnings as one by one."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_mmpc.catalogue.item_batches import checked_items
from grpo_mmpc.catalogue.records import CORE_COLUMNS, read_core
from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.tables import open_table

SCHEMA = pa.schema(dict.fromkeys(CORE_COLUMNS, pa.string()))
NAMES = [
    "a",
    "a b",
    "a  b",
    " a",
    "ü",
    "N/A",
    "nan",
    "",
    "x" * 5001,
    "a\u200b",
    None,
    7,
    7.0,
    True,
    [1],
    2**70,
    math.nan,
]
CELLS = {
    "item_id": st.sampled_from(NAMES),
    "category": st.sampled_from(["Kitchen", "Kitchen\n", "Ki  tchen", None, 5]),
    "title": st.sampled_from(NAMES),
    "description": st.sampled_from(["One.  Two.", " x", "a\nb", ["a", "b"], ["", 1], {}, None, "null", "x" * 6000, 3]),
    "image": st.sampled_from(
        [
            *(
                "images/a.png",
                "a..b.png",
                "a/../b.png",
                "../a.png",
                "/a.png",
                "C:a.png",
                "a//b.png",
                ".a.png",
                "./a.png",
            ),
            *("http://a.b/c.png", "data:x", "a\\b.png", "null", "a b.png", "x" * 5001, "a/", "-a.png", None, 1),
        ]
    ),
    "attributes": st.sampled_from(
        [None, {}, {"color": "red", "size": 1}, {"color": {}}, {" a ": ["b", "c"]}, '{"a": "b"}', "{", "nan", 3, [1]]
    ),
}


def one_by_one(table):
    good, broken, warnings = [], [], []
    for raw in table.rows():
        try:
            core = read_core(raw.cells())
        except RowError as error:
            broken.append(raw.set_aside(error, file=table.path.name))
            continue
        good.append(core.cells)
        if core.warning:
            warnings.append(f"{table.path.name} row {raw.row} ({core.cells['item_id']}): {core.warning}")
    return good, broken, warnings


def assert_same(path):
    table = open_table(path)
    batches = list(checked_items(table, SCHEMA))
    good = [row for batch in batches for row in batch.items.to_pylist()]
    broken = [row for batch in batches for row, _ in batch.set_aside]
    warnings = [text for batch in batches for text in batch.warnings]
    assert (good, broken, warnings) == one_by_one(table)
    assert sum(batch.read for batch in batches) == len(good) + len(broken)
    return good, broken


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=4))
def test_cells_of_every_kind_in_json_lines(tmp_path, rows):
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "[]\n", "utf-8")
    assert_same(tmp_path / "items.jsonl")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=4))
def test_cells_of_every_kind_in_csv(tmp_path, rows):
    lines = [",".join(json.dumps("" if cell is None else str(cell)) for cell in row.values()) for row in rows]
    (tmp_path / "items.csv").write_text("\n".join([",".join(CELLS), *lines, "u,i"]) + "\n", "utf-8")
    assert_same(tmp_path / "items.csv")


GOOD = {"item_id": ["a", "b"], "category": ["c", "c"], "title": ["t", "t"], "image": ["a.png", "b.png"]}


@pytest.mark.parametrize(
    ("column", "cells", "broken"),
    [
        ("item_id", pa.array([12, 13]), 0),
        ("item_id", pa.array(["u", None], pa.large_string()), 1),
        ("item_id", pa.array([12.0, None]), 1),
        ("category", pa.array(["u", "v"]).dictionary_encode(), 0),
        ("category", pa.array([b"a", b"\xff"]), 1),
        ("title", pa.nulls(2), 0),
        ("image", pa.nulls(2), 0),
        ("title", pa.array([True, None]), 1),
        ("description", pa.array([["a", "b"], None]), 0),
        ("attributes", pa.array([{"a": 1, "b": None}, None]), 0),
        ("attributes", pa.array([[("a", "b")], None], pa.map_(pa.string(), pa.string())), 0),
    ],
)
def test_typed_columns_of_parquet(tmp_path, column, cells, broken):
    pq.write_table(pa.table({**GOOD, column: cells}), tmp_path / "items.parquet")
    assert len(assert_same(tmp_path / "items.parquet")[1]) == broken


def test_a_row_needs_a_title_or_an_image_of_its_own(tmp_path):
    pq.write_table(pa.table({**GOOD, "title": ["t", None], "image": [None, None]}), tmp_path / "items.parquet")
    good, [broken] = assert_same(tmp_path / "items.parquet")
    assert [row["item_id"] for row in good] == ["a"]
    assert (broken.row, broken.reason) == (2, "neither title nor image; one of them is needed to complete the other")
