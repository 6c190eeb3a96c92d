"""Whole builds from synthetic files: every fault read or named, engine and row loop alike."""

import json
import shlex
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue.sources import amazon_scan
from grpo_mmpc.catalogue.sources.amazon_build import AmazonBuild, build_amazon
from grpo_mmpc.catalogue.sources.amazon_records import download_source, open_reviews, open_sources
from grpo_mmpc.catalogue.sources.amazon_synthetic import SyntheticFiles, write_synthetic
from grpo_mmpc.catalogue.sources.amazon_warts import ITEM_WARTS, REVIEW_WARTS
from grpo_mmpc.cli import main
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.recbench.interactions import filter_interactions, read_interactions
from grpo_mmpc.recbench.settings import InteractionsSection


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SyntheticFiles:
    return write_synthetic(tmp_path_factory.mktemp("amazon"), num_items=1800, num_reviews=18_000, seed=3)


def build(files: SyntheticFiles, out: Path, **options) -> AmazonBuild:
    reviews = open_reviews([str(file) for file in files.reviews])
    return build_amazon(open_sources(str(files.folder)), out=out, reviews=reviews, **options)


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_every_planted_fault_is_read_or_named_with_file_and_row(files, tmp_path):
    done = build(files, tmp_path)
    skipped = {(row["file"], row["row"]): row["reason"] for row in lines(tmp_path / "skipped.jsonl")}
    items = {row["item_id"] for row in lines(tmp_path / "items.jsonl")}
    damaged = {one.file for one in files.planted if one.wart == "truncated gzip"}
    whole = [one for one in files.planted if one.file not in damaged]
    planted = Counter(one.wart for one in whole if one.row is not None)
    assert planted.keys() >= {wart.name for wart in (*ITEM_WARTS, *REVIEW_WARTS)}
    for one in whole:
        assert ((one.file, one.row) in skipped) == (one.outcome == "skipped"), one
        if one.outcome == "read" and one.file.startswith("meta_") and one.item_id is not None:
            assert one.item_id in items, one
    assert {file for file, _ in skipped} >= damaged
    assert any("is damaged here" in reason for reason in skipped.values())
    unread = sum(file in damaged for file, _ in skipped)
    assert len(skipped) == sum(one.outcome == "skipped" for one in whole) + unread
    assert done.records_read == sum(done.items.values()) + len(done.skipped)
    reviews = done.reviews
    assert reviews.read == 18_000 == reviews.written + reviews.other_items + reviews.broken


def test_what_is_written_passes_the_strict_check(files, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["data", "amazon", str(files.folder), "--out", str(out), "--reviews", *map(str, files.reviews)]
    assert main(arguments) == 0
    assert main(["data", "validate", str(out), "--strict"]) == 0
    assert "nothing is broken" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{}, {"max_items": 7}, {"select": "cqbench", "max_items": 20}])
def test_the_engine_reads_what_the_row_loop_reads(files, tmp_path, monkeypatch, options):
    """The same files, byte for byte, where every row is left to the row loop."""
    build(files, tmp_path / "engine", **options)

    def leave_all(*_, **__):
        raise duckdb.IOException("cannot be read")

    monkeypatch.setattr(amazon_scan, "_fast", leave_all)
    build(files, tmp_path / "rows", **options)
    for name in ("items.jsonl", "skipped.jsonl", "interactions.parquet"):
        assert (tmp_path / "engine" / name).read_bytes() == (tmp_path / "rows" / name).read_bytes(), name


def test_the_same_arguments_give_the_same_folder(files, tmp_path):
    for name in ("first", "second"):
        build(files, tmp_path / name)
    for file in (tmp_path / "first").iterdir():
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name


def test_cqbench_takes_complete_items_by_the_hash_of_their_ids(files, tmp_path):
    done = build(files, tmp_path / "few", select="cqbench", max_items=5)
    assert set(done.items.values()) == {5} and len(done.items) == 9
    few = {row["item_id"] for row in lines(tmp_path / "few" / "items.jsonl")}
    build(files, tmp_path / "more", select="cqbench", max_items=30)
    more = lines(tmp_path / "more" / "items.jsonl")
    assert few < {row["item_id"] for row in more}
    assert all(row["title"] and row["image_url"] for row in more)


