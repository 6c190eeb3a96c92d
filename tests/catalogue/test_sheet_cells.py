"""Cells filled in the XML of a sheet: the right one, and every other byte as it was."""

import pytest

from grpo_mmpc.catalogue.sources.sheet_cells import filled, locked_cells, unspellable
from tests.catalogue.workbook_files import MAIN, formula, sheet, text

PLAIN = "<c r='A1'/>"


def new(place: str, value: str, style: int | None = None, prefix: str = "") -> str:
    styled = "" if style is None else f' s="{style}"'
    return (
        f'<{prefix}c r="{place}"{styled} t="inlineStr"><{prefix}is><{prefix}t xml:space="preserve">{value}'
        f"</{prefix}t></{prefix}is></{prefix}c>"
    )


def worksheet(data: str, before: str = "") -> str:
    return f'<?xml version="1.0"?>\n<worksheet xmlns="{MAIN}">{before}<sheetData>{data}</sheetData></worksheet>'


CASES = {
    "an empty cell keeps its style": (
        '<row r="2" spans="1:3"><c r="A2"/><c r="B2" s="5"/><c r="C2"><v>1</v></c></row>',
        {2: {2: "Mug"}},
        f'<row r="2" spans="1:3"><c r="A2"/>{new("B2", "Mug", style=5)}<c r="C2"><v>1</v></c></row>',
    ),
    "a cell with a value is replaced whole": (
        '<row r="1"><c r="A1" s="1" t="s" vm="2"><v>7</v></c ><c r="B1"/></row>',
        {1: {1: "Mug"}},
        f'<row r="1">{new("A1", "Mug", style=1)}<c r="B1"/></row>',
    ),
    "a cell that is not there is put between its neighbours": (
        '<row r="1" spans="1:4" ht="20"><c r="A1"/><c r="D1"/></row>',
        {1: {3: "c", 2: "b", 5: "e", 4: "d"}},
        f'<row r="1" ht="20"><c r="A1"/>{new("B1", "b")}{new("C1", "c")}{new("D1", "d")}{new("E1", "e")}</row>',
    ),
    "columns go beyond Z": (
        '<row r="1"><c r="Z1"/><c r="AB1"/></row>',
        {1: {27: "Mug"}},
        f'<row r="1"><c r="Z1"/>{new("AA1", "Mug")}<c r="AB1"/></row>',
    ),
    "rows and cells without a number follow those before": (
        f'<row>{PLAIN}</row><row r="4">{PLAIN}</row><row><c/><c><v>1</v></c></row>',
        {5: {2: "Mug"}},
        f'<row>{PLAIN}</row><row r="4">{PLAIN}</row><row><c/>{new("B5", "Mug")}</row>',
    ),
    "a prefix of the namespace is kept": (
        '<x:row r="1"><x:c r="A1"/><x:c r="B1"><x:v>1</x:v></x:c></x:row>',
        {1: {1: "a", 2: "b"}},
        f'<x:row r="1">{new("A1", "a", prefix="x:")}{new("B1", "b", prefix="x:")}</x:row>',
    ),
    "what XML and Excel would read otherwise is escaped": (
        f'<row r="1">{PLAIN}</row>',
        {1: {1: " a < b & _x0041_\nÉ😀"}},
        f'<row r="1">{new("A1", " a &lt; b &amp; _x005F_x0041_" + chr(10) + "&#201;&#128512;")}</row>',
    ),
    "signs of XML in attributes, comments and texts are none": (
        '<!-- <row r="1"><c r="A1"/></row> --><row r="1" a=">"><c r="A1" b="/>">'
        '<is><t><![CDATA[<c r="A1"/>]]></t></is></c></row>',
        {1: {1: "Mug"}},
        f'<!-- <row r="1"><c r="A1"/></row> --><row r="1" a=">">{new("A1", "Mug")}</row>',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_only_the_filled_cell_differs(case):
    before, texts, after = CASES[case]
    for mark in ("", "\ufeff"):
        assert filled((mark + worksheet(before)).encode(), texts).decode() == mark + worksheet(after)


def test_a_new_cell_has_the_style_of_its_row_or_else_of_its_column():
    columns = '<cols><col min="2" max="3" style="4"/></cols>'
    rows = (
        f'<row r="1">{PLAIN}</row><row r="2" s="6" customFormat="1"><c r="A2"/></row><row r="3" s="6"><c r="A3"/></row>'
    )
    after = filled(worksheet(rows, columns).encode(), {row: {2: "b"} for row in (1, 2, 3)}).decode()
    assert [f'r="B{row}" s="{style}" ' in after for row, style in ((1, 4), (2, 6), (3, 4))] == [True] * 3


@pytest.mark.parametrize(("stated", "stays"), [("A1:B2", True), ("A1:A2", False), ("A1", False), ("A2:B9", True)])
def test_the_range_of_a_sheet_stays_where_it_is_true(stated, stays):
    dimension = f'<dimension ref="{stated}"/>'
    rows = f'<row r="1">{PLAIN}</row><row r="2"><c r="A2"/></row>'
    after = filled(worksheet(rows, dimension).encode(), {2: {2: "b"}}).decode()
    assert after == worksheet(rows.replace('<c r="A2"/>', f'<c r="A2"/>{new("B2", "b")}'), dimension if stays else "")


def test_formulas_and_cells_under_a_merged_one_are_locked():
    xml = sheet(
        formula("A1", "", of='IF(B1="","",B1)') + text("B1", "x"),
        '<c r="A2"><f t="shared" si="0"/><v>1</v></c>' + formula("B2", "1", "n", t="array", ref="B2:B3"),
        '<c r="A3"/><c r="B3"/>' + text("C3", "x"),
        '<c r="C4"/>',
        after='<mergeCells><mergeCell ref="C3:XFD1048576"/></mergeCells>',
    )
    a_formula = dict.fromkeys([(1, 1), (2, 1), (2, 2), (3, 2)], "a formula is in the cell")
    assert locked_cells(xml.encode()) == a_formula | {(4, 3): "the cell is merged with another one"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("Tea\n\tpot 😀", None),
        ("Mug\x07", r"'\x07' cannot be written in a sheet"),
        ("\ud83d", r"'\ud83d' cannot be written in a sheet"),
        ("x" * 32_768, "more than 32,767 characters, the limit of a cell"),
    ],
)
def test_what_no_cell_can_hold_is_said(value, reason):
    assert unspellable(value) == reason


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (worksheet(f'<row r="1">{PLAIN}</row>').encode("utf-16"), "its XML is in UTF-16"),
        (b"<!DOCTYPE worksheet>" + sheet(PLAIN).encode(), "its XML declares a document type"),
        (sheet(PLAIN).encode(), "its XML has no row 2 that can be filled"),
    ],
)
def test_xml_that_cannot_be_filled_is_refused(content, problem):
    with pytest.raises(ValueError, match=problem):
        filled(content, {2: {1: "Mug"}})
