"""Amazon Reviews 2023 metadata becomes a catalogue folder, record by record."""

import gzip
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.amazon_build import build_amazon
from grpo_mmpc.catalogue.sources.amazon_items import image_name, image_urls, read_attributes
from grpo_mmpc.catalogue.sources.amazon_records import BENCHMARK_CATEGORIES, HUB_DATASET, AmazonSource, open_sources
from grpo_mmpc.cli import main
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.hashing import hex_digest

URL = "https://m.media-amazon.com/images/I/"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


def record(asin: str, **changes) -> dict:
    """A record as the JSONL files have it."""
    return {
        "main_category": "All Beauty",
        "title": f"Leather Conditioner {asin}",
        "average_rating": 4.8,
        "rating_number": 10,
        "features": [],
        "description": ["First paragraph.", "Second one."],
        "price": None,
        "images": [
            {"thumb": f"{URL}t.jpg", "large": f"{URL}l-pt.jpg", "variant": "PT01", "hi_res": f"{URL}h-pt.jpg"},
            {"thumb": f"{URL}t.jpg", "large": f"{URL}l.jpg", "variant": "MAIN", "hi_res": f"{URL}h.jpg"},
        ],
        "videos": [],
        "store": "Howard Products",
        "categories": [],
        "details": {"Color": "Brown", "Material": "Leather", "Size": "8 Ounce", "UPC": "617390882781"},
        "parent_asin": asin,
        **changes,
    }


def source(*records, name: str = "meta_All_Beauty.jsonl", category: str | None = "All_Beauty") -> AmazonSource:
    """Records of one file; a text stands for a line that cannot be read, with that problem."""
    rows = [
        RawRow(row=row, problem=values) if isinstance(values, str) else RawRow(row=row, values=values)
        for row, values in enumerate(records, start=1)
    ]
    return AmazonSource(name=name, category=category, records=rows)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text("utf-8").splitlines()]


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").save(out, "JPEG")
    return out.getvalue()


def test_a_record_becomes_an_item(tmp_path):
    build_amazon([source(record("B01CUPMQZE"))], out=tmp_path)
    assert rows(tmp_path) == [
        {
            "item_id": "B01CUPMQZE",
            "category": "All_Beauty",
            "title": "Leather Conditioner B01CUPMQZE",
            "description": "First paragraph.\nSecond one.",
            "image": None,
            "attributes": {"brand": "Howard Products", "color": "Brown", "size": "8 Ounce", "material": "Leather"},
            "image_url": f"{URL}h.jpg",
            "main_category": "All Beauty",
        }
    ]


def test_what_is_written_loads_as_a_catalogue(tmp_path):
    build_amazon([source(record("B1"), record("B2"))], out=tmp_path)
    catalogue = load_catalogue(tmp_path)
    assert [r.item_id for r in catalogue.records()] == ["B1", "B2"]
    assert catalogue.record(0).attributes["color"] == "Brown"
    assert not catalogue.quarantined


def test_without_a_name_for_the_source_the_main_category_counts(tmp_path):
    build_amazon([source(record("B1"), category=None)], out=tmp_path)
    assert rows(tmp_path)[0]["category"] == "All Beauty"


MAIN = {"hi_res": "h", "large": "l", "thumb": "t", "variant": "MAIN"}
OTHER = {"hi_res": "h2", "large": "l2", "thumb": "t2", "variant": "PT01"}


@pytest.mark.parametrize(
    ("images", "url"),
    [
        ([OTHER, MAIN], "h"),
        ([{**MAIN, "hi_res": None}, OTHER], "l"),
        ([OTHER, {**MAIN, "hi_res": None, "large": None}], "h2"),
        ([{"hi_res": None, "large": None, "thumb": "t", "variant": "MAIN"}], None),
        ([], None),
        (None, None),
        ("nonsense", None),
        ({k: [OTHER[k], MAIN[k]] for k in MAIN}, "h"),
        ({"hi_res": [None, None], "large": ["l2", "l"], "thumb": ["t2", "t"], "variant": ["PT01", "MAIN"]}, "l"),
        ({"hi_res": [], "large": [], "thumb": [], "variant": []}, None),
        ({"large": ["l"], "variant": []}, "l"),
    ],
)
def test_the_image_is_the_largest_of_the_main_image_in_either_form(images, url):
    assert image_urls(images)[:1] == ([url] if url else [])