def test_the_benchmark_keeps_all_that_corrected_selection_wrote(files, tmp_path):
    done = build(files, tmp_path, select="recbench", max_items=20)
    categories = {row["item_id"]: row["category"] for row in lines(tmp_path / "items.jsonl")}
    raw = read_interactions(tmp_path, known_items=categories)
    for category in done.items:
        kept, counts = filter_interactions(raw, category=category, filter=InteractionsSection(), mode="corrected")
        assert counts.kept == counts.rows_read - counts.other_categories
        assert 0 < counts.users <= 20
        assert len(set(zip(kept.users.tolist(), kept.items.tolist(), strict=True))) == counts.kept
    rows = pq.read_table(tmp_path / "interactions.parquet").to_pylist()
    assert rows == sorted(rows, key=lambda row: (row["user_id"], row["timestamp"], row["item_id"]))
    assert {row["item_id"] for row in rows} == categories.keys()


def review(user: str, item: str, time: int, rating: float = 5.0) -> dict:
    return {"user_id": user, "parent_asin": item, "timestamp": 1_600_000_000_000 + time, "rating": rating}


def small(tmp_path: Path, reviews: list[dict], **options) -> list[tuple[str, str, int]]:
    """Select from these reviews and thirty complete items; return what is written."""
    item = {"title": "Mug", "images": [{"large": "https://x/a.jpg", "variant": "MAIN"}]}
    metadata, file = tmp_path / "meta_A.jsonl", tmp_path / "A.jsonl"
    metadata.write_text("".join(json.dumps(item | {"parent_asin": f"B{i}"}) + "\n" for i in range(30)))
    file.write_text("".join(json.dumps(row) + "\n" for row in reviews))
    out = tmp_path / "out"
    build_amazon(open_sources(str(metadata)), out=out, reviews=open_reviews([str(file)]), select="recbench", **options)
    if not (out / "interactions.parquet").exists():
        return []
    rows = pq.read_table(out / "interactions.parquet").to_pylist()
    return [(row["user_id"], row["item_id"], row["timestamp"] - 1_600_000_000_000) for row in rows]


def test_paper_mode_takes_the_first_twenty_good_ratings_of_users_with_five(tmp_path):
    busy = [review("U1", f"B{i}", 100 - i) for i in range(25)]  # the file has the latest first
    rare = [review("U2", f"B{i}", i) for i in range(4)] + [review("U2", "B9", 9, rating=3.0)]
    repeated = [review("U3", "B1", time) for time in (5, 5, 6, 7, 8, 9)]
    rows = small(tmp_path, [*busy, *rare, *repeated], mode="paper")
    assert rows == [
        *(("U1", f"B{i}", 100 - i) for i in range(19, -1, -1)),
        *(("U3", "B1", time) for time in (5, 6, 7, 8, 9)),  # a pair in training and in test: the protocol's flaw
    ]


def test_corrected_mode_takes_the_core_and_each_pair_once(tmp_path):
    core = [review(f"U{u}", f"B{i}", 10 * i + u) for u in range(5) for i in range(8)]
    again = [review("U0", "B0", 500), review("U0", "B1", -500)]  # of a pair the earliest counts
    lonely = [review("U0", "B20", 3)]  # an item of one user
    short = [review("U9", f"B{i}", i) for i in range(7)]  # a user of seven items
    rows = small(tmp_path, [*core, *again, *lonely, *short])
    expected = {(f"U{u}", f"B{i}", 10 * i + u) for u in range(5) for i in range(8)}
    assert set(rows) == expected - {("U0", "B1", 10)} | {("U0", "B1", -500)}
    assert rows[0] == ("U0", "B1", -500)  # by time within a user


def test_the_core_is_taken_until_nothing_changes(tmp_path):
    # B7 has five users, one of whom falls below eight items; then B7 falls, and with it everybody.
    users = [[f"B{i}" for i in range(8)] for _ in range(4)] + [["B7"]]
    rows = [review(f"U{u}", item, i) for u, items in enumerate(users) for i, item in enumerate(items)]
    assert small(tmp_path, rows) == []


