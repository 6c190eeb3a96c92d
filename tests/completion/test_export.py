"""grpo-mmpc data export: the imported file again, equal to the byte but for the filled cells."""

import argparse
import io
import json
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from grpo_mmpc.cli.data import add_parser
from grpo_mmpc.completion.proposal import Proposal
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.pipelines.review import apply_review


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="grpo-mmpc")
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *map(str, arguments)])
    return args.func(args)


def proposal(item_id: str, value: str | None, status: str = "accepted", field: str = "title") -> Proposal:
    own = {"policy": None, "model": None, "adapter": None, "prompt": None, "sampling": {}}
    return Proposal(item_id=item_id, field=field, value=value, status=status, **own)


@pytest.fixture
def shop(tmp_path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    return tmp_path


def exported(source: Path, *proposals: Proposal, options: tuple[str, ...] = ()) -> bytes:
    """Import, take the catalogue for a completed one with these proposals, export."""
    folder = source.parent / "catalogue"
    assert run("import", source, "--out", folder, "--no-download") == 0
    (folder / "proposals.jsonl").write_text("".join(json.dumps(p.to_json()) + "\n" for p in proposals))
    out = source.parent / f"out{source.suffix}"
    run("export", folder, "--out", out, *options)
    return out.read_bytes()


SHOPIFY = (
    b'Handle,Title,Image Src,"Tags"\r\nmug,,a.png,"x, y"\r\nmug,,,\r\n'
    b'bowl,"",a.png,z\ncup,Cup,a.png, "odd" quote\r\nlast,,a.png,'
)
SHOPIFY_NEW = (  # sorted: the product does not stand in the first row of its handle
    b"Title,URL handle,Vendor,SKU,Option1 name,Option1 value,Product image URL,Image position\n"
    b",mug,,M-L,,L,b.png,2\nCup,cup,Acme,C,,,a.png,1\n,mug,Acme,M-S,Size,S,a.png,1\n,mug,,,,,a.png,3\n"
)
WOO = b'\xef\xbb\xbfID,Type,SKU,Name,Images,Parent\n1,simple,S,"",a.png,\n2,simple,T,Kept,a.png,\n'
FORMATS = {
    "shop.csv": (
        SHOPIFY,
        {"mug": b"Red Mug", "bowl": b"Bowl", "last": b"Last"},
        SHOPIFY.replace(b"mug,,a", b"mug,Red Mug,a")
        .replace(b'bowl,""', b'bowl,"Bowl"')
        .replace(b"last,,", b"last,Last,"),
    ),
    "woo.csv": (WOO, {"1": b"Tea"}, WOO.replace(b'S,""', b'S,"Tea"')),
    "shopify new.csv": (SHOPIFY_NEW, {"mug": b"Red Mug"}, SHOPIFY_NEW.replace(b"\n,mug,Acme", b"\nRed Mug,mug,Acme")),
    "any.tsv": (
        b"id\tname\tphoto\n1\t\ta.png\n\n2\t N/A \ta.png",
        {"1": b"Tea, green", "2": b"Pot"},
        b"id\tname\tphoto\n1\tTea, green\ta.png\n\n2\tPot\ta.png",
    ),
    "german.csv": (
        "sep=;\r\nid;name;photo;Größe\r\n1;;a.png;Küche Öl\r\n".encode("cp1252"),
        {"1": "Süß; 2".encode("cp1252")},
        'sep=;\r\nid;name;photo;Größe\r\n1;"Süß; 2";a.png;Küche Öl\r\n'.encode("cp1252"),
    ),
    "wide.csv": (
        "id\tname\tphoto\r\n1\t\ta.png\r\n".encode("utf-16"),
        {"1": b"Tea"},
        "id\tname\tphoto\r\n1\tTea\ta.png\r\n".encode("utf-16"),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_filled_cells_differ(shop, name):
    before, titles, after = FORMATS[name]
    (shop / name).write_bytes(before)
    encoding = "cp1252" if name == "german.csv" else "utf-8"
    assert exported(shop / name, *(proposal(i, title.decode(encoding)) for i, title in titles.items())) == after


def test_of_a_workbook_only_the_filled_cells_differ(shop):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "notes"
    sheet = book.create_sheet("products")
    for row in (
        ["id", "name", "photo", "price", "twice"],
        [1, None, "a.png", 3.5, "=D2*2"],
        [],
        [2, "Kept", "a.png", 4, "=D4*2"],
    ):
        sheet.append(row)
    sheet["D2"].number_format = "0.00"
    saved = io.BytesIO()
    book.save(saved)
    with ZipFile(saved) as made, ZipFile(shop / "list.xlsx", "w") as computed:  # as a spreadsheet program saves it
        for name in made.namelist():
            computed.writestr(name, made.read(name).replace(b"</f><v></v>", b"</f><v>7</v>"))
    after = openpyxl.load_workbook(io.BytesIO(exported(shop / "list.xlsx", proposal("1", "=Tea"), proposal("2", "No"))))
    before = openpyxl.load_workbook(shop / "list.xlsx")
    assert after.sheetnames == before.sheetnames
    values = [[cell.value for cell in row] for row in after["products"].iter_rows()]
    expected = [[cell.value for cell in row] for row in before["products"].iter_rows()]
    expected[1][1] = "'=Tea"
    assert values == expected
    assert after["products"]["D2"].number_format == "0.00" and after["products"]["B2"].data_type == "s"


@pytest.mark.parametrize(("name", "following"), [("a.csv", "export {} --out FILE"), ("a.jsonl", "validate {}")])
def test_a_review_goes_on_to_the_export_where_the_source_can_be_written_back(shop, capsys, name, following):
    row = {"id": "1", "name": "", "photo": "a.png"}
    text = json.dumps(row) if name.endswith("jsonl") else f"{','.join(row)}\n{','.join(row.values())}\n"
    (shop / name).write_text(text)
    assert run("import", shop / name, "--out", shop / "catalogue", "--no-download") == 0
    (shop / "catalogue/proposals.jsonl").write_text(json.dumps(proposal("1", None, "failed").to_json()))
    for table in ("quarantine.jsonl", "incomplete.jsonl"):
        (shop / "catalogue" / table).touch()
    apply_review(shop / "catalogue", shop / "out", files=[], undecided="missing")
    assert capsys.readouterr().out.splitlines()[-1] == f"next: grpo-mmpc data {following.format(shop / 'out')}"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@"])
def test_a_title_that_a_spreadsheet_would_run_gets_an_apostrophe(shop, begin):
    (shop / "a.csv").write_bytes(b"id,name,photo\n1,,a.png\n")
    assert (
        exported(shop / "a.csv", proposal("1", f"{begin}cmd()")) == f"id,name,photo\n1,'{begin}cmd(),a.png\n".encode()
    )


def test_what_is_not_accepted_or_has_no_empty_cell_is_counted_and_left(shop, capsys):
    source = shop / "a.csv"
    source.write_bytes("id;name;photo\n1;;a.png\n2;Kept é;a.png\n3;;a.png\n4;;\n5;;a.png\n".encode("cp1252"))
    proposals = [proposal("1", "One", "review"), proposal("2", "Two"), proposal("3", "Äpfel 日"), proposal("9", "Nine")]
    proposals += [proposal("5", None, "failed"), proposal("2", "images/new.png", field="image")]
    assert exported(source, *proposals) == source.read_bytes()
    said = capsys.readouterr().out
    for reason in (
        "the status is review",
        "the status is failed",
        "the export has a title there",
        "'日' cannot be written as cp1252",
        "the export has no such item",
        "a new image; upload it",
    ):
        assert f"1 not written: {reason}" in said
    assert b"1;One;" in exported(source, *proposals, options=("--status", "accepted", "review"))


def test_an_export_that_has_changed_or_would_be_overwritten_is_refused(shop):
    source = shop / "a.csv"
    source.write_bytes(b"id,name,photo\n1,,a.png\n")
    exported(source, proposal("1", "One"))
    with pytest.raises(CatalogueError, match=r"is the file that was imported"):
        run("export", shop / "catalogue", "--out", source)
    with pytest.raises(CatalogueError, match=r"give one of that suffix"):
        run("export", shop / "catalogue", "--out", shop / "out.xlsx")
    moved = source.rename(shop / "moved.csv")
    with pytest.raises(CatalogueError, match=r"is not there; say where it is: --source"):
        run("export", shop / "catalogue", "--out", shop / "b.csv")
    assert run("export", shop / "catalogue", "--out", shop / "b.csv", "--source", moved) == 0
    moved.write_bytes(b"id,name,photo\n1,,a.png\n2,,a.png\n")
    with pytest.raises(CatalogueError, match=r"has changed since it was imported"):
        run("export", shop / "catalogue", "--out", shop / "b.csv", "--source", moved)


def test_new_images_are_written_under_the_address_that_is_given(shop):
    source = shop / "a.csv"
    source.write_bytes(b"id,name,photo\n1,Mug,\n")
    after = exported(
        source, proposal("1", "images/1.png", field="image"), options=("--image-address", "https://x.example/up/")
    )
    assert after == b"id,name,photo\n1,Mug,https://x.example/up/1.png\n"


TEXT, FACTS = "Red & round.\nFor tea.", {"brand": "Acme", "color": "red, blue"}
FILLED = {
    "shopify.csv": (
        b"Handle,Title,Body (HTML),Vendor,Option1 Name,Option1 Value,Image Src\r\n"
        b"mug,Mug,,,Size,S,a.png\r\nmug,,,,,L,b.png\r\n",
        b"Handle,Title,Body (HTML),Vendor,Option1 Name,Option1 Value,Image Src\r\n"
        b'mug,Mug,"<p>Red &amp; round.</p>\n<p>For tea.</p>",Acme,Size,S,a.png\r\nmug,,,,,L,b.png\r\n',
        {"color"},
    ),
    "woo.csv": (
        b"ID,Type,SKU,Name,Description,Images,Parent,Attribute 1 name,Attribute 1 value(s),Attribute 2 name,"
        b'Attribute 2 value(s)\nmug,simple,S,Mug,"",a.png,,COLOR,,,\n2,simple,T,Pot,,"a.png, b.png",,Brand,Other,,\n',
        b"ID,Type,SKU,Name,Description,Images,Parent,Attribute 1 name,Attribute 1 value(s),Attribute 2 name,"
        b'Attribute 2 value(s)\nmug,simple,S,Mug,"Red &amp; round.\\nFor tea.",a.png,,COLOR,"red\\, blue",Brand,Acme\n'
        b'2,simple,T,Pot,,"a.png, b.png",,Brand,Other,,\n',
        set(),
    ),
    "own columns.csv": (
        b"id;name;description;manufacturer;colour;photo;image 2\nmug;Mug;;;;a.png;b.png\n",
        b'id;name;description;manufacturer;colour;photo;image 2\nmug;Mug;"Red & round.\nFor tea.";Acme;red, blue;'
        b"a.png;b.png\n",
        set(),
    ),
    "objects.csv": (
        b'id,name,attributes,image\nmug,Mug,"{""size"": 1.50 }",a.png\n',
        b'id,name,attributes,image\nmug,Mug,"{""size"": 1.50 , ""brand"": ""Acme"", ""color"": ""red, blue""}",a.png\n',
        {"description"},
    ),
}


@pytest.mark.parametrize("name", FILLED)
def test_descriptions_and_attributes_go_back_into_their_columns(shop, capsys, name):
    before, after, without_column = FILLED[name]
    Image.new("RGB", (8, 8), "blue").save(shop / "b.png")
    (shop / name).write_bytes(before)
    catalogue = shop / "catalogue"
    proposals = (proposal("mug", TEXT, field="description"), proposal("mug", json.dumps(FACTS), field="attributes"))
    assert exported(shop / name, *proposals) == after
    said = capsys.readouterr().out
    assert f"{2 - len(without_column & FACTS.keys())} attribute cells filled" in said
    assert said.count("1 not written") == len(without_column)
    items = [json.loads(line) for line in (catalogue / "items.jsonl").read_text().splitlines()]
    # What was written is read again as what was proposed, and what was there stays.
    out = shop / f"again{(shop / name).suffix}"
    out.write_bytes(after)
    assert run("import", out, "--out", shop / "again", "--no-download") == 0
    again = [json.loads(line) for line in (shop / "again/items.jsonl").read_text().splitlines()]
    for old, new in zip(items, again, strict=True):
        if old["item_id"] == "mug":
            words = None if "description" in without_column else TEXT.split()
            assert (new["description"] and new["description"].split()) == words
            new_facts = {kind: value for kind, value in FACTS.items() if kind not in without_column}
            assert new["attributes"] == (old["attributes"] or {}) | new_facts
            assert new["images"] == old["images"]
        elif name == "woo.csv":
            assert new == old


def test_descriptions_and_attributes_that_are_there_are_never_overwritten(shop, capsys):
    source = shop / "a.csv"
    source.write_bytes(b'id,name,description,brand,attributes,image\n1,Mug,Round.,Own,"{""color"": ""red""}",a.png\n')
    facts = proposal("1", json.dumps({"brand": "Acme", "color": "blue"}), field="attributes")
    assert exported(source, proposal("1", TEXT, field="description"), facts) == source.read_bytes()
    said = capsys.readouterr().out
    for reason in (
        "the export has a description there",
        "no empty column for the attribute brand of the item",
        "no empty column for the attribute color of the item",
    ):
        assert f"1 not written: {reason}" in said


def test_a_new_image_of_an_item_for_several_images_goes_into_the_first_column(shop):
    source = shop / "a.csv"
    source.write_bytes(b"id,name,image,image 2\n1,Mug,,\n2,Pot,a.png,\n")
    image = proposal("1", "images/1.png", field="image")
    after = exported(source, image, options=("--image-address", "https://x.example/up/"))
    assert after == b"id,name,image,image 2\n1,Mug,https://x.example/up/1.png,\n2,Pot,a.png,\n"


@pytest.mark.parametrize("is_reviewed", [False, True])
def test_what_was_filled_one_field_after_the_other_goes_back_together(shop, is_reviewed):
    source = shop / "a.csv"
    source.write_bytes(b"id,name,description,color,size,photo\n1,,,,,a.png\n2,,,,,a.png\n")
    color, size = (proposal("1", json.dumps(facts), field="attributes") for facts in ({"color": "red"}, {"size": "L"}))
    exported(source, proposal("1", "Mug"), color, proposal("2", None, "failed"))
    first = (shop / "catalogue").rename(shop / "titles")
    (shop / "between").mkdir()
    (shop / "between/completion.json").write_text(json.dumps({"catalogue": str(first)}))
    mark = ("reviewed.json", {"completed": str(shop / "between")}) if is_reviewed else None
    content = proposal("1", "Round.", field="description"), size, proposal("2", "Pot")
    second = shop / "catalogue"
    second.mkdir()
    (second / "import.json").write_bytes((first / "import.json").read_bytes())
    (second / "proposals.jsonl").write_text("".join(json.dumps(p.to_json()) + "\n" for p in content))
    name, claim = mark or ("completion.json", {"catalogue": str(first)})
    (second / name).write_text(json.dumps(claim))
    assert run("export", second, "--out", shop / "b.csv") == 0
    assert (shop / "b.csv").read_bytes() == (
        b"id,name,description,color,size,photo\n1,Mug,Round.,red,L,a.png\n2,Pot,,,,a.png\n"
    )