@pytest.mark.parametrize(
    ("details", "store", "facts"),
    [
        ({"Brand": "Acme", "Color": "Red"}, "Acme Store", {"brand": "Acme", "color": "Red"}),
        ('{"Brand Name": "Acme", "Colour": " red "}', None, {"brand": "Acme", "color": "red"}),
        ({"Material Type": "Steel", "Size": 8}, "Shop", {"brand": "Shop", "size": "8", "material": "Steel"}),
        ("{broken", "Shop", {"brand": "Shop"}),
        ("None", None, {}),
        (None, None, {}),
        ({"Color": ["red"]}, None, {}),
    ],
)
def test_attributes_come_from_the_details_and_the_store(details, store, facts):
    assert read_attributes({"details": details, "store": store}) == facts


def test_a_record_that_cannot_become_an_item_is_written_down(tmp_path):
    done = build_amazon(
        [
            source(
                record("B1"),
                record(None),
                record("B2", title=" ", images=[]),
                record("B1", title="Again"),
                "line 5: not JSON",
                record("B3", title=None),
            )
        ],
        out=tmp_path,
    )
    assert [row["item_id"] for row in rows(tmp_path)] == ["B1"]
    needed = "one of them is needed to complete the other"
    assert [(q.row, q.item_id, q.reason) for q in done.skipped] == [
        (2, None, "parent_asin is missing: the item cannot be named"),
        (3, "B2", "neither title nor image"),
        (4, "B1", "parent_asin B1 was already read from meta_All_Beauty.jsonl row 1"),
        (5, None, "line 5: not JSON"),
        (6, "B3", f"neither title nor image; {needed} (its image was not downloaded)"),
    ]
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 5
    assert done.records_read == 6 == sum(done.items.values()) + len(done.skipped)


def test_no_record_is_read_beyond_the_wanted_number_of_items(tmp_path):
    read = []

    def endless(category):
        for i in range(1_000_000):
            read.append(i)
            yield RawRow(row=i + 1, values=record(f"{category}-{i}", parent_asin=None if i == 0 else f"{category}-{i}"))

    sources = [AmazonSource(name=c, category=c, records=endless(c)) for c in ("A", "B")]
    done = build_amazon(sources, out=tmp_path, max_items=3)
    assert done.items == {"A": 3, "B": 3}
    assert read == [0, 1, 2, 3] * 2


def test_categories_that_only_the_records_know_are_limited_too(tmp_path):
    records = [record(f"B{i}", main_category="Odd" if i % 2 else "Even") for i in range(10)]
    done = build_amazon([source(*records, category=None)], out=tmp_path, max_items=2)
    assert [row["item_id"] for row in rows(tmp_path)] == ["B0", "B1", "B2", "B3"]
    assert done.items == {"Even": 2, "Odd": 2}


# --- images


def test_images_are_fetched_checked_and_named_after_the_item(tmp_path):
    asked = []

    def fetch(downloads) -> dict[Path, str]:
        problems = {}
        for download in downloads:
            asked.append(download)
            if download.urls[-1].endswith("gone.jpg"):
                problems[download.file] = "HTTP status 404"
            else:
                download.file.write_bytes(jpeg())
        return problems

    def pictured(asin: str, name: str, **changes) -> dict:
        return record(asin, images=[{"large": URL + name, "hi_res": None, "variant": "MAIN"}], **changes)

    records = [pictured("B1", "x.jpg"), pictured("B2", "gone.jpg"), record("B4", images=[]), record("B5")]
    records.append(pictured("B6", "gone.jpg", title=None))
    done = build_amazon([source(*records)], out=tmp_path, fetch=fetch)
    assert [row["image"] for row in rows(tmp_path)] == ["images/B1.jpg", None, None, "images/B5.jpg"]
    assert asked[2].urls == (f"{URL}h.jpg", f"{URL}l.jpg")  # the next one where the largest is dead
    assert done.images == 2 and done.items == {"All_Beauty": 4}
    assert [(q.row, q.item_id, q.reason) for q in done.image_failures] == [
        (2, "B2", "HTTP status 404"),
        (5, "B6", "HTTP status 404"),
    ]
    assert [(q.row, q.item_id) for q in done.skipped] == [(5, "B6")]  # neither title nor image is left
    assert "its image was not downloaded" in done.skipped[0].reason
    assert len((tmp_path / "image_failures.jsonl").read_text().splitlines()) == 2