def test_recbench_needs_reviews(tmp_path, capsys):
    (tmp_path / "meta_A.jsonl").write_text("{}\n")
    command = ["data", "amazon", str(tmp_path / "meta_A.jsonl"), "--out", str(tmp_path / "out"), "--select", "recbench"]
    assert main(command) == 2
    assert "give their reviews with --reviews" in capsys.readouterr().err


def test_the_data_card_counts_every_rule_and_names_the_sources(files, tmp_path):
    done = build(files, tmp_path, select="cqbench", max_items=5)
    card = json.loads((tmp_path / "data_card.json").read_text())
    assert [entry["rows"] for entry in card["item_filters"]] == sorted(
        (entry["rows"] for entry in card["item_filters"]), reverse=True
    )
    assert card["item_filters"][-1] == {"rule": "written", "rows": 45, "users": None, "items": None}
    names = {source["name"].partition("/")[0] for source in card["sources"]}
    assert names == {path.name for path in (*files.metadata, *files.reviews)}
    assert card["categories"] == done.items


def test_nothing_of_a_killed_build_is_left(files, tmp_path):
    left = tmp_path / ".amazon.partial"
    (left / "spill").mkdir(parents=True)
    (left / "work.duckdb").write_bytes(b"half a database")
    build(files, tmp_path, select="cqbench", max_items=1)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == [
        *("data_card.json", "images", "interactions.parquet", "items.jsonl", "skipped.jsonl")
    ]


def test_cleaned_cells_are_counted_by_what_was_removed(tmp_path):
    texts = ["Mug &amp; Cup", "<b>Mug</b>", "Mug  blue", "plain", "N/A", "CrÃ¨me", "Crème"]
    file = tmp_path / "meta_A.jsonl"
    images = [{"large": "https://x/a.jpg", "variant": "MAIN"}]
    rows = [{"parent_asin": f"B{i}", "title": text, "images": images} for i, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for select in (None, "cqbench"):
        done = build_amazon(open_sources(str(file)), out=tmp_path / str(select), select=select)
        missing = {} if select else {"words for a missing value": 1}
        assert done.cleaned == {"markup and entities": 2, "spaces and control characters": 1, **missing, "mojibake": 1}


def test_a_whole_file_of_the_hub_is_downloaded_and_its_revision_kept(tmp_path, monkeypatch):
    import huggingface_hub

    path = "raw/review_categories/A.jsonl"
    file = tmp_path / "snapshots" / "2b6d03" / path
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(review("U1", "B1", 0)) + "\n")
    asked = []

    def download(*names: str, repo_type: str) -> str:
        asked.append((*names, repo_type))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    [source] = map(download_source, open_reviews(["raw_review_A"]))
    assert asked == [("McAuley-Lab/Amazon-Reviews-2023", path, "dataset")]
    assert (source.files, source.revision) == ((file,), "2b6d03")


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    import huggingface_hub

    def download(*_: str, repo_type: str) -> str:
        raise ConnectionError("offline mode is enabled")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(CatalogueError, match=r"offline mode is enabled; .*download A\.jsonl\.gz yourself"):
        download_source(open_reviews(["raw_review_A"])[0])


def test_the_synthetic_command_writes_what_the_next_one_reads(tmp_path, capsys):
    for name in ("first", "second"):
        arguments = ["data", "synthetic", "--out", str(tmp_path / name), "--items", "90", "--reviews", "900"]
        assert main([*arguments, "--clean"]) == 0
    said = capsys.readouterr().out
    assert "90 metadata records and 900 reviews of nine categories" in said and "planted" not in said
    command = shlex.split(said.splitlines()[1].removeprefix("next: grpo-mmpc "))
    command[command.index("my_catalogue")] = str(tmp_path / "shop")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Records read: 90; items: 90;" in said and "Reviews read: 900; written to" in said
    assert (tmp_path / "shop" / "skipped.jsonl").read_text() == ""
    page = (tmp_path / "shop" / "data_card.html").read_text("utf-8")
    assert "metadata records" in page and "shop: where this catalogue comes from" in page
    for file in (tmp_path / "first").glob("*.*"):
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()  # same seed, same files
