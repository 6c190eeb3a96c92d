"""Reviews of Amazon Reviews 2023 become interactions, with every dropped one counted."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.amazon_build import ReviewCounts, build_amazon
from grpo_mmpc.catalogue.sources.amazon_records import HUB_DATASET, AmazonSource, open_reviews
from grpo_mmpc.catalogue.sources.amazon_reviews import refuse_other_interactions
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


def convert(*reviews: AmazonSource, out: Path, known: tuple[str, ...] = ("B1",)) -> ReviewCounts:
    """Convert reviews of a catalogue of these items."""
    metadata = [
        RawRow(row=row, values={"parent_asin": item, "title": "Soap"}) for row, item in enumerate(known, start=1)
    ]
    items = AmazonSource(name="meta_A.jsonl", category="A", records=metadata)
    return build_amazon([items], out=out, reviews=reviews).reviews


def rows(folder: Path) -> list[dict]:
    return pq.read_table(folder / "interactions.parquet").to_pylist()


def test_a_review_becomes_an_interaction_with_its_parent_product(tmp_path):
    convert(source(review()), out=tmp_path)
    assert rows(tmp_path) == [{"user_id": "AE1", "item_id": "B1", "timestamp": 1588687728923, "rating": 4.0}]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_a_rating_only_file_is_read_packed_or_not(tmp_path, packing):
    table = b"user_id,parent_asin,rating,timestamp\r\nAE1,B1,4.0,1588687728923\r\nAE2,B9,1.0,1588687728924\r\nhalf,B"
    path = tmp_path / f"All_Beauty.csv{packing}"
    with pa.output_stream(str(path), compression={".gz": "gzip", ".zst": "zstd"}.get(packing)) as file:
        file.write(table)
    done = convert(*open_reviews([str(path)]), out=tmp_path / "out")
    assert (done.read, done.written, done.other_items, done.broken) == (3, 1, 1, 1)
    assert rows(tmp_path / "out") == [{"user_id": "AE1", "item_id": "B1", "timestamp": 1588687728923, "rating": 4.0}]


def test_what_is_dropped_is_counted_and_named(tmp_path):
    done = convert(
        source(review(), review(item="B9"), review(item=None), review(user=None), "not JSON"),
        source(review(timestamp="soon"), review(rating="great"), review(user="AE2", rating=None), name="more.jsonl"),
        out=tmp_path,
    )
    assert (done.read, done.written, done.other_items, done.broken) == (8, 2, 1, 5)
    named = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(e["file"], e["row"], e["reason"].partition(":")[0].partition(",")[0]) for e in named] == [
        ("All_Beauty.jsonl", 3, "parent_asin is missing"),
        ("All_Beauty.jsonl", 4, "user_id is missing; remove the row or name the user"),
        ("All_Beauty.jsonl", 5, "not JSON"),
        ("more.jsonl", 1, "timestamp is 'soon'"),
        ("more.jsonl", 2, "rating is 'great'"),
    ]
    assert [row["rating"] for row in rows(tmp_path)] == [4.0, None]


def test_only_the_first_few_broken_reviews_are_kept_as_examples(tmp_path):
    done = convert(source(*[review(user=None)] * 100), out=tmp_path)
    assert (done.broken, len(done.examples)) == (100, 5)


def test_repeated_reviews_are_all_written(tmp_path):
    """The reader of the file decides which of them count."""
    assert convert(source(review(), review()), out=tmp_path).written == 2


def test_an_interrupted_conversion_leaves_the_earlier_interactions(tmp_path):
    def broken():
        yield RawRow(row=1, values=review())
        raise KeyboardInterrupt

    (tmp_path / "interactions.parquet").write_text("earlier")
    with pytest.raises(KeyboardInterrupt):
        convert(AmazonSource(name="x", category=None, records=broken()), out=tmp_path)
    assert (tmp_path / "interactions.parquet").read_text() == "earlier"
    assert list(tmp_path.glob(".*")) == []


def test_where_no_review_is_written_there_is_no_file(tmp_path):
    assert convert(source(review(item="B9")), out=tmp_path).written == 0
    assert not (tmp_path / "interactions.parquet").exists()


def test_interactions_in_another_format_are_not_joined_by_a_second_file(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,rating\n")
    with pytest.raises(CatalogueError, match=r"holds interactions\.csv already; remove it"):
        refuse_other_interactions(tmp_path)


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
