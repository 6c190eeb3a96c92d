"""What programs leave in exports: their errors, their lock files, formulas nobody computed."""

import json
from pathlib import Path

import openpyxl
import pytest
from PIL import Image

from grpo_mmpc.catalogue.sources.importing import import_tables
from grpo_mmpc.catalogue.sources.opening import open_source
from grpo_mmpc.errors import CatalogueError

SHADOW = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100)


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "shop"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red mug.png")
    return folder


def imported(source: Path) -> tuple[dict[str, dict], list[str]]:
    """Return the items by identifier, and the reasons of rows that are none."""
    out = source.parent / "out"
    done = import_tables(open_source(str(source)), out=out)
    return {row["item_id"]: row for row in map(json.loads, (out / "items.jsonl").open())}, [
        one.reason for one in done.skipped
    ]


def workbook(file: Path, *rows: list[object]) -> Path:
    book = openpyxl.Workbook()
    for row in (["id", "name", "note"], *rows):
        book.active.append(row)
    book.save(file)
    return file


@pytest.mark.parametrize("error", ["#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!"])
def test_an_error_of_a_spreadsheet_is_no_title(shop, error):
    (shop / "list.csv").write_text(f"id,name,image\n1,{error},red mug.png\n2,No. #N/A mug,\n")
    items, _ = imported(shop / "list.csv")
    assert [item["title"] for item in items.values()] == [None, "No. #N/A mug"]


def test_formulas_without_their_values_are_named_instead_of_read_as_empty(shop):
    file = workbook(shop / "list.xlsx", ["1", '=A2&" mug"', None], ["2", "Pan", "=A3"])
    with pytest.raises(CatalogueError, match=r"sheet Sheet: formulas without their values, 2 of them, such as in B2"):
        open_source(str(file))


def test_files_that_programs_put_beside_tables_and_photographs_are_passed_over(shop):
    workbook(shop / "list.xlsx", ["1", "Mug", None])
    (shop / "~$list.xlsx").write_bytes(b"\5user" + bytes(160))
    (shop / "._list.xlsx").write_bytes(SHADOW)
    assert [item["title"] for item in imported(shop)[0].values()] == ["Mug"]
    for file in shop.glob("*.xlsx"):
        file.unlink()
    (shop / ".thumbnails").mkdir()
    for name in ("._red mug.png", ".thumbnails/red mug.png"):
        (shop / name).write_bytes(SHADOW)
    assert [list(each) for each in imported(shop)] == [["red mug"], []]


def test_of_tables_of_several_formats_none_is_taken_for_the_whole(shop):
    (shop / "items.csv").write_text("id,name\n1,Mug\n")
    (shop / "old.jsonl").write_text('{"id": "9", "name": "Pot"}\n')
    with pytest.raises(CatalogueError, match=r"holds tables of several formats \(old.jsonl, items.csv\); give the one"):
        open_source(str(shop))


def test_texts_of_photographs_that_are_not_there_are_set_aside(shop):
    (shop / "metadata.csv").write_text("file_name,title\nred mug.png,Mug\ngone.png,Pot\nred mug.png,Pan\nx,Pot,Lid\n")
    items, reasons = imported(shop)
    assert {name: item["title"] for name, item in items.items()} == {"red mug": "Mug"}
    assert [reason.partition(";")[0] for reason in reasons] == [
        "metadata.csv, row 2: image gone.png does not exist",
        "metadata.csv, row 3: red mug.png was named before",
        "metadata.csv, row 4: line 5 has 3 cells, the header names 2",
    ]


def test_a_path_may_be_spelled_as_in_an_address_and_an_address_as_on_a_page(shop):
    (shop / "list.csv").write_text("id,name,image\n1,a,red%20mug.png\n2,b,//shop.example/x.jpg\n3,c,red mug.png\n")
    items, _ = imported(shop / "list.csv")
    assert [bool(item["image"]) for item in items.values()] == [True, False, True]
    assert [item["image_url"] for item in items.values()] == [None, "https://shop.example/x.jpg", None]


@pytest.mark.parametrize("name", ["items.ndjson", "ITEMS.JSONL"])
def test_the_other_names_of_json_lines_are_read_as_json_lines(shop, name):
    (shop / name).write_text('{"id": "1", "title": "Mug"}\n{"id": "2", "title": "Pot"}\n')
    items, reasons = imported(shop / name)
    assert {key: item["title"] for key, item in items.items()} == {"1": "Mug", "2": "Pot"} and not reasons


def test_an_image_that_is_named_twice_is_one_image(shop):
    row = {"id": "1", "title": "Mug", "image": {"src": "red mug.png"}, "images": [{"src": "red mug.png"}]}
    (shop / "items.jsonl").write_text(json.dumps(row))
    items, _ = imported(shop / "items.jsonl")
    assert len(items["1"]["images"]) == 1


def test_half_a_character_and_bottomless_objects_stop_no_other_row(shop):
    deep = '{"a":' * 900 + "1" + "}" * 900
    lines = ['{"id": "1", "title": "Mug", "note": "half \\ud83d", "no\\ud83d": "x"}', f'{{"id": "2", "note": {deep}}}']
    (shop / "items.jsonl").write_text("\n".join([*lines, '{"id": "3", "title": "Pot"}']))
    items, reasons = imported(shop / "items.jsonl")
    assert list(items) == ["1", "3"] and (items["1"]["note"], items["1"]["no?"]) == ("half ?", "x")
    assert reasons == ["a cell holds objects nested too deep to be written; make it flatter"]
