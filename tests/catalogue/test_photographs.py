"""data import of a folder of photographs: every picture becomes an item or stands in a list."""

import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grpo_mmpc.catalogue.sources.importing import Imported, import_tables
from grpo_mmpc.catalogue.sources.opening import open_source
from grpo_mmpc.errors import CatalogueError

HEIC = b"\0\0\0\x18ftypheic" + bytes(99)
JPEG = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(JPEG, "JPEG")


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def written(folder: Path, **files: str | bytes | None) -> None:
    """Write files by name, a photograph of its own where the content is None."""
    for number, (name, content) in enumerate(files.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (8, 8), (number, 9, 9)).save(folder / name, "PNG")
        else:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def imported(source: Path, **options: Any) -> tuple[dict[str, dict], Imported]:
    out = source.parent / "out"
    done = import_tables(open_source(str(source)), out=out, **options)
    return {row["item_id"]: row for row in map(json.loads, (out / "items.jsonl").open())}, done


def titles(items: dict[str, dict]) -> dict[str, str | None]:
    return {item_id: item["title"] for item_id, item in items.items()}


def test_a_picture_of_a_format_that_is_not_read_is_listed_with_its_format(photos):
    unread = {"IMG_1.HEIC": HEIC, "d.svg": b"<svg/>", "e.pdf": b"%PDF-1.7", "f.NEF": b"II*\0"}
    written(photos, **{"a.png": None, "b.jfif": JPEG.getvalue(), "c.jpe": JPEG.getvalue(), "note.md": "x"}, **unread)
    items, done = imported(photos)
    assert list(items) == ["a", "b", "c"]
    assert [one.item_id for one in done.skipped] == list(unread)
    for one, kind in zip(
        done.image_failures, ("HEIC (a photo", "a drawing in SVG", "a PDF document", "raw file"), strict=True
    ):
        assert kind in one.reason


def test_a_text_of_a_photograph_s_name_is_its_title_and_another_is_no_table(photos):
    written(photos, **{"001.png": None, "001.txt": "a red mug, studio", "002.png": None, "readme.txt": "Our mugs\n"})
    items, done = imported(photos)
    assert titles(items) == {"001": "a red mug, studio", "002": None}
    assert [one.reason.partition(";")[0] for one in done.skipped] == [
        "readme.txt is neither metadata nor has a photograph's name"
    ]


def test_a_text_beside_photographs_whose_columns_are_a_table_s_is_one(photos):
    written(photos, **{"pictures/a.png": None, "list.txt": "sku\tname\timage\n1\tMug\tpictures/a.png\n"})
    items, _ = imported(photos)
    assert titles(items) == {"1": "Mug"}


def test_a_table_of_a_folder_below_is_not_passed_over_without_a_word(photos):
    written(photos, **{"pictures/a.png": None, "list/items.csv": "sku,name\n1,Mug\n"})
    _, done = imported(photos)
    assert done.skipped[0].reason.endswith("if it is a table of items, give it by name")


def test_each_folder_may_have_metadata_of_its_own_and_the_nearest_counts(photos):
    for split in ("test", "train"):
        written(
            photos / split, **{"1.png": None, "2.png": None, "metadata.csv": f"file_name,text\n1.png,Mug {split}\n"}
        )
    written(
        photos,
        **{"metadata.jsonl": '{"file_name": "test/1.png", "text": "Pan"}\n{"file_name": "test/2.png", "text": "Pot"}'},
    )
    items, done = imported(photos)
    assert titles(items) == {"test/1": "Mug test", "test/2": "Pot", "train/1": "Mug train", "train/2": None}
    assert [one.reason for one in done.skipped] == [
        "metadata.jsonl, row 1: test/1.png was named before; keep one row for each image"
    ]


