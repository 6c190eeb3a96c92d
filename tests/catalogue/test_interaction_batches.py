"""Interactions are checked by columns to the same rows and reasons as one by one."""

import json
import math
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_mmpc.catalogue.interaction_batches import checked_batches
from grpo_mmpc.catalogue.interactions import COLUMNS, open_interactions, read_interaction
from grpo_mmpc.catalogue.rows import RowError

MS = 1_600_000_000_000
CELLS = {
    "user_id": st.sampled_from(
        ["u", "u v", "u  v", " u", "ü", "N/A", "", "x" * 5001, None, 7, 7.0, True, [1], "a\u200b"]
    ),
    "item_id": st.sampled_from(["i", "i\n", "null", "\u200b", 0, -1, 2**70, 1.5, False]),
    "timestamp": st.sampled_from(
        [MS, float(MS), str(MS), f" {MS} ", "1.6e12", -1, 1.5, 2**63, 2.0**60, "9" * 19, None]
    ),
    "rating": st.sampled_from([5, 4.5, "4.5", "", None, "great", math.inf, "1e400", True, 2**60 + 1, " 3 ", "-1"]),
}


def one_by_one(folder):
    """The usable rows and the broken ones, by the rule for one row."""
    good, broken = [], []
    for raw in open_interactions(folder).rows():
        try:
            good.append((raw.row, *read_interaction(raw.cells())))
        except RowError as error:
            broken.append(raw.set_aside(error, file=open_interactions(folder).path.name))
    return [(*row[:4], math.nan if row[4] is None else row[4]) for row in good], broken


def by_columns(folder):
    good, broken = [], []
    for batch in checked_batches(open_interactions(folder)):
        columns = (batch.user_ids.to_pylist(), batch.item_ids.to_pylist(), batch.timestamps.tolist())
        good += list(zip(batch.rows.tolist(), *columns, batch.ratings.tolist(), strict=True))
        broken += batch.broken
        assert batch.read == len(batch.rows) + len(batch.broken)
    return good, broken


def assert_same(folder):
    (good, broken), (expected, expected_broken) = by_columns(folder), one_by_one(folder)
    assert repr(good) == repr(expected)  # NaN included
    assert broken == expected_broken
    return good, broken


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=4))
def test_cells_of_every_kind_in_json_lines(tmp_path, rows):
    (tmp_path / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert_same(tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=4))
def test_cells_of_every_kind_in_csv(tmp_path, rows):
    lines = [",".join(json.dumps("" if cell is None else str(cell)) for cell in row.values()) for row in rows]
    (tmp_path / "interactions.csv").write_text("\n".join([",".join(COLUMNS), *lines, "u,i"]) + "\n", "utf-8")
    assert_same(tmp_path)


GOOD = {"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": [MS, MS + 1], "rating": [4.0, None]}


@pytest.mark.parametrize(
    ("column", "cells", "broken"),
    [
        ("user_id", pa.array([12, 13]), 0),
        ("user_id", pa.array(["u", "v"]).dictionary_encode(), 0),
        ("user_id", pa.array(["u", None], pa.large_string()), 1),
        ("user_id", pa.array([12.0, None]), 1),
        ("item_id", pa.array([b"a", b"\xff"]), 1),
        ("timestamp", pa.array([MS / 1.0, MS + 0.5]), 1),
        ("timestamp", pa.array([MS, -1]), 1),
        ("timestamp", pa.array([MS, 2**63], pa.uint64()), 1),
        ("timestamp", pa.array([datetime(2020, 1, 1), None], pa.timestamp("ns")), 1),
        ("timestamp", pa.array([datetime(2020, 1, 1, 0, 0, 0, 1501)] * 2, pa.timestamp("us")), 0),
        ("timestamp", pa.array([datetime(2020, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("s", "UTC")), 0),
        ("timestamp", pa.array([datetime(1960, 1, 1)] * 2, pa.timestamp("s")), 2),
        ("rating", pa.nulls(2), 0),
        ("rating", pa.array([1, 2**60 + 1]), 0),
        ("rating", pa.array([math.nan, math.inf]), 1),
        ("rating", pa.array([Decimal("4.5"), None]), 0),
        ("rating", pa.array([True, None]), 1),
    ],
)
def test_typed_columns_of_parquet(tmp_path, column, cells, broken):
    pq.write_table(pa.table({**GOOD, column: cells}), tmp_path / "interactions.parquet")
    assert len(assert_same(tmp_path)[1]) == broken


def test_rows_are_numbered_through_batches(tmp_path):
    columns = {name: cells[:1] * 10_000 for name, cells in GOOD.items()}
    columns["timestamp"] = [None if row in (0, 4096, 9999) else MS for row in range(10_000)]
    pq.write_table(pa.table(columns), tmp_path / "interactions.parquet", row_group_size=3000)
    good, broken = assert_same(tmp_path)
    assert [row.row for row in broken] == [1, 4097, 10_000]
    assert np.diff([row[0] for row in good]).tolist().count(2) == 1  # over row 4097
