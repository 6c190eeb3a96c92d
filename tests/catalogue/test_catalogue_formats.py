"""The three items formats: the same rows from each, broken ones named with their place."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.catalogue.tables import SAMPLE_ROWS
from grpo_mmpc.errors import CatalogueError

HEADER = "item_id,category,title,description,image\n"
ITEMS = [
    {"item_id": "a", "category": "Fruit", "title": "Apple, red", "description": "Line 1\nLine 2", "image": None},
    {"item_id": "b", "category": "Fruit", "title": "Mûre 桑", "description": None, "image": None},
    {"item_id": "c", "category": "Tools", "title": 'Pipe 5" wide', "description": "x", "image": None},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    return folder


def write(folder: Path, kind: str, rows: list[dict]) -> None:
    path = folder / f"items.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def write_csv(folder: Path, text: str) -> None:
    (folder / "items.csv").write_bytes(text.encode())


def write_lines(folder: Path, *lines: str) -> None:
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def line(**values) -> str:
    return json.dumps({"category": "Fruit", "title": "Apple", "image": None, **values})


def reasons(folder: Path) -> dict[int, str]:
    catalogue = load_catalogue(folder)
    assert catalogue.rows_read == len(catalogue.items) + len(catalogue.quarantined)
    return {q.row: q.reason for q in catalogue.quarantined}


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_each_format_gives_the_same_records(folder, kind):
    write(folder, kind, ITEMS)
    records = list(load_catalogue(folder).records())
    assert [(r.item_id, r.category, r.title, r.description, r.image) for r in records] == [
        tuple(item.values()) for item in ITEMS
    ]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_extra_columns_keep_their_types(folder, kind):
    write(folder, kind, [{**item, "price": i + 0.5, "stock": i, "new": i == 1} for i, item in enumerate(ITEMS)])
    assert load_catalogue(folder).items[1] | ITEMS[1] == {
        **ITEMS[1],
        "attributes": None,
        "price": 1.5,
        "stock": 1,
        "new": True,
    }


def test_extra_columns_of_a_csv_are_text_and_empty_ones_missing(folder):
    write_csv(folder, "item_id,category,title,image,price\na,F,Apple,,1.50\nb,F,Pear,,\n")
    assert load_catalogue(folder).items["price"][:] == ["1.50", None]


def test_extra_columns_of_a_jsonl_take_the_narrowest_type_that_holds_every_row(folder):
    write_lines(
        folder,
        line(item_id="a", number=1, mixed=1, nested={"k": [1, "é"]}, huge=2**70, flag=True),
        line(item_id="b", number=2.5, mixed="x", nested=None, flag=None),
    )
    items = load_catalogue(folder).items
    assert items["number"][:] == [1.0, 2.5]
    assert items["mixed"][:] == ["1", "x"]
    assert items["nested"][:] == ['{"k":[1,"é"]}', None]
    assert items["huge"][:] == [str(2**70), None]
    assert items["flag"][:] == [True, None]


@pytest.mark.parametrize(
    ("late", "columns"),
    [
        ({"number": 2.5}, {"number": [1.0, 2.5]}),
        ({"number": 2**70}, {"number": ["1", str(2**70)]}),
        ({"number": "x"}, {"number": ["1", "x"]}),
        ({"number": True}, {"number": ["1", "true"]}),
        ({"number": None, "shelf": "top"}, {"number": [1, None], "shelf": [None, "top"]}),
        ({"number": 3, "description": "Sweet."}, {"number": [1, 3], "description": [None, "Sweet."]}),
    ],
)
def test_what_only_a_late_line_shows_of_the_columns_counts(folder, late, columns):
    early = [line(item_id=f"i{n}", number=1) for n in range(2 * SAMPLE_ROWS)]
    write_lines(folder, *early, line(item_id="z", **late))
    catalogue = load_catalogue(folder)
    assert {name: [catalogue.items[0][name], catalogue.items[-1][name]] for name in columns} == columns
    assert len(catalogue) == 2 * SAMPLE_ROWS + 1
    assert bool(catalogue.warnings) == ("description" not in late)


def test_a_parquet_type_that_datasets_lacks_becomes_json_text(folder):
    table = pa.Table.from_pylist(ITEMS).append_column(
        "tags", pa.array([[("k", 1)], None, []], pa.map_("string", "int8"))
    )
    pq.write_table(table, folder / "items.parquet")
    assert load_catalogue(folder).items["tags"][:] == ['[["k",1]]', None, "[]"]


def test_a_dictionary_encoded_parquet_column_is_read_as_its_values(folder):
    table = pa.Table.from_pylist(ITEMS)
    table = table.set_column(1, "category", table["category"].dictionary_encode())
    table = table.append_column("shelf", pa.array(["x", "y", "x"]).dictionary_encode())
    pq.write_table(table, folder / "items.parquet")
    items = load_catalogue(folder).items
    assert items["category"][:] == ["Fruit", "Fruit", "Tools"]
    assert items["shelf"][:] == ["x", "y", "x"]


# --- the file as a whole


@pytest.mark.parametrize("kinds", [("csv", "jsonl"), ("parquet", "csv")])
def test_two_items_files_are_refused_by_name(folder, kinds):
    for kind in kinds:
        write(folder, kind, ITEMS)
    with pytest.raises(CatalogueError, match=r"holds items\.\w+ and items\.\w+; keep exactly one"):
        load_catalogue(folder)


def test_no_items_file_names_what_is_there(folder):
    (folder / "items.xlsx").touch()
    with pytest.raises(CatalogueError, match=r"has no items\.parquet, items\.jsonl, items\.csv; found: items\.xlsx"):
        load_catalogue(folder)


def test_a_folder_that_does_not_exist_says_where_it_looked(tmp_path):
    with pytest.raises(CatalogueError, match=r"nowhere does not exist \(looked from "):
        load_catalogue(tmp_path / "nowhere")


def test_the_file_instead_of_its_folder_is_refused(folder):
    write(folder, "csv", ITEMS)
    with pytest.raises(CatalogueError, match="give the folder that holds it"):
        load_catalogue(folder / "items.csv")


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("column", ["item_id", "category", "title", "image"])
def test_a_missing_column_names_what_is_there_and_what_is_expected(folder, kind, column):
    write(folder, kind, [{k: v for k, v in {**item, "image": "a.png"}.items() if k != column} for item in ITEMS])
    with pytest.raises(CatalogueError) as error:
        load_catalogue(folder)
    found = ", ".join(c for c in ITEMS[0] if c != column)
    assert f"items.{kind} lacks the column {column}; found: {found}; expected: item_id, category, title, image" in str(
        error.value
    )


def test_a_column_with_another_name_is_guessed(folder):
    write_csv(folder, "Item_ID,category,titel,image\na,b,c,\n")
    with pytest.raises(CatalogueError, match="rename Item_ID to item_id; rename titel to title"):
        load_catalogue(folder)


def test_a_semicolon_file_is_recognised(folder):
    write_csv(folder, "item_id;category;title;image\na;b;c;\n")
    with pytest.raises(CatalogueError, match="not separated by commas"):
        load_catalogue(folder)


def test_a_missing_description_column_is_only_a_warning(folder):
    write_csv(folder, "item_id,category,title,image\na,b,c,\n")
    assert load_catalogue(folder).warnings == [
        "items.csv has no column description: every description counts as missing"
    ]


def test_a_column_named_twice_is_refused(folder):
    write_csv(folder, "item_id,category,title,title,image\na,b,c,d,\n")
    with pytest.raises(CatalogueError, match="names the column title more than once"):
        load_catalogue(folder)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_an_empty_file_is_refused(folder, kind):
    (folder / f"items.{kind}").touch()
    with pytest.raises(CatalogueError, match=rf"items\.{kind} is empty \(0 bytes\)"):
        load_catalogue(folder)


def test_a_header_without_rows_has_no_usable_row(folder):
    write_csv(folder, HEADER)
    with pytest.raises(CatalogueError, match=r"no usable row \(0 read\)"):
        load_catalogue(folder)
    assert len(load_catalogue(folder, allow_empty=True)) == 0


def test_a_catalogue_of_broken_rows_only_shows_the_first_reasons(folder):
    write_csv(folder, HEADER + ",F,Apple,,\n" * 7)
    with pytest.raises(CatalogueError, match=r"(?s)\(7 read\)\n  row 1: item_id is missing.*row 5.*\.\.\. and 2 more"):
        load_catalogue(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # "Café" in Latin-1: é is the single byte 0xe9, the sixth byte of line 3 ("b,Caf" is before
        # it), at offset 17 + 10 + 5.
        (b"item_id,category\nidabcdefg\nb,Caf\xe9,x\n", r"line 3, byte 6 \(offset 32\) is 0xe9, 'é' in Windows-1252"),
        (b"\xff\xfei\x00t\x00", "UTF-16"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_another_encoding_is_refused_with_the_place_and_the_cure(folder, kind, content, message):
    (folder / f"items.{kind}").write_bytes(content)
    with pytest.raises(CatalogueError, match=rf"items\.{kind} is .*{message}.*save it as UTF-8"):
        load_catalogue(folder)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_utf8_byte_order_mark_is_accepted(folder, kind):
    write(folder, kind, ITEMS)
    path = folder / f"items.{kind}"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_catalogue(folder).items["item_id"][:] == ["a", "b", "c"]


def test_a_file_that_is_no_parquet_is_refused(folder):
    (folder / "items.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(CatalogueError, match=r"items\.parquet cannot be read as Parquet"):
        load_catalogue(folder)


def test_images_inside_parquet_are_refused_with_the_way_out(folder):
    rows = [{**ITEMS[0], "image": {"bytes": b"x", "path": "a.png"}}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    with pytest.raises(CatalogueError, match=r"column image holds struct.*write the images into files"):
        load_catalogue(folder)


def test_a_file_without_permission_is_a_catalogue_error(folder, monkeypatch):
    write(folder, "csv", ITEMS)
    original = Path.open

    def refuse(self, *args, **kwargs):
        if self.name == "items.csv":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CatalogueError, match=r"items\.csv cannot be read: Permission denied; check its permissions"):
        load_catalogue(folder)


def test_one_json_array_is_recognised(folder):
    (folder / "items.jsonl").write_text(json.dumps(ITEMS, indent=1))
    with pytest.raises(CatalogueError, match="looks like one JSON array; write one object per line"):
        load_catalogue(folder)


# --- single rows


def test_a_ragged_csv_row_is_set_aside_with_its_line(folder):
    write_csv(folder, HEADER + 'a,F,"two\nlines",,\nb,F,Pear, ripe,,\nc,F,Plum\nd,F,Fig,,\n')
    assert reasons(folder) == {
        2: "line 4 has 6 cells, the header names 5; put quotes around a cell that contains a comma",
        3: "line 5 has 3 cells, the header names 5; put quotes around a cell that contains a comma",
    }


def test_an_open_quote_costs_the_rows_it_swallows_and_no_more(folder):
    write_csv(folder, HEADER + 'a,F,"Apple,,\nb,F,Pear,,\nc,F,"Plum",,\nd,F,Fig,,\n')
    # The quote opened in line 2 ends before Plum in line 4, where text follows it.
    assert reasons(folder).keys() == {1}
    assert "lines 2 to 4 cannot be read as CSV" in reasons(folder)[1]
    assert load_catalogue(folder).items["item_id"][:] == ["d"]


def test_a_quote_open_until_the_end_is_an_error_and_not_a_title(folder):
    write_csv(folder, HEADER + 'a,F,Apple,,\nb,F,"Pear,,\nc,F,Plum,,\n')
    assert "lines 3 to 4 cannot be read as CSV" in reasons(folder)[2]


def test_blank_csv_lines_are_no_rows(folder):
    write_csv(folder, HEADER + "a,F,Apple,,\n\n\nb,,Pear,,\n")
    assert reasons(folder) == {2: "category is missing; name the department the item belongs to"}


def test_the_nameless_index_column_of_pandas_is_kept_as_an_extra(folder):
    write_csv(folder, "," + HEADER + "0,a,F,Apple,,\n")
    assert load_catalogue(folder).items["unnamed_1"][:] == ["0"]


def test_a_line_that_is_not_json_is_set_aside_with_its_line(folder):
    write_lines(folder, line(item_id="a"), "", '{"item_id": "b", ', "[1]", "null", line(item_id="c"), "[" * 100_000)
    found = reasons(folder)
    assert found.keys() == {2, 3, 4, 6}
    assert found[2].startswith("line 3: not JSON (")
    assert found[3] == "line 4: it holds no JSON object; write one object per line"
    assert found[4] == "line 5: it holds no JSON object; write one object per line"
    assert found[6].startswith("line 7: it cannot be read as JSON (")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_id": None}, "item_id is missing"),
        ({"item_id": float("nan")}, "item_id is missing"),
        ({"item_id": ["a"]}, "item_id holds a list, expected text"),
        ({"item_id": True}, "item_id holds true, expected text"),
        ({"category": ""}, "category is missing"),
        ({"category": None}, "category is missing"),
        ({"title": {"en": "Apple"}}, "title holds an object, expected text"),
        ({"title": float("nan")}, "neither title nor image"),
        ({"title": "  "}, "neither title nor image"),
        ({"image": "../../etc/passwd"}, "image ../../etc/passwd lies outside the catalogue folder"),
        ({"image": "/etc/passwd"}, "image /etc/passwd is an absolute path"),
        ({"description": [{"a": 1}]}, "description holds an object"),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside_with_its_reason(folder, change, reason):
    write_lines(folder, line(item_id="good"), line(**{"item_id": "bad", **change}))
    catalogue = load_catalogue(folder)
    assert catalogue.items["item_id"][:] == ["good"]
    (broken,) = catalogue.quarantined
    assert (broken.file, broken.row) == ("items.jsonl", 2)
    assert broken.reason.startswith(reason)
    assert broken.item_id == (None if "item_id" in change and change["item_id"] != "bad" else "bad")


@pytest.mark.parametrize(("written", "item_id"), [(17, "17"), (17.0, "17"), (" 17 ", "17"), ("007", "007")])
def test_an_identifier_becomes_text(folder, written, item_id):
    write_lines(folder, line(item_id=written))
    assert load_catalogue(folder).items["item_id"][:] == [item_id]


def test_a_description_in_paragraphs_is_joined(folder):
    write_lines(folder, line(item_id="a", description=["One.", None, " ", "Two."]))
    assert load_catalogue(folder).record(0).description == "One.\nTwo."


# --- attributes


@pytest.mark.parametrize(
    ("cell", "facts"),
    [
        ({"color": "red", "pack": 2, "brand": None, "size": " "}, {"color": "red", "pack": "2"}),
        ('{"color": "red", "pack": 2}', {"color": "red", "pack": "2"}),
        ({"color": ["red", "blue"]}, {"color": "red, blue"}),
        (None, {}),
        ("", {}),
        ("{}", {}),
    ],
)
def test_attributes_are_an_object_or_its_json_text(folder, cell, facts):
    write_lines(folder, line(item_id="a", attributes=cell))
    catalogue = load_catalogue(folder)
    assert catalogue.record(0).attributes == facts
    assert not [w for w in catalogue.warnings if "attributes" in w]


@pytest.mark.parametrize("cell", ["{color: red}", "[1]", [1], 3, {"color": {"main": "red"}}])
def test_malformed_attributes_cost_the_attributes_and_not_the_row(folder, cell):
    write_lines(folder, line(item_id="a", attributes=cell))
    catalogue = load_catalogue(folder)
    assert catalogue.record(0).attributes == {}
    (warning,) = [w for w in catalogue.warnings if "attributes" in w]
    assert warning.startswith("items.jsonl row 1 (a): attributes ")


@pytest.mark.parametrize(
    "kind", [pa.struct([("color", pa.string()), ("pack", pa.int8())]), pa.map_("string", "string")]
)
def test_attributes_of_a_parquet_may_be_a_struct_or_a_map(folder, kind):
    cell = {"color": "red", "pack": 2} if pa.types.is_struct(kind) else [("color", "red"), ("pack", "2")]
    table = pa.Table.from_pylist(ITEMS[:1]).append_column("attributes", pa.array([cell], kind))
    pq.write_table(table, folder / "items.parquet")
    assert load_catalogue(folder).record(0).attributes == {"color": "red", "pack": "2"}


def test_a_small_parquet_file_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from grpo_mmpc.utils import parquet

    monkeypatch.setattr(parquet, "_FREE_BYTES", 1_000_000)
    rows = 2_000
    columns = {"item_id": [f"i{i}" for i in range(rows)], "category": ["a"] * rows, "title": ["t"] * rows}
    table = pa.table(columns | {"image": pa.nulls(rows, pa.string()), "description": ["x" * 10_000] * rows})
    pq.write_table(table, tmp_path / "items.parquet", compression="zstd")
    assert (tmp_path / "items.parquet").stat().st_size < 100_000
    with pytest.raises(CatalogueError, match=r"items.parquet .* unpacks to more than 100 times its size"):
        load_catalogue(tmp_path)
