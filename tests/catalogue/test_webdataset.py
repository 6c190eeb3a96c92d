"""data import of WebDatasets: which files of an archive are a sample, and what they say of it."""

import io
import json
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue.sources.importing import Imported, import_tables
from grpo_mmpc.catalogue.sources.opening import open_source

JPEG = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(JPEG, "JPEG")
PHOTO = JPEG.getvalue()


@pytest.fixture
def shard(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "shard.tar"


def packed(shard: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(shard, "w") as archive:
        for name, content in files:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return shard


def imported(shard: Path, **options: dict[str, list[str]]) -> tuple[dict[str, dict], Imported]:
    out = shard.parent / "out"
    done = import_tables(open_source(str(shard)), out=out, **options)
    return {row["item_id"]: row for row in map(json.loads, (out / "items.jsonl").open())}, done


def test_a_picture_of_a_format_that_is_not_read_is_listed_with_its_format(shard):
    packed(
        shard,
        *(("1.heic", b"\0\0\0\x18ftypheic" + bytes(99)), ("1.txt", b"Mug"), ("2.svg", b"<svg/>")),
        *(("3.jfif", PHOTO), ("3.caption.txt", b"Cup")),
    )
    items, done = imported(shard)
    assert {i: (item["title"], bool(item["image"])) for i, item in items.items()} == {
        "1": ("Mug", False),
        "3": ("Cup", True),
    }
    assert [one.item_id for one in done.image_failures] == ["1", "2"]
    assert "HEIC" in done.image_failures[0].reason and "SVG" in done.image_failures[1].reason
    assert [one.item_id for one in done.skipped] == ["2"]


def test_a_key_of_a_json_object_by_which_a_column_would_be_recognised_is_the_field_that_is_missing(shard):
    files = (
        ("1.jpg", PHOTO),
        ("1.json", b'{"caption": "Mug", "label": "Mugs", "brand": "Acme", "categories": ["A"]}'),
        ("2.txt", b"Pot"),
        ("2.json", b'{"caption": "a pot"}'),
        ("3.json", b'{"title": "Pan", "label": ["A"]}'),
    )
    items, _ = imported(packed(shard, *files))
    assert [(item["title"], item["category"]) for item in items.values()] == [
        ("Mug", "Mugs"),
        ("Pot", "products"),
        ("Pan", "products"),
    ]
    assert items["1"]["attributes"] == {"brand": "Acme"}
    assert imported(shard, chosen={"title": ["caption"]})[0]["2"]["title"] == "a pot"


@pytest.mark.parametrize("with_image", [True, False])
def test_an_image_that_a_json_object_names_is_the_sample_s_where_it_holds_none(shard, with_image):
    Image.new("RGB", (8, 8), "blue").save(shard.parent / "x.png")
    files = [("1.json", b'{"title": "Mug", "image": "x.png", "photo": "gone.png"}')]
    items, done = imported(packed(shard, *([("1.jpg", PHOTO)] if with_image else []), *files))
    name = items["1"]["image"]
    assert name.endswith(".jpg" if with_image else ".png")
    assert items["1"].get("source_image") == ("x.png" if with_image else None)
    assert len(done.image_failures) == (0 if with_image else 1)  # gone.png


def test_files_are_of_one_sample_however_their_path_is_spelled(shard):
    composed, parted = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    names = ("./1.jpg", "1.txt", "./x/2.jpg", "x//2.txt", f"{parted}.jpg", f"{composed}.txt")
    items, _ = imported(packed(shard, *((name, PHOTO if name.endswith("jpg") else b"Mug") for name in names)))
    assert {i: (item["title"], bool(item["image"])) for i, item in items.items()} == dict.fromkeys(
        ("1", "x/2", composed), ("Mug", True)
    )
