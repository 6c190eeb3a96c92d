"""Reviews of Amazon Reviews 2023 become interactions, with every dropped one counted."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.amazon_records import HUB_DATASET, AmazonSource, open_reviews
from grpo_mmpc.catalogue.sources.amazon_reviews import item_ids, write_reviews
from grpo_mmpc.errors import CatalogueError


def review(user: str | None = "AE1", item: str | None = "B1", **changes) -> dict:
    """A review as the JSONL files have it."""
    return {
        "rating": 4.0,
        "title": "Fine",
        "text": "Does what it should.",
        "images": [],
        "asin": "B0VARIANT",
        "parent_asin": item,
        "user_id": user,
        "timestamp": 1588687728923,
        "helpful_vote": 0,
        "verified_purchase": True,
        **changes,
    }


def source(*reviews: dict | str, name: str = "All_Beauty.jsonl") -> AmazonSource:
    """Reviews of one file; a text stands for a line that cannot be read, with that problem."""
    rows = [
        RawRow(row=row, problem=values) if isinstance(values, str) else RawRow(row=row, values=values)
        for row, values in enumerate(reviews, start=1)
    ]
    return AmazonSource(name=name, category=None, records=rows)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "interactions.jsonl").read_text("utf-8").splitlines()]


def test_a_review_becomes_an_interaction_with_its_parent_product(tmp_path):
    write_reviews([source(review())], out=tmp_path, known_items={"B1"})
    assert rows(tmp_path) == [{"user_id": "AE1", "item_id": "B1", "timestamp": 1588687728923, "rating": 4.0}]


def test_what_is_dropped_is_counted(tmp_path):
    done = write_reviews(
        [
            source(review(), review(item="B9"), review(item=None), review(user=None), "not JSON"),
            source(
                review(timestamp="soon"), review(rating="great"), review(user="AE2", rating=None), name="more.jsonl"
            ),
        ],
        out=tmp_path,
        known_items={"B1"},
    )
    assert (done.read, done.written, done.other_items, done.broken) == (8, 2, 1, 5)
    assert [(e.file, e.row, e.reason.partition(":")[0].partition(",")[0]) for e in done.examples] == [
        ("All_Beauty.jsonl", 3, "parent_asin is missing"),
        ("All_Beauty.jsonl", 4, "user_id is missing; remove the row or name the user"),
        ("All_Beauty.jsonl", 5, "not JSON"),
        ("more.jsonl", 1, "timestamp is 'soon'"),
        ("more.jsonl", 2, "rating is 'great'"),
    ]
    assert [row["rating"] for row in rows(tmp_path)] == [4.0, None]


def test_only_the_first_few_broken_reviews_are_kept_as_examples(tmp_path):
    done = write_reviews([source(*[review(user=None)] * 100)], out=tmp_path, known_items={"B1"})
    assert (done.broken, len(done.examples)) == (100, 5)


def test_repeated_reviews_are_all_written(tmp_path):
    """The reader of the file decides which of them count."""
    assert write_reviews([source(review(), review())], out=tmp_path, known_items={"B1"}).written == 2


def test_memory_does_not_grow_with_the_number_of_reviews(tmp_path):
    def many():
        for n in range(50_000):
            yield RawRow(row=n + 1, values=review(user=f"AE{n}", text="x" * 100))

    tracemalloc.start()
    try:
        stream = [AmazonSource(name="many", category=None, records=many())]
        assert write_reviews(stream, out=tmp_path, known_items={"B1"}).written == 50_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # the users' names alone are more than 2.5 MB


def test_an_interrupted_conversion_leaves_the_earlier_interactions(tmp_path):
    def broken():
        yield RawRow(row=1, values=review())
        raise KeyboardInterrupt

    (tmp_path / "interactions.jsonl").write_text("earlier\n")
    with pytest.raises(KeyboardInterrupt):
        write_reviews([AmazonSource(name="x", category=None, records=broken())], out=tmp_path, known_items={"B1"})
    assert [p.read_text() for p in tmp_path.iterdir()] == ["earlier\n"]


def test_where_no_review_is_written_there_is_no_file(tmp_path):
    assert write_reviews([source(review())], out=tmp_path, known_items={"B9"}).written == 0
    assert list(tmp_path.iterdir()) == []


def test_interactions_in_another_format_are_not_joined_by_a_second_file(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,rating\n")
    with pytest.raises(CatalogueError, match=r"holds interactions\.csv already; remove it"):
        write_reviews([source(review())], out=tmp_path, known_items={"B1"})


def test_items_are_those_that_the_conversion_wrote(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"item_id": "B1"}\n{"item_id": "B2"}\n')
    assert item_ids(tmp_path) == {"B1", "B2"}


# --- sources


@pytest.mark.parametrize("name", ["All_Beauty.jsonl", "All_Beauty.jsonl.gz"])
def test_a_file_is_read_gzipped_or_not(tmp_path, name):
    path = tmp_path / name
    lines = f"{json.dumps(review())}\n{{broken\n"
    path.write_bytes(gzip.compress(lines.encode()) if name.endswith("gz") else lines.encode())
    (found,) = open_reviews([str(path)])
    first, second = found.records
    assert (found.name, first.values) == (name, review())
    assert second.problem.startswith("line 2: not JSON")


def test_the_hub_is_streamed_line_by_line(monkeypatch):
    import datasets

    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return iter([{"text": json.dumps(review())}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (found,) = open_reviews(["raw_review_Video_Games"])
    assert calls == []
    assert [record.values for record in found.records] == [review()]
    file = f"hf://datasets/{HUB_DATASET}/raw/review_categories/Video_Games.jsonl"
    assert calls == [(("text",), {"data_files": file, "split": "train", "streaming": True})]


def test_an_unreachable_hub_says_what_to_do_instead(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("offline mode is enabled")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CatalogueError, match=r"offline mode is enabled; .*download A\.jsonl\.gz yourself"):
        next(iter(open_reviews(["raw_review_A"])[0].records))


def test_what_is_neither_file_nor_hub_name_is_refused(tmp_path):
    with pytest.raises(CatalogueError, match=r"nowhere\.jsonl is no file of reviews; expected <Category>\.jsonl"):
        open_reviews([str(tmp_path / "nowhere.jsonl")])
