"""Whatever stands in a row, it becomes an item or a reason, and no row is lost."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.catalogue.records import CORE_COLUMNS, read_core
from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.sources.amazon_items import image_urls, read_item
from grpo_mmpc.catalogue.sources.markup import without_markup
from grpo_mmpc.catalogue.sources.opening import open_source
from grpo_mmpc.errors import CatalogueError

TEXT = st.text(max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ROW = st.fixed_dictionaries({}, optional=dict.fromkeys((*CORE_COLUMNS, "shelf"), VALUE | TEXT))
RECORD = st.dictionaries(
    st.sampled_from(["parent_asin", "title", "main_category", "images", "description", "details", "store"]), VALUE
)


@given(ROW)
def test_a_row_becomes_core_cells_of_text_or_a_reason(row):
    try:
        cells = read_core(row).cells
    except RowError as reason:
        assert str(reason)
        return
    assert cells["item_id"] and cells["category"] and (cells["title"] or cells["image"])
    assert all(value is None or (value.strip() and value.encode()) for value in cells.values())


@given(st.lists(ROW | VALUE | TEXT, min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_no_row_of_a_file_is_lost(rows):
    header = {"item_id": "first", "category": "c", "title": "t", "description": None, "image": None, "attributes": None}
    lines = [header, *rows]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        catalogue = load_catalogue(folder)
        assert len(catalogue) + len(catalogue.quarantined) == catalogue.rows_read == len(lines)
        assert len({q.row for q in catalogue.quarantined}) == len(catalogue.quarantined)


@given(RECORD)
def test_a_record_of_amazon_becomes_an_item_or_a_reason(record):
    try:
        item = read_item(record, category=None)
    except RowError as reason:
        assert str(reason)
        return
    assert item["item_id"] and item["category"] and (item["title"] or image_urls(record["images"]))


@given(st.binary(max_size=60) | st.text(alphabet='ab,;|"\n\r\t\0\ufeff\u00e9', max_size=60).map(str.encode))
@settings(max_examples=60, deadline=None)
def test_any_file_named_csv_is_read_row_by_row_or_refused_in_words(content):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "items.csv"
        path.write_bytes(content)
        try:
            [table] = open_source(str(path))
            rows = list(table.rows())
        except CatalogueError as reason:
            assert "items.csv" in str(reason)
            return
    assert [row.row for row in rows] == list(range(1, len(rows) + 1))
    assert all(row.problem or set(row.values) == set(table.columns) for row in rows)


@given(st.text(alphabet="<>&;/abpi \"'=#xlt3amp!-", max_size=60))
def test_markup_is_taken_out_once_and_for_all(text):
    plain = without_markup(text)
    assert "<br>" not in plain and "<b>" not in plain
