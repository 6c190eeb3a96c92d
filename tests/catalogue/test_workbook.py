"""Which sheet of a workbook is read, from which row, and what its cells say."""

from pathlib import Path
from zipfile import ZipFile

import pytest

from grpo_mmpc.catalogue.sources.importing import read_listings
from grpo_mmpc.catalogue.sources.opening import open_source
from grpo_mmpc.catalogue.sources.source_table import SourceTable
from grpo_mmpc.errors import CatalogueError
from tests.catalogue.workbook_files import MAIN, formula, sheet, text, write_workbook

STRICT = b"http://purl.oclc.org/ooxml/spreadsheetml/main"
HEADER = text("A1", "id") + text("B1", "name")
MUGS = sheet(HEADER, text("A2", "1") + text("B2", "Mug"))


def opened(folder: Path, *sheets: str, name: str | None = None, hidden: tuple[int, ...] = ()) -> SourceTable:
    (table,) = open_source(str(write_workbook(folder / "list.xlsx", *sheets, hidden=hidden)), sheet=name)
    return table


def read(folder: Path, *sheets: str) -> list[list[object]]:
    table = opened(folder, *sheets)
    return [list(table.columns), *(list(row.values.values()) for row in table.rows())]


@pytest.mark.parametrize("stated", ["", *(f'<dimension ref="{ref}"/>' for ref in ("A1", "A1:B2", "A1:C9", "A1:A3"))])
def test_the_range_that_a_sheet_states_loses_no_row_and_no_column(tmp_path, stated):
    rows = HEADER, text("A2", "1") + text("B2", "Mug"), "", text("A4", "2") + text("B4", "Pot") + text("C4", "x")
    assert read(tmp_path, sheet(*rows, before=stated)) == [
        ["id", "name", "unnamed_3"],
        ["1", "Mug", None],
        ["2", "Pot", "x"],
    ]


def test_columns_end_with_the_last_filled_cell_not_with_the_last_formatted_one(tmp_path):
    assert read(tmp_path, sheet(HEADER + '<c r="Z1" s="1"/>', text("B2", "Mug"))) == [
        ["id", "name"],
        [None, "Mug"],
    ]


def test_an_empty_text_is_the_value_of_a_formula(tmp_path):
    without_element = '<c r="B3" t="str"><f>1</f></c>'
    rows = sheet(HEADER, text("A2", "1") + formula("B2", ""), text("A3", "2") + without_element)
    assert read(tmp_path, rows) == [["id", "name"], ["1", None], ["2", None]]


@pytest.mark.parametrize("tag", ["<f>1</f>", "<f/>", '<f t="shared" si="0"/>', "<x:f>1</x:f>"])
def test_a_formula_without_any_value_is_named(tmp_path, tag):
    prefix = "x:" if "x:" in tag else ""
    xml = sheet(HEADER, f'<c r="B2">{tag}<v></v></c>')
    xml = xml.replace("xmlns=", 'xmlns:x="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns=')
    with pytest.raises(CatalogueError, match="formulas without their values, 1 of them, such as in B2; open it in"):
        opened(tmp_path, xml.replace("<c r", f"<{prefix}c r") if not prefix else xml)


def test_characters_that_excel_escapes_are_read_as_themselves(tmp_path):
    rows = sheet(HEADER, text("A2", "1") + text("B2", "Red_x000D_\nMug_x0009_big _x005F_x000D_"))
    assert read(tmp_path, rows)[1] == ["1", "Red\r\nMug\tbig _x000D_"]


def test_a_hidden_sheet_is_read_only_by_its_name(tmp_path):
    lists = sheet(text("A1", "name"), text("A2", "Small"))
    table = opened(tmp_path, lists, MUGS, sheet(), hidden=(1,))
    assert (table.kind, table.sheet.others) == ("Excel, sheet S2", ["S1"])
    assert opened(tmp_path, lists, MUGS, name="S1", hidden=(1,)).columns == ["name"]
    with pytest.raises(CatalogueError, match=r"no filled sheet; .*; hidden ones do: S1, S2 \(--sheet\)"):
        opened(tmp_path, lists, MUGS, hidden=(1, 2))
    with pytest.raises(CatalogueError, match="nothing in the sheet S3"):
        opened(tmp_path, lists, MUGS, sheet(), name="S3")


def test_where_no_column_is_recognised_the_other_sheets_are_named(tmp_path):
    table = opened(tmp_path, sheet(text("A1", "How to use this")), MUGS, sheet(), MUGS)
    message = "sheet S1: no column is recognised .*; or read another sheet: --sheet 'S2' or --sheet 'S4'"
    with pytest.raises(CatalogueError, match=message):
        read_listings([table], {})


@pytest.mark.parametrize(
    ("rows", "kind", "columns"),
    [
        ([text("A1", "Prices 2024"), "", text("B3", "of Acme"), text("A4", "id") + text("C4", "name")], 4, 3),
        ([text("A1", "image"), text("A2", "a.png"), text("A3", "b.png") + text("B3", "late")], 1, 2),
        ([text("A1", "Prices"), text("A2", "Kennung") + text("B2", "Bezeichnung")], 1, 2),
        (["", HEADER], 2, 2),
    ],
)
def test_headings_of_one_cell_above_a_row_that_names_columns_are_passed_over(tmp_path, rows, kind, columns):
    table = opened(tmp_path, sheet(*rows))
    assert (table.kind, len(table.columns)) == ("Excel, sheet S1" + (f", from row {kind}" if kind > 1 else ""), columns)


def test_what_openpyxl_does_not_know_is_read_without_a_warning(tmp_path, recwarn):
    extension = '<extLst><ext uri="{CCE6A557-97BC-4b89-ADB6-D9C93CAAB3DF}"/></extLst>'
    assert read(tmp_path, sheet(HEADER, text("B2", "Mug"), after=extension))[1:] == [[None, "Mug"]]
    assert not recwarn


def test_a_small_workbook_that_unpacks_to_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("grpo_mmpc.utils.parquet._FREE_BYTES", 100_000)
    bomb = sheet(HEADER, text("B2", "Mug"), after=f"<!--{' ' * 3_000_000}-->")
    with pytest.raises(CatalogueError, match="unpacks to more than 100 times its size, all parts together"):
        open_source(str(write_workbook(tmp_path / "list.xlsx", bomb)))


def test_a_workbook_of_the_strict_kind_is_named_for_what_it_is(tmp_path):
    file = write_workbook(tmp_path / "list.xlsx", MUGS)
    with ZipFile(file) as parts:
        content = {name: parts.read(name).replace(MAIN.encode(), STRICT) for name in parts.namelist()}
    with ZipFile(file, "w") as parts:
        for name, part in content.items():
            parts.writestr(name, part)
    with pytest.raises(CatalogueError, match="is saved as Strict Open XML; save it as an ordinary Excel workbook"):
        open_source(str(file))