def test_metadata_name_a_photograph_in_any_spelling_of_its_path(photos):
    written(photos, **dict.fromkeys((unicodedata.normalize("NFD", "café.png"), "in/a.png", "in/b.png", "c.png")))
    (photos / "d.png").symlink_to("c.png")
    rows = ["File Name,title", "café.png,1", "in\\a.png,2", "./in/b.png,3", "c.png,4", "d.png,5", ",6"]
    written(photos, **{"metadata.csv": "\n".join(rows)})
    items, done = imported(photos)
    assert sorted(title for title in titles(items).values() if title) == ["1", "2", "3", "4", "5"]
    assert [one.reason for one in done.skipped] == [
        "metadata.csv, row 6: File Name is empty or no text; name the photograph in it"
    ]


def test_metadata_that_name_no_photograph_are_refused_with_their_columns(photos):
    written(photos, **{"a.png": None, "metadata.csv": "photo,title\na.png,Mug\n"})
    with pytest.raises(
        CatalogueError, match=r"has no column file_name, which .*; it has: photo, title; rename the one"
    ):
        open_source(str(photos))


def test_a_column_of_metadata_does_not_take_the_place_of_the_photograph_nor_an_empty_cell_that_of_the_folder(photos):
    text = "file_name,image,label\na.png,in/b.png,Mugs\nin/b.png,,\n"
    written(photos, **{"a.png": None, "in/b.png": None, "metadata.csv": text})
    items, _ = imported(photos)
    for name, item in items.items():
        assert (photos.parent / "out" / item["image"]).read_bytes() == (photos / f"{name}.png").read_bytes()
    assert items["a"]["source_image"] == "in/b.png"
    assert {name: item["category"] for name, item in items.items()} == {"a": "Mugs", "in/b": "in"}


def test_photographs_of_one_name_are_told_apart_by_their_suffix(photos):
    written(photos, **{"a.jpg": JPEG.getvalue(), "a.png": None, "b.png": None, "b.pdf": b"%PDF-1.7"})
    items, _ = imported(photos)
    assert list(items) == ["a.jpg", "a.png", "b"]


@pytest.mark.parametrize(("there", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_image_of_a_given_folder_is_found_however_its_accents_are_composed(photos, there, asked):
    written(photos, **{unicodedata.normalize(there, "café.png"): None})
    name = unicodedata.normalize(asked, "café.png")
    written(
        photos.parent, **{"list.csv": f"id,image\n1,{name}\n2,https://x.example/{name}\n3,https://x.example/a.png\n"}
    )
    items, _ = imported(photos.parent / "list.csv", images_in=photos)
    assert list(items) == ["1", "2"]


def test_tables_of_one_stem_make_up_identifiers_that_differ(photos):
    import openpyxl

    book = openpyxl.Workbook()
    for row in (["name"], ["Pot"]):
        book.active.append(row)
    book.save(photos / "items.xlsx")
    written(photos, **{"items.csv": "name\nMug\n", "more.csv": "name\nPan\n"})
    items, _ = imported(photos)
    assert titles(items) == {"items.csv-1": "Mug", "items.xlsx-1": "Pot", "more-1": "Pan"}


def test_the_names_of_folders_of_parquet_are_columns_and_tell_files_of_one_name_apart(photos):
    from datasets import Dataset

    for folder in ("category=Mugs", "category=Pots%20%26%20Pans", "category=__HIVE_DEFAULT_PARTITION__", "_temporary"):
        (photos / folder).mkdir()
        Dataset.from_dict({"name": ["x"]}).to_parquet(str(photos / folder / "part-0.parquet"))
    items, _ = imported(photos)
    assert {item_id: item["category"] for item_id, item in items.items()} == {
        "category=Mugs/part-0.parquet-1": "Mugs",
        "category=Pots%20%26%20Pans/part-0.parquet-1": "Pots & Pans",
        "category=__HIVE_DEFAULT_PARTITION__/part-0.parquet-1": "products",
    }


def test_a_folder_without_a_table_or_a_photograph_is_refused_with_what_it_holds(photos):
    written(photos, **{"2024/items.csv": "name\nMug\n"})
    with pytest.raises(CatalogueError, match=r"no table; it holds 2024/items\.csv: give one of these by name"):
        open_source(str(photos))