def test_an_interrupted_conversion_leaves_nothing_half_written(tmp_path):
    def fetch(downloads) -> dict[Path, str]:
        next(iter(downloads)).file.write_bytes(jpeg())
        raise KeyboardInterrupt

    (tmp_path / ".items.jsonl.0123.partial").write_text("of a process that was killed")
    with pytest.raises(KeyboardInterrupt):
        build_amazon([source(record("B1"), record("B2"))], out=tmp_path, fetch=fetch)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["images"]


def test_entities_and_tags_of_html_are_resolved(tmp_path):
    build_amazon(
        [
            source(
                record(
                    "B1",
                    title="Salt &amp; Pepper Mill, 6&quot; &#8211; Black",
                    description=["<p>Grinds <b>w</b>ell&nbsp;</p>", "for pots &lt; 20 cm<br/>and &amp;amp; more"],
                    store="Acme &amp; Sons",
                    details={"Color": "Black &amp; White"},
                )
            )
        ],
        out=tmp_path,
    )
    [row] = rows(tmp_path)
    assert row["title"] == 'Salt & Pepper Mill, 6" \u2013 Black'
    assert row["description"] == "Grinds well\nfor pots < 20 cm and & more"
    assert row["attributes"] == {"brand": "Acme & Sons", "color": "Black & White"}


def test_what_is_written_passes_its_own_check(tmp_path, capsys):
    path = tmp_path / "meta_A.jsonl"
    lines = [record("B1"), record("B2", title=None), record("B3", title="x" * 6000), record("B4", images=None)]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(json.dumps(line) for line in lines).encode())
    reviews = [
        {"user_id": "u", "parent_asin": "B1", "timestamp": t, "rating": 5}
        for t in (1588687728923, 1588687728, 1588687728923000)
    ]
    (tmp_path / "A.jsonl").write_text("\n".join(map(json.dumps, reviews)))
    out = tmp_path / "out"
    assert main(["data", "amazon", str(path), "--out", str(out), "--reviews", str(tmp_path / "A.jsonl")]) == 0
    assert main(["data", "validate", str(out), "--strict"]) == 0
    said = capsys.readouterr().out
    assert [row["item_id"] for row in rows(out)] == ["B1", "B4"]
    assert "written to" in said and "broken: 2" in said


@pytest.mark.parametrize(
    ("item_id", "url", "name"),
    [
        ("B1", "https://x/a.PNG?size=1", "images/B1.png"),
        ("B1", "https://x/a", "images/B1.jpg"),
        ("../../etc/x", "https://x/a.exe", f"images/______etc_x-{hex_digest('../../etc/x', size=4)}.jpg"),
    ],
)
def test_an_image_name_stays_in_its_folder(item_id, url, name):
    assert image_name(item_id, url) == name


# --- sources


def write_lines(path: Path, *lines: str) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_file_names_its_category_and_broken_lines_stand_where_they_were(tmp_path, suffix):
    path = write_lines(tmp_path / f"meta_Video_Games.{suffix}", json.dumps(record("B1")), "{broken", "", "[]")
    (found,) = open_sources(str(path))
    assert (found.name, found.category) == (path.name, "Video_Games")
    first, second, third = found.records
    assert first == RawRow(row=1, values=record("B1"))
    assert second.row == 2 and second.problem.startswith("line 2: not JSON")
    assert third == RawRow(row=3, problem="line 4: it holds no JSON object; write one object per line")


def test_a_file_of_another_name_takes_the_category_given(tmp_path):
    path = write_lines(tmp_path / "sample.jsonl", json.dumps(record("B1")))
    assert [s.category for s in open_sources(str(path))] == [None]
    assert [s.category for s in open_sources(str(path), categories=["Mine"])] == ["Mine"]
    with pytest.raises(CatalogueError, match="is one file, but 2 categories"):
        open_sources(str(path), categories=["A", "B"])


def test_a_folder_gives_the_wanted_categories(tmp_path):
    for name in ("meta_A.jsonl", "meta_B.jsonl.gz", "other.txt"):
        write_lines(tmp_path / name, json.dumps(record(name)))
    assert [s.category for s in open_sources(str(tmp_path))] == ["A", "B"]
    assert [s.category for s in open_sources(str(tmp_path), categories=["B"])] == ["B"]
    with pytest.raises(CatalogueError, match="has no file for C; found: A, B"):
        open_sources(str(tmp_path), categories=["C"])


