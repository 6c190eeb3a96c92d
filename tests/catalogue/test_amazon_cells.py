"""SQL for cells of Amazon's files gives the values of the rules in Python."""

import itertools
import json

import pytest

from grpo_mmpc.catalogue.normalise import json_text
from grpo_mmpc.catalogue.sources.amazon_cells import (
    DRAFT_JOINS,
    REVIEW_CELLS,
    attributes,
    best_urls,
    review_columns,
)
from grpo_mmpc.catalogue.sources.amazon_engine import Engine, open_engine
from grpo_mmpc.catalogue.sources.amazon_items import image_urls, read_attributes
from grpo_mmpc.catalogue.sources.amazon_reviews import read_review

ROW_GROUP = 122_880


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with open_engine(tmp_path_factory.mktemp("engine"), tick=lambda: None) as engine:
        yield engine


def read(engine: Engine, column: str, cells: dict[str, object]) -> object:
    texts = {name: None if value is None else json_text(value) for name, value in cells.items()}
    [[value]] = engine.connection.execute(
        f"SELECT {column} FROM (SELECT $details::VARCHAR AS details, $store::VARCHAR AS store, "
        f"$images::VARCHAR AS images) r {DRAFT_JOINS}",
        {"details": None, "store": None, "images": None, **texts},
    ).fetchall()
    return value


ACME = {"Brand": "Acme", "Color": "Blue", "Size": "8 Ounce", "Material": "Oak"}


@pytest.mark.parametrize("as_text", [False, True], ids=["object", "text of one"])
@pytest.mark.parametrize("store", [None, "Hartwell", " Hart &amp; Well ", "nan", 7])
@pytest.mark.parametrize(
    "details",
    [
        None,
        {},
        ACME,
        {"Brand Name": "Second", "Brand": None, "Colour": "Teal", "Material Type": "Oak"},
        {"brand": "Acme", " COLOR ": "Blue", "\u3000Size": "XL", "\u017fize": "L"},
        {"Color": "Blue", "color": "Red"},
        {"Brand": "nan", "Color": "", "Size": 2.50, "Material": ["Oak"]},
        {"Brand": "Caf\u00c3\u00a9", "Color": "R&amp;B", "Size": '8"', "Material": "Oak\n"},
        {"Best Sellers Rank": {"Brand": 5}, "Color": "Blue"},
        {"Brand": '"Color":"Red"', "Color": "A  B"},
        [{"Brand": "Acme"}],
        5,
    ],
    ids=json_text,
)
def test_attributes_are_those_of_the_rule(engine, details, store, as_text):
    cell = json.dumps(details) if as_text else details
    facts = read_attributes({"details": cell, "store": store})
    assert read(engine, attributes(), {"details": cell, "store": store}) == (json_text(facts) if facts else None)


def test_attributes_of_a_name_given_twice_are_those_of_the_last_one(engine):
    twice = '{"Brand": "Acme", "Brand": "Zephyr"}'
    assert read(engine, attributes(), {"details": twice}) == '{"brand":"Zephyr"}'
    assert read(engine, attributes(), {"details": '{"Brand": "Acme"'}) is None


HIGH, LARGE = "https://images.example/high.jpg", "https://images.example/large.jpg"


@pytest.mark.parametrize(
    "images",
    [
        None,
        [],
        [{"variant": "MAIN", "hi_res": HIGH, "large": LARGE}],
        [{"variant": "MAIN", "hi_res": None, "large": LARGE, "thumb": "https://images.example/thumb.jpg"}],
        [{"variant": "PT01", "large": "https://images.example/side.jpg"}, {"variant": "MAIN", "large": LARGE}],
        [{"variant": "MAIN"}, {"variant": "PT01", "large": LARGE}],
        [{"variant": "MAIN", "hi_res": f" {HIGH} ", "large": LARGE}],
        [{"variant": "MAIN", "hi_res": "nan", "large": "None"}, {"hi_res": HIGH}],
        [{"variant": "MAIN", "hi_res": 5, "large": LARGE}, None, "x"],
        {"variant": ["MAIN", "PT01"], "hi_res": [None, HIGH], "large": [LARGE, LARGE]},
        {"variant": ["PT01", "MAIN"], "hi_res": [HIGH, None], "large": [None, LARGE]},
        {"hi_res": [HIGH], "large": []},
        "https://images.example/high.jpg",
    ],
    ids=json_text,
)
def test_addresses_are_those_of_the_rule(engine, images):
    assert read(engine, best_urls(), {"images": images}) == image_urls(images)


def test_a_review_that_the_engine_reads_is_that_of_the_rule(engine):
    users = ["AE1", 7, "A E1", "nan", "1" * 300, 1e-300, None]
    times = [1588687728923, "1588687728923", 4102444799999]
    other_times = ["1588687728923 5", " 1588687728923", "+1588687728923", "1.588687728923e12", "0400000000000"]
    times += [*other_times, 4102444800000, 9, "soon", None]
    ratings = [4, 5.0, "4.0", "4e0", "4 ", 55, None]
    ratings += ["null", "great", "5 5", " 4", "+4", ".4", "-1", "nan", "4.25"]
    reviews = list(itertools.product(users, ["B1", "B2", "no digit"], times, ratings))
    texts = [[json_text(cell) if isinstance(cell, int | float) else cell for cell in review] for review in reviews]
    engine.connection.execute(f"CREATE TABLE r ({', '.join(f'{name} VARCHAR' for name in REVIEW_CELLS)})")
    engine.connection.executemany("INSERT INTO r VALUES (?, ?, ?, ?)", texts)
    rows = engine.connection.execute(
        f"SELECT {review_columns()} FROM r LEFT JOIN (SELECT 'B1' AS item_id, 'B1' AS plain) known "
        "ON known.plain = r.parent_asin ORDER BY r.rowid"
    ).fetchall()
    for (user, item, time, rating), (*values, is_read) in zip(reviews, rows, strict=True):
        is_plain = user in users[:2] and time in times[:3] and rating in ratings[:7]
        assert is_read == (is_plain and item != "no digit"), (user, item, time, rating)
        if is_read:
            cells = {"user_id": user, "parent_asin": item, "timestamp": time, "rating": rating}
            expected = read_review(cells)._asdict()
            assert values[2:] == [expected["timestamp"], expected["rating"]]
            assert values[:2] == ([str(user), "B1"] if item == "B1" else [None, None])


def test_the_same_rows_are_the_same_parquet_whatever_a_table_was_made_of(engine, tmp_path):
    import pyarrow.parquet as pq

    count, written = 2 * ROW_GROUP + 1000, []
    for name, parts in (("one", [count]), ("several", [5000, ROW_GROUP, 70_000, count - ROW_GROUP - 75_000])):
        engine.run(f"CREATE OR REPLACE TABLE {name} (number BIGINT)")
        ends = list(itertools.accumulate(parts))
        for start, end in zip([0, *ends], ends, strict=False):
            engine.run(f"INSERT INTO {name} FROM range({start}, {end})")
        engine.run(f"DELETE FROM {name} WHERE number % 7 = 3")
        query = f"SELECT number, number % 5 AS rest FROM {name}"
        assert engine.write_parquet(query, to=tmp_path / name, repeated=["rest"]) == engine.count(name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    groups = pq.ParquetFile(tmp_path / "one").metadata
    rows = engine.count("one")
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [ROW_GROUP, rows - ROW_GROUP]
