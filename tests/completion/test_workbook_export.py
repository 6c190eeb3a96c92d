"""grpo-mmpc data export of a workbook: the filled cells alone differ, in every part of it."""

import re
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.catalogue.workbook_files import formula, sheet, text, write_workbook
from tests.completion.test_export import exported, proposal, shop

__all__ = ["shop"]

HEADER = text("A1", "id") + text("B1", "name") + text("C1", "photo")
MACROS = "application/vnd.ms-excel.sheet.macroEnabled.main+xml"


def item(row: int, title: str = "", more: str = "") -> str:
    return text(f"A{row}", f"{row}") + title + text(f"C{row}", "a.png") + more


def parts(file: Path) -> dict[str, bytes]:
    with ZipFile(file) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def differing(shop: Path, name: str = "list.xlsx") -> list[str]:
    """Return the parts of a workbook that its export has changed."""
    before, after = parts(shop / name), parts(shop / f"out{Path(name).suffix}")
    assert list(before) == list(after)
    return [part for part in before if before[part] != after[part]]


def title(row: int, value: str) -> str:
    return f'<c r="B{row}" t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'


@pytest.mark.parametrize(("name", "kind"), [("list.xlsx", None), ("list.xlsm", MACROS), ("LIST.XLSM", MACROS)])
def test_every_other_part_of_a_workbook_stays(shop, capfd, name, kind):
    further = {"xl/vbaProject.bin": b"macros", "xl/charts/chart1.xml": b"<a chart/>", "xl/media/a.png": b"\x89PNG"}
    rich = '<c r="D2" t="inlineStr"><is><r><rPr><b/></rPr><t>bold</t></r></is></c>'
    xml = sheet(HEADER, item(2, more=rich), item(3, text("B3", "Kept")))
    options = {} if kind is None else {"kind": kind}
    exported(write_workbook(shop / name, xml, sheet(text("A1", "x")), parts=further, **options), proposal("2", "Mug"))
    assert differing(shop, name) == ["xl/s1.xml"]
    after = parts(shop / f"out{Path(name).suffix}")["xl/s1.xml"].decode()
    assert after == xml.replace('<c r="C2"', title(2, "Mug") + '<c r="C2"')
    assert not capfd.readouterr().err


def test_values_of_formulas_stay_and_are_computed_again_on_opening(shop):
    xml = sheet(HEADER, item(2, more=formula("D2", "7", "n")), item(3, text("B3", "Kept"), formula("D3", " mug")))
    exported(write_workbook(shop / "list.xlsx", xml), proposal("2", "Mug"))
    assert differing(shop) == ["xl/workbook.xml", "xl/s1.xml"]
    after = parts(shop / "out.xlsx")
    assert after["xl/s1.xml"].decode() == xml.replace('<c r="C2"', title(2, "Mug") + '<c r="C2"')
    assert b'<calcPr fullCalcOnLoad="1" calcId="191029"/>' in after["xl/workbook.xml"]


@pytest.mark.parametrize("value", ["", " "])
def test_titles_below_a_row_that_is_empty_but_for_a_formula_go_into_their_own_rows(shop, value):
    rows = [HEADER, item(2, text("B2", "Kept")), formula("D3", value), item(4), item(5, text("B5", "Pot")), item(6)]
    exported(write_workbook(shop / "list.xlsx", sheet(*rows)), proposal("4", "Mug"), proposal("6", "Tea"))
    after = parts(shop / "out.xlsx")["xl/s1.xml"].decode()
    assert after == sheet(*rows[:3], item(4, title(4, "Mug")), rows[4], item(6, title(6, "Tea")))


@pytest.mark.parametrize("header", [formula("B1", "name", of='"na"&amp;"me"'), text("B1", "name")])
def test_cells_that_cannot_be_filled_are_counted_with_the_reason(shop, capsys, header):
    rows = [
        HEADER.replace(text("B1", "name"), header),
        *(item(2), item(3), item(4, formula("B4", "")), item(5), item(6, "<c r='B6'/>")),
    ]
    xml = sheet(*rows, after='<mergeCells><mergeCell ref="B2:B3"/></mergeCells>')
    values = {"2": "Mug", "3": "Pot", "4": "Tea", "5": "Bell\x07", "6": "Cup"}
    exported(write_workbook(shop / "list.xlsx", xml), *(proposal(*pair) for pair in values.items()))
    after = parts(shop / "out.xlsx")["xl/s1.xml"].decode()
    assert re.findall(r"preserve\">(.*?)<", after) == ["Mug", "Cup"]
    said = capsys.readouterr().out
    assert "2 title cells filled" in said
    for reason in ("the cell is merged with another one", "a formula is in the cell", r"'\x07' cannot be written"):
        assert f"1 not written: {reason}" in said


def test_what_was_exported_can_be_imported_and_exported_again(shop):
    rows = [HEADER, item(2, more=formula("D2", "7", "n")), item(3, text("B3", "Kept"), formula("D3", "")), item(4)]
    exported(write_workbook(shop / "list.xlsx", sheet(*rows)), proposal("2", "_x0041_ & <Mug>"))
    (shop / "out.xlsx").rename(shop / "list.xlsx")
    exported(shop / "list.xlsx", proposal("2", "never"), proposal("4", "Pot"))
    assert differing(shop) == ["xl/s1.xml"]
    after = parts(shop / "out.xlsx")["xl/s1.xml"].decode()
    first = title(2, "_x005F_x0041_ &amp; &lt;Mug&gt;")
    assert after == sheet(HEADER, item(2, first, formula("D2", "7", "n")), rows[2], item(4, title(4, "Pot")))