def test_a_damaged_archive_gives_what_stands_before_the_damage_and_says_so(tmp_path):
    path = write_lines(tmp_path / "meta_A.jsonl.gz", *(json.dumps(record(str(i))) for i in range(500)))
    path.write_bytes(path.read_bytes()[:-400])
    *whole, last = open_sources(str(path))[0].records
    assert len(whole) > 100 and all(row.problem is None for row in whole)
    assert last.row == len(whole) + 1
    assert last.problem.startswith("meta_A.jsonl.gz is damaged here, and nothing behind it is read: ")


@pytest.mark.parametrize("damage", ["byte order mark", "wrong byte", "packed without suffix", "suffix without packing"])
def test_a_file_is_read_for_what_it_is(tmp_path, damage):
    text = "".join(json.dumps(record(f"B{i}")) + "\n" for i in range(3)).encode()
    name, content, good = "meta_A.jsonl", text, 3
    if damage == "byte order mark":
        content = b"\xef\xbb\xbf" + text
    elif damage == "wrong byte":
        content, good = text.replace(b"Conditioner B1", b"Conditioner \xff"), 2
    elif damage == "packed without suffix":
        content = gzip.compress(text)
    else:
        name = "meta_A.jsonl.gz"
    (tmp_path / name).write_bytes(content)
    records = list(open_sources(str(tmp_path / name))[0].records)
    assert [row.row for row in records] == [1, 2, 3]
    assert sum(row.problem is None for row in records) == good
    assert all(row.problem is None or "not UTF-8" in row.problem for row in records)


def test_the_parquet_files_of_the_hub_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = record(
        "B1",
        details='{"Color": "Brown"}',
        images={"hi_res": [None, "h"], "large": ["l", "m"], "variant": ["MAIN", "PT01"]},
    )
    folder = tmp_path / "raw_meta_All_Beauty"
    folder.mkdir()
    for part in range(2):
        table = pa.Table.from_pylist([{**row, "parent_asin": f"B{part}"}])
        pq.write_table(table, folder / f"full-0000{part}-of-00002.parquet")
    (found,) = open_sources(str(folder))
    assert found.category == "All_Beauty"
    done = build_amazon([found], out=tmp_path / "out")
    assert done.items == {"All_Beauty": 2} and not done.skipped
    assert rows(tmp_path / "out")[1]["attributes"] == {"brand": "Howard Products", "color": "Brown"}
    assert rows(tmp_path / "out")[1]["image_url"] == "l"


def test_what_is_neither_file_nor_hub_name_is_refused():
    with pytest.raises(CatalogueError, match="nowhere is neither a file nor a folder; expected meta_<Category>"):
        open_sources("nowhere")


def test_the_hub_is_streamed_line_by_line(monkeypatch):
    import datasets

    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return iter([{"text": json.dumps(record("B1"))}, {"text": "{broken"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (found,) = open_sources("raw_meta_All_Beauty")
    assert calls == []
    first, second = found.records
    assert first.values["parent_asin"] == "B1"
    assert second.problem.startswith("line 2: not JSON")
    file = f"hf://datasets/{HUB_DATASET}/raw/meta_categories/meta_All_Beauty.jsonl"
    assert calls == [(("text",), {"data_files": file, "split": "train", "streaming": True})]


def test_the_reader_that_the_hub_uses_gives_one_line_a_row(tmp_path):
    import datasets

    path = write_lines(tmp_path / "meta_A.jsonl", json.dumps(record("B1", title="a\u2028b")), json.dumps(record("B2")))
    stream = datasets.load_dataset("text", data_files=str(path), split="train", streaming=True)
    assert [json.loads(row["text"])["parent_asin"] for row in stream] == ["B1", "B2"]


def test_the_hub_data_set_means_the_nine_benchmark_categories():
    assert [s.category for s in open_sources(HUB_DATASET)] == list(BENCHMARK_CATEGORIES)
    assert len(BENCHMARK_CATEGORIES) == 9
    assert [s.category for s in open_sources(HUB_DATASET, categories=["Software"])] == ["Software"]


def test_an_unreachable_hub_says_what_to_do_instead(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("offline mode is enabled")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CatalogueError, match=r"offline mode is enabled; .*download meta_A\.jsonl\.gz yourself"):
        next(iter(open_sources("raw_meta_A")[0].records))
