"""Workbooks written by hand, with XML that openpyxl would not write."""

from collections.abc import Mapping
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"


def text(place: str, value: str) -> str:
    """The XML of a cell that holds a text."""
    return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'


def formula(place: str, value: str, kind: str = "str", *, of: str = "1", **attributes: str) -> str:
    """The XML of a cell that holds a formula, and the value that Excel computed."""
    own = "".join(f' {name}="{attribute}"' for name, attribute in attributes.items())
    return f'<c r="{place}" t="{kind}"><f{own}>{of}</f><v>{value}</v></c>'


def sheet(*rows: str, before: str = "", after: str = "") -> str:
    """The XML of a sheet: each row the XML of its cells, the first one in row 1."""
    data = "".join(f'<row r="{number}">{row}</row>' for number, row in enumerate(rows, start=1) if row)
    return f'<worksheet xmlns="{MAIN}">{before}<sheetData>{data}</sheetData>{after}</worksheet>'


def write_workbook(
    file: Path, *sheets: str, hidden: tuple[int, ...] = (), parts: Mapping[str, bytes] | None = None, kind: str = _TYPE
) -> Path:
    """Write a workbook of such sheets, S1, S2 ..., with further parts."""
    numbers = range(1, len(sheets) + 1)
    states = {number: "hidden" if number in hidden else "visible" for number in numbers}
    listed = "".join(f'<sheet name="S{n}" sheetId="{n}" state="{states[n]}" r:id="r{n}"/>' for n in numbers)
    related = "".join(f'<Relationship Id="r{n}" Type="{_OFFICE}/worksheet" Target="s{n}.xml"/>' for n in numbers)
    relations = f'<Relationships xmlns="{_PACKAGE}/relationships">'
    content = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Override PartName="/xl/workbook.xml" '
        f'ContentType="{kind}"/></Types>',
        "_rels/.rels": f'{relations}<Relationship Id="r" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        "</Relationships>",
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{_OFFICE}"><sheets>{listed}</sheets>'
        '<calcPr calcId="191029"/></workbook>',
        "xl/_rels/workbook.xml.rels": f"{relations}{related}</Relationships>",
        **{f"xl/s{number}.xml": xml for number, xml in enumerate(sheets, start=1)},
    }
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for name, part in {**content, **(parts or {})}.items():
            archive.writestr(name, part)
    return file
