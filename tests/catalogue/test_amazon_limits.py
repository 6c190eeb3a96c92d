"""Files of Amazon Reviews 2023 that could fill memory: long lines, long texts, repeated texts."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue.sources import amazon_engine
from grpo_mmpc.catalogue.sources.amazon_build import build_amazon
from grpo_mmpc.catalogue.sources.amazon_records import form_of, open_reviews, open_sources, unpacked_lines
from grpo_mmpc.cli import main
from grpo_mmpc.utils import parquet

MIB = 1 << 20


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


def line(asin: str, *, length: int = 0, description: str = "Blue.") -> bytes:
    """A record, of so many bytes with its line break."""
    values = {"parent_asin": asin, "title": "Red Mug", "images": [], "description": [description], "x": ""}
    text = json.dumps(values)
    return (text[:-2] + "a" * (length - len(text) - 1) + text[-2:] + "\n").encode()


def packed(path: Path, content: bytes) -> Path:
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            out.write(content)
    else:
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def written(folder: Path) -> list[dict]:
    return [json.loads(text) for text in (folder / "items.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_line_beyond_32_mib_is_set_aside_and_rows_behind_it_keep_their_numbers(tmp_path, suffix):
    lines = [line("B1"), line("B2", length=32 * MIB), line("B3", length=32 * MIB + 1), b"{broken\n", line("B5")]
    path = packed(tmp_path / f"meta_Toys{suffix}", b"".join(lines))
    done = build_amazon(open_sources(str(path)), out=tmp_path / "out")
    assert [item["item_id"] for item in written(tmp_path / "out")] == ["B1", "B2", "B5"]
    assert [(one.file, one.row) for one in done.skipped] == [(path.name, 3), (path.name, 4)]
    assert done.skipped[0].reason == "line 3: longer than 32 MiB; shorten it, or break it into records"
    with unpacked_lines(path, form_of(path).packing) as read:
        assert [len(one) for one in read] == [len(lines[0]), 32 * MIB, 32 * MIB + 1, 8, len(lines[4])]


def test_a_long_cell_of_csv_is_set_aside(tmp_path):
    user = "A" * (2 * MIB)
    (tmp_path / "Toys.csv").write_text(f"user_id,parent_asin,rating,timestamp\n{user},B1,5.0,1588687728923\n")
    metadata = packed(tmp_path / "meta_Toys.jsonl", line("B1"))
    reviews = open_reviews([str(tmp_path / "Toys.csv")])
    done = build_amazon(open_sources(str(metadata)), out=tmp_path / "out", reviews=reviews)
    assert (done.reviews.read, done.reviews.written, done.reviews.broken) == (1, 0, 1)


def long_records(path: Path) -> list[str]:
    """Write 2,048 records whose descriptions differ, 4 kB each, which the engine takes at once."""
    texts = [f"{number} " + "word " * 800 + "&amp; end" for number in range(2048)]
    packed(path, b"".join(line(f"B{number}", description=text) for number, text in enumerate(texts)))
    return [text.replace("&amp;", "&") for text in texts]


def test_long_descriptions_take_more_memory_for_their_statement_only(tmp_path, monkeypatch):
    monkeypatch.setattr(amazon_engine, "_MOST_THREADS", 1)
    monkeypatch.setattr(amazon_engine, "_MB_A_THREAD", 50)
    texts = long_records(tmp_path / "meta_Toys.jsonl")
    done = build_amazon(open_sources(str(tmp_path / "meta_Toys.jsonl")), out=tmp_path / "out")
    assert [item["description"] for item in written(tmp_path / "out")] == texts
    assert done.cleaned == {"markup and entities": 2048}  # once each, although a statement was run again


def test_memory_that_does_not_suffice_is_refused_in_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(amazon_engine, "_MOST_THREADS", 1)
    monkeypatch.setattr(amazon_engine, "_MB_A_THREAD", 50)
    monkeypatch.setattr(amazon_engine, "_MOST_MB", 50)
    long_records(tmp_path / "meta_Toys.jsonl")
    assert main(["data", "amazon", str(tmp_path / "meta_Toys.jsonl"), "--out", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "out cannot be built: 2,048 records at once need more memory than the 50 MB" in said
    assert "shorten the longest texts of the source" in said
    assert not (tmp_path / "out" / "items.jsonl").exists()


def test_a_parquet_file_that_repeats_one_long_text_is_read_as_far_as_its_size_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_FREE_BYTES", 100_000)
    description = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["m" * 10_000])
    names = [f"B{number}" for number in range(1000)]
    table = {"parent_asin": names, "title": ["Red Mug"] * 1000, "description": description, "images": ["[]"] * 1000}
    pq.write_table(pa.table(table), tmp_path / "meta_Toys.parquet", compression="zstd", store_schema=False)
    done = build_amazon(open_sources(str(tmp_path / "meta_Toys.parquet")), out=tmp_path / "out")
    [one] = done.skipped
    assert 0 < done.items["Toys"] < 1000 and one.row == done.items["Toys"] + 1
    assert "unpacks to more than 100 times its size" in one.reason
