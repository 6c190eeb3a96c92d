"""grpo-mmpc data import: what a shop's export or any table becomes, and what is set aside."""

import argparse
import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.catalogue.sources.cleaning import cleaned
from grpo_mmpc.catalogue.sources.listing import several
from grpo_mmpc.cli.data import add_parser
from grpo_mmpc.errors import CatalogueError

_SHOPIFY = "Handle,Title,Body (HTML),Vendor,Type,Option1 Name,Option1 Value,Variant SKU,Variant Image,Image Src"
SHOPIFY = f"""{_SHOPIFY},Image Position
mug,Mug,<p>Holds&nbsp;tea.</p>,Acme,Mugs,Size,S,M-S,,back.png,2
mug,,,,,,L,M-L,large.png,front.png,1
bowl,Blue Bowl,,Acme,Bowls,Title,Default Title,B-1,,front.png,1
jug,,,,,Size,S,J-S,,front.png,1
jug,,,,,,L,J-L,,,
,Lost,,,,,,,,,
"""
WOO = """ID,Type,SKU,Name,Short description,Categories,Images,Parent,Attribute 1 name,Attribute 1 value(s)
21,variation,S2-1,Tea - 1 kg,,,,id:20,Size,1 kg
20,variable,S2,Tea,Green tea,"Food > Tea, Sale","front.png, back.png",,Brand,Alpro
22,variation,S2-2,Tea - 2 kg,,,,S2,Size,2 kg
23,simple,S3,,,,,,,
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shop(tmp_path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    for number, name in enumerate(("front.png", "back.png", "large.png")):
        Image.new("RGB", (8, 8), (number * 60, 10, 10)).save(folder / name)
    return folder


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="grpo-mmpc")
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *map(str, arguments)])
    return args.func(args)


def imported(source: Path, *options: str | Path) -> dict[str, dict]:
    """Import into ``out`` beside the source; return the items by identifier."""
    out = source.parent / "out"
    assert run("import", source, "--out", out, *options) == 0
    return {row["item_id"]: row for row in map(json.loads, (out / "items.jsonl").read_text().splitlines())}


def set_aside(source: Path) -> list[tuple[int, str]]:
    lines = (source.parent / "out" / "skipped.jsonl").read_text().splitlines()
    return [(row["row"], row["reason"]) for row in map(json.loads, lines)]


def same_image(source: Path, item: dict, place: int = 0) -> bool:
    return (source.parent / "out" / item["images"][place]).read_bytes() == source.read_bytes()


def written(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def test_shopify_rows_of_one_handle_are_a_product_and_its_variants(shop, capsys):
    items = imported(written(shop, "shop.csv", SHOPIFY))
    assert list(items) == ["mug", "mug:M-L", "bowl", "jug"]
    mug, large, bowl, jug = items.values()
    assert (mug["title"], mug["description"], mug["category"]) == ("Mug", "Holds tea.", "Mugs")
    assert (mug["attributes"], large["attributes"]) == ({"brand": "Acme"}, {"brand": "Acme", "size": "L"})
    assert mug["parent_id"] == large["parent_id"] == "mug"
    assert same_image(shop / "front.png", mug) and same_image(shop / "back.png", mug, 1)  # in the order of positions
    assert mug["image"] == mug["images"][0]
    assert same_image(shop / "large.png", large)
    assert bowl["attributes"] == {"brand": "Acme"}  # "Default Title" says that there is no option
    assert jug["title"] is None
    assert set_aside(shop / "x") == [
        (5, "a variant of 'jug', which has no title yet: it has that of its product"),
        (6, "Handle is missing: the product cannot be named"),
    ]
    assert "An export of Shopify, by its columns." in capsys.readouterr().out


def test_a_woocommerce_variation_shares_what_its_product_has(shop):
    items = imported(written(shop, "woo.csv", WOO))
    one, tea, two = items.values()
    assert [item["parent_id"] for item in (one, tea, two)] == ["20", "20", "20"]  # by identifier and by SKU
    assert {item["category"] for item in items.values()} == {"Food > Tea"}
    assert one["images"] == tea["images"] == two["images"]
    assert one["attributes"] == {"brand": "Alpro", "size": "1 kg"}
    assert one["title"] == "Tea - 1 kg" and tea["description"] == "Green tea"
    assert set_aside(shop / "x")[0][0] == 4  # neither title nor image


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_encoding_and_separator_are_found_out(shop, encoding, separator):
    rows = [("Artikel", "Name", "Photo"), ("1", "Größe Küche Öl", "front.png"), ("2", "Weiße Schüssel", "back.png")]
    text = "".join(separator.join(row) + "\r\n" for row in rows)
    source = written(shop, "list.csv", text, encoding)
    items = imported(source, "--map", "item_id=Artikel")
    assert [item["title"] for item in items.values()] == ["Größe Küche Öl", "Weiße Schüssel"]
    assert items["1"]["category"] == "products"  # the stated default


def test_a_chosen_column_that_does_not_exist_is_named_with_the_nearest_one_and_all_columns(shop):
    source = written(shop, "list.csv", "Nr,Bezeichnung,Foto\n1,Mug,front.png\n")
    with pytest.raises(CatalogueError, match=r"title=Bezeichnug: there is no such column; did you mean 'Bezeichnung'"):
        run("import", source, "--out", shop / "out", "--map", "title=Bezeichnug")
    with pytest.raises(CatalogueError, match=r"the columns are: Nr, Bezeichnung, Foto; say which is which"):
        run("import", source, "--out", shop / "out")
    with pytest.raises(CatalogueError, match=r"titel=...: unknown field; did you mean 'title'"):
        run("import", source, "--out", shop / "out", "--map", "titel=Bezeichnung")


def test_attributes_are_columns_or_json_and_other_columns_are_kept(shop):
    text = 'id,name,image,brand,Colour,attributes,price\n1,Mug,front.png,Acme,red,"{""size"": ""L""}",3.5\n'
    item = imported(written(shop, "list.csv", text), "--category", "Mugs")["1"]
    assert item["attributes"] == {"size": "L", "brand": "Acme", "color": "red"}
    assert (item["category"], item["price"]) == ("Mugs", "3.5")


def test_rows_that_are_no_items_are_set_aside_with_file_row_and_reason(shop):
    text = 'id,name,photo\n1,Mug,front.png\n1,Again,\n2,,\n3,Bowl,a,b\n4,Cup,../secret.png\n5,"open\n6,Pan,gone.png\n'
    source = written(shop, "list.csv", text)
    items = imported(source)
    assert list(items) == ["1", "4", "6"]
    reasons = dict(set_aside(source))
    assert "already read from list.csv row 1" in reasons[2]
    assert "neither title nor image" in reasons[3]
    assert "line 5 has 4 cells, the header names 3; put quotes around a cell" in reasons[4]
    assert "line 7 has a quote that is never closed" in reasons[6]
    failures = (shop / "out" / "image_failures.jsonl").read_text()
    assert "lies outside" in failures and "gone.png does not exist" in failures
    assert failures.count("or give the folder that it lies in as --images") == 2


def test_texts_are_cleaned_and_the_changes_counted(shop, capsys):
    text = (
        "id,name,photo\n1,Tom &amp; <b>Co</b>,\n2,CrÃ¨me brÃ»lÃ©e,\n3,a  b\u200e,\n4,---,front.png\n5,N/A,front.png\n"
    )
    items = imported(written(shop, "list.csv", text))
    assert [item["title"] for item in items.values()] == ["Tom & Co", "Crème brûlée", "a b", None, None]
    record = json.loads((shop / "out" / "import.json").read_text())
    assert record["cleaned_cells"] == {
        "markup and entities": 1,
        "mojibake": 1,
        "spaces and control characters": 1,
        "titles without a letter or digit": 1,
        "words for a missing value": 1,
    }
    assert "mojibake in 1 cells" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["Crème brûlée", "It\u2019s naïve \u2013 Ærø", "Яблоко", "日本語 20°C", "Größe ÄÖÜ", "Ångström®"]
)
def test_right_letters_stay_as_they_are(text):
    assert cleaned(text, counts := Counter()) == text
    assert not counts.total()


def test_the_same_import_again_leaves_the_same_bytes(shop):
    source = written(shop, "shop.csv", SHOPIFY)
    imported(source)
    files = {p: p.read_bytes() for p in (shop / "out").rglob("*") if p.is_file()}
    imported(source)
    assert files == {p: p.read_bytes() for p in (shop / "out").rglob("*") if p.is_file()}


def test_items_that_no_import_wrote_are_not_overwritten(shop):
    (shop / "out").mkdir()
    (shop / "out" / "items.csv").write_text("item_id,category,title,image\n1,a,b,\n")
    with pytest.raises(CatalogueError, match=r"holds items.csv, which no import wrote"):
        run("import", written(shop, "shop.csv", SHOPIFY), "--out", shop / "out")


def test_an_image_is_looked_for_by_its_name_before_it_is_fetched(shop):
    text = "id,name,photo\n1,Mug,https://shop.example/x/front.png?v=1\n"
    item = imported(written(shop, "list.csv", text), "--images", shop, "--no-download")["1"]
    assert same_image(shop / "front.png", item)
    assert item["image_url"] == "https://shop.example/x/front.png?v=1"


def test_parquet_shards_and_a_saved_data_set_give_images_from_bytes(shop):
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageColumn

    content = (shop / "front.png").read_bytes()
    features = Features(
        {
            "id": Value("string"),
            "name": Value("string"),
            "image": ImageColumn(),
            "category": ClassLabel(names=["Mugs", "Pans"]),
        }
    )
    rows = {
        "id": ["1", "2"],
        "name": ["Mug", None],
        "image": [{"bytes": content, "path": None}] * 2,
        "category": [1, 0],
    }
    data = Dataset.from_dict(rows, features=features)
    data.save_to_disk(str(shop / "saved"))
    items = imported(shop / "saved")
    assert [item["category"] for item in items.values()] == ["Pans", "Mugs"]
    assert same_image(shop / "front.png", items["2"])
    (shop / "shards").mkdir()
    for part in (0, 1):
        data.shard(2, part).to_parquet(str(shop / "shards" / f"part-{part}.parquet"))
    items = imported(shop / "shards")
    assert list(items) == ["1", "2"] and same_image(shop / "front.png", items["1"])


def test_a_web_data_set_gives_one_item_a_sample(shop):
    with tarfile.open(shop / "shard.tar", "w") as archive:
        files = {"a.jpg": (shop / "front.png").read_bytes(), "a.txt": b"Mug", "b.png": (shop / "back.png").read_bytes()}
        for name, content in (files | {"b.json": b'{"category": "Pans", "price": 3}', "c.json": b"["}).items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    items = imported(shop / "shard.tar")
    assert [(item["title"], item["category"]) for item in items.values()] == [("Mug", "products"), (None, "Pans")]
    assert "its .json cannot be read" in set_aside(shop / "x")[0][1]


def test_a_folder_of_photographs_alone_has_no_columns_to_speak_of(shop, capsys):
    photos = shop / "photos"
    photos.mkdir()
    (photos / "front.png").write_bytes((shop / "front.png").read_bytes())
    assert list(imported(photos)) == ["front"]
    said = capsys.readouterr().out
    assert f"Reading {photos}: photographs.\n" in said and "olumns" not in said


def test_a_folder_of_photographs_with_metadata_is_what_imagefolder_reads(shop):
    photos = shop / "photos"
    (photos / "Mugs").mkdir(parents=True)
    for name in ("front.png", "back.png"):
        (photos / "Mugs" / name).write_bytes((shop / name).read_bytes())
    (photos / "metadata.csv").write_text("file_name,title\nMugs/front.png,Red Mug\n")
    items = imported(photos)
    assert {i: (item["title"], item["category"]) for i, item in items.items()} == {
        "Mugs/back": (None, "Mugs"),
        "Mugs/front": ("Red Mug", "Mugs"),
    }
    assert len(load_catalogue(shop / "out")) == 2


@pytest.mark.parametrize(
    ("cell", "images"),
    [
        ("a.jpg, b.png;c.webp|d.jpeg", ["a.jpg", "b.png", "c.webp", "d.jpeg"]),
        ("https://x.example/a;v=1,2?b=3|4", ["https://x.example/a;v=1,2?b=3|4"]),
        ("https://x.example/a,https://x.example/b", ["https://x.example/a", "https://x.example/b"]),
        ("Mug, red.jpg", ["Mug, red.jpg"]),
        ('["a.jpg", "b.jpg"]', ["a.jpg", "b.jpg"]),
        ([{"id": 1, "src": "a.jpg"}, {"url": "https://x.example/b"}], ["a.jpg", "https://x.example/b"]),
        ('{"src": "a.jpg"}', ["a.jpg"]),
        ({"alt": "back", "image": {"bytes": b"\x89PNG", "path": "a.png"}}, [b"\x89PNG"]),
        ({"bytes": None, "path": None}, []),
        ({"alt": "of what is no image"}, [{"alt": "of what is no image"}]),
    ],
)
def test_several_images_of_a_cell_are_parted_where_one_ends(cell, images):
    assert several(cell) == images


def mugs(path: Path, *keys: str) -> bytes:
    """A WebDataset of titles: of each a header and a block, 1,024 bytes."""
    with tarfile.open(path, "w") as archive:
        for key in keys:
            about = tarfile.TarInfo(f"{key}.txt")
            about.size = 3
            archive.addfile(about, io.BytesIO(b"Mug"))
    return path.read_bytes()


@pytest.mark.parametrize("cut", [1537, 2048, 2049, 2559], ids=["in a text", "between", "in a header", "at its end"])
def test_a_cut_archive_gives_what_is_before_the_cut(shop, cut):
    whole = mugs(shop / "shard.tar", "a", "b", "c")
    (shop / "shard.tar").write_bytes(whole[:cut])
    assert list(imported(shop / "shard.tar")) == ["a"]
    ((row, reason),) = set_aside(shop / "x")
    assert row == 2  # of which more may have been behind the cut
    assert "is damaged here, and nothing behind it is read" in reason


def test_a_damaged_header_and_a_second_archive_are_not_taken_for_the_end(shop):
    whole = mugs(shop / "shard.tar", "a", "b", "c")
    (shop / "shard.tar").write_bytes(whole[:2048] + b"?" + whole[2049:])
    assert list(imported(shop / "shard.tar")) == ["a"]
    assert "bad checksum at byte 2,048" in set_aside(shop / "x")[0][1]
    (shop / "shard.tar").write_bytes(whole + whole)
    assert list(imported(shop / "shard.tar")) == ["a", "b"]
    assert "give archives one by one, not joined" in set_aside(shop / "x")[0][1]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_needs_no_byte_order_mark(shop, encoding):
    assert imported(written(shop, "list.csv", "id,name\n1,Größe\n", encoding))["1"]["title"] == "Größe"


def test_columns_of_one_name_are_kept_apart(shop):
    item = imported(written(shop, "list.csv", "id,name,size,size,size (2),size\n1,Mug,a,b,c,d\n"))["1"]
    assert [item[name] for name in ("size (2)", "size (2) (2)", "size (3)")] == ["b", "c", "d"]


def test_of_columns_that_are_named_alike_all_images_count_and_the_first_title_with_a_word(shop, capsys):
    text = "id,Name,name,image,IMAGE,image\n1,Mug,Pot,front.png,back.png,large.png\n"
    item = imported(written(shop, "list.csv", text))["1"]
    assert (item["title"], item["name"]) == ("Mug", "Pot")
    for place, name in enumerate(("front.png", "back.png", "large.png")):
        assert same_image(shop / name, item, place)
    assert "Of columns that are named alike, Name is read; not read, but kept: name." in capsys.readouterr().out


def test_a_field_is_mapped_once_and_to_one_column_unless_it_takes_several(shop):
    source = written(shop, "list.csv", 'id,"name, long",short,image\n1,Mug,M,front.png\n')
    for words, message in (
        (["title=short", "title=id"], "--map title=id: title is given twice; several columns go with commas"),
        (["title=short,id"], "--map title=short,id: only image and attributes take several columns"),
    ):
        with pytest.raises(CatalogueError, match=message):
            run("import", source, "--out", shop / "out", "--map", *words)
    assert imported(source, "--map", "title=name, long")["1"]["title"] == "Mug"


def test_what_is_no_table_is_refused_in_words(shop):
    for name, content, message in (
        ("wide.csv", b"id,name" + b",x" * 16_383 + b"\n1,Mug\n", r"has 16,385 columns, the limit is 16,384"),
        ("picture.csv", (shop / "front.png").read_bytes(), "is no text, whatever its name says"),
        ("packed.csv", gzip.compress(b"id,name\n1,Mug\n"), "is no text, whatever its name says"),
        ("old.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(999), "protected by a password, or an old .xls"),
        ("text.xlsx", b"id,name\n", "File is not a zip file; save it as .xlsx again"),
    ):
        (shop / name).write_bytes(content)
        with pytest.raises(CatalogueError, match=message):
            run("import", shop / name, "--out", shop / "out")


@pytest.mark.parametrize("part", ["sheet1.xml", "styles.xml", "workbook.xml", "Content_Types"])
def test_a_workbook_of_which_a_part_is_damaged_is_refused_in_words(shop, part):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["id", "name"])
    book.active.append(["1", "Mug"])
    book.save(shop / "whole.xlsx")
    with zipfile.ZipFile(shop / "whole.xlsx") as whole, zipfile.ZipFile(shop / "x.xlsx", "w") as damaged:
        for name in whole.namelist():
            content = whole.read(name)
            damaged.writestr(name, content[: len(content) // 2] if part in name else content)
    with pytest.raises(
        CatalogueError, match=r"x\.xlsx cannot be read as an Excel workbook: .*; save it as \.xlsx again"
    ):
        run("import", shop / "x.xlsx", "--out", shop / "out")
