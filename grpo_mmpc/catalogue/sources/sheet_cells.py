"""Fill cells in the XML of a sheet; every other byte of it stays.

A library that loads a workbook and saves it again drops what it does not know: macros, charts,
letters in bold, and the values that formulas had.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape

Place = tuple[int, int]
"""Row and column of a sheet, from 1."""

_TAG = re.compile(rb"""<(?:[^<>"']|"[^"]*"|'[^']*')*>""")
_SPANS = re.compile(rb"""\sspans\s*=\s*(?:"[^"]*"|'[^']*')""")
_ESCAPE = re.compile("_(?=x[0-9A-Fa-f]{4}_)")
"""What would be read as the beginning of an escaped character."""
_UNSPELLABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LONGEST = 32_767
_MOST_COLUMNS = 16_384


def unspellable(text: str) -> str | None:
    """Return the reason why no cell can hold a text, None where one can."""
    if found := _UNSPELLABLE.search(text):
        return f"{found[0]!r} cannot be written in a sheet"
    return f"more than {_LONGEST:,} characters, the limit of a cell" if len(text) > _LONGEST else None


class Survey(NamedTuple):
    """What the cells of a sheet say about it."""

    widest: int
    """The last column with a value."""
    uncomputed: list[Place]
    """Formulas without a value, as where no spreadsheet has saved them."""


def survey(content: bytes) -> Survey:
    """Walk over the cells of a sheet, many times faster than openpyxl reads them."""
    scan = _Scan(content, {})
    return Survey(scan.widest, scan.uncomputed)


def locked_cells(content: bytes) -> dict[Place, str]:
    """Return the cells of a sheet that cannot be filled, with the reason."""
    scan = _Scan(content, {})
    locked = dict.fromkeys(scan.formulas, "a formula is in the cell")
    locked |= {place: "a formula is in the cell" for range_ in scan.arrays for place in scan.places(range_)}
    for range_ in scan.merged:
        covered = scan.places(range_)
        next(covered, None)  # the first one holds the value of all
        locked |= dict.fromkeys(covered, "the cell is merged with another one")
    return locked


def filled(content: bytes, texts: Mapping[int, Mapping[int, str]]) -> bytes:
    """Return the XML of a sheet with some cells filled: texts by row and column.

    Raises:
        ValueError: The sheet has no such row.
    """
    scan = _Scan(content, texts)
    if missing := texts.keys() - scan.rows_filled:
        raise ValueError(f"its XML has no row {min(missing)} that can be filled")
    pieces, at = [], 0
    for edit in sorted(
        [*scan.edits, *_without_dimension(scan)]
    ):  # of several at one place the order is that of their columns
        pieces += [content[at : edit.start], edit.content]
        at = edit.end
    return b"".join([*pieces, content[at:]])


def _without_dimension(scan: "_Scan") -> Iterator["_Edit"]:
    """Yield the edit that drops the range of a sheet, which is a hint, where it is not true."""
    from openpyxl.utils import range_boundaries  # heavy: imported on use

    if scan.dimension is not None:
        element, end = scan.dimension
        left, top, right, bottom = range_boundaries(element.attributes["ref"])
        if any(
            not (top <= row <= bottom and left <= column <= right)
            for row, texts in scan.texts.items()
            for column in texts
        ):
            yield _Edit(element.start, end, 0, b"")


class _Edit(NamedTuple):
    start: int
    end: int
    column: int
    content: bytes


class _Element(NamedTuple):
    start: int
    tag: bytes
    """Its start tag as it stands there."""
    name: str
    """With the prefix of its namespace."""
    attributes: Mapping[str, str]


@dataclass(slots=True)
class _Scan:
    """One walk over the XML of a sheet, with the place of each element in its bytes."""

    content: bytes
    texts: Mapping[int, Mapping[int, str]]
    edits: list[_Edit] = field(default_factory=list)
    rows_filled: set[int] = field(default_factory=set)
    formulas: list[Place] = field(default_factory=list)
    uncomputed: list[Place] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    """Ranges of cells that one formula fills."""
    merged: list[str] = field(default_factory=list)
    dimension: tuple[_Element, int] | None = None
    """The range that the sheet says it fills, and its end."""
    row: int = 0
    column: int = 0
    widest: int = 0
    _has_formula: bool = False
    _has_value: bool = False
    """Of this cell."""
    _path: list[str] = field(default_factory=list)
    _open: dict[str, _Element] = field(default_factory=dict)
    """The row and the cell that the walk is in."""
    _cells: dict[int, tuple[int, int, _Element]] = field(default_factory=dict)
    """Start and end of the cells of this row, by column."""
    _styles: dict[int, str] = field(default_factory=dict)
    """Of the cells of a column that are not there."""

    def __post_init__(self) -> None:
        if b"\0" in self.content[:4]:
            raise ValueError("its XML is in UTF-16")
        parser = expat.ParserCreate()
        parser.StartElementHandler = lambda name, attributes: self._start(parser.CurrentByteIndex, name, attributes)
        parser.EndElementHandler = lambda name: self._end(parser.CurrentByteIndex, name)
        parser.CharacterDataHandler = self._text
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse
        parser.Parse(self.content, True)

    def places(self, range_: str) -> Iterator[Place]:
        """Return the cells of a range, as far as the sheet has been filled."""
        from openpyxl.utils import range_boundaries  # heavy: imported on use

        left, top, right, bottom = range_boundaries(range_)
        rows = range(top or 1, min(bottom or self.row, self.row) + 1)
        columns = range(left or 1, min(right or self.widest, self.widest) + 1)
        return ((row, column) for row in rows for column in columns)

    def _start(self, at: int, name: str, attributes: Mapping[str, str]) -> None:
        self._path.append(name.rpartition(":")[2])
        match self._path:
            case [_, "sheetData", "row", "c"]:
                self.column = _column(attributes["r"]) if "r" in attributes else self.column + 1
                # "str" says that the value is a text, be it empty.
                self._has_value, self._has_formula = attributes.get("t") == "str", False
                if self.row in self.texts:
                    self._enter(at, name, attributes)
            case [_, "sheetData", "row", "c", "f"]:
                self._has_formula = True
                self.formulas.append((self.row, self.column))
                if attributes.get("t") in ("array", "dataTable") and "ref" in attributes:
                    self.arrays.append(attributes["ref"])
            case [_, "sheetData", "row"]:
                self.row = int(float(attributes.get("r", self.row + 1)))
                self.column = 0
                self._cells.clear()
                self._enter(at, name, attributes)
            case [_, "dimension"]:
                self._enter(at, name, attributes)
            case [_, "cols", "col"] if "style" in attributes:
                last = min(int(attributes["max"]), _MOST_COLUMNS)
                self._styles |= dict.fromkeys(range(int(attributes["min"]), last + 1), attributes["style"])
            case [_, "mergeCells", "mergeCell"]:
                self.merged.append(attributes["ref"])

    def _enter(self, at: int, name: str, attributes: Mapping[str, str]) -> None:
        tag = _TAG.match(self.content, at)
        assert tag is not None
        self._open[self._path[-1]] = _Element(at, tag[0], name, attributes)

    def _end(self, at: int, name: str) -> None:
        match self._path:
            case [_, "dimension"]:
                self.dimension = self._open["dimension"], self._after(at, self._open["dimension"])
            case [_, "sheetData", "row"] if self.row in self.texts and self.row not in self.rows_filled:
                self._fill_row(at)
            case [_, "sheetData", "row", "c"]:
                if self.row in self.texts:
                    cell = self._open["c"]
                    self._cells[self.column] = cell.start, self._after(at, cell), cell
                if self._has_value:
                    self.widest = max(self.widest, self.column)
                elif self._has_formula:
                    self.uncomputed.append((self.row, self.column))
        self._path.pop()

    def _text(self, _: str) -> None:
        if self._path[1:2] == ["sheetData"] and self._path[-1] in ("v", "t"):
            self._has_value = True

    def _after(self, at: int, element: _Element) -> int:
        """Return the end of an element; of an empty one the walk is there, else at its end tag."""
        return at if element.tag.endswith(b"/>") else self.content.index(b">", at) + 1

    def _fill_row(self, at: int) -> None:
        row, texts = self._open["row"], self.texts[self.row]
        if row.tag.endswith(b"/>"):  # has no cell, thus no value
            return
        self.rows_filled.add(self.row)
        prefix = row.name[: -len("row")]
        own_style = row.attributes.get("s") if row.attributes.get("customFormat") in ("1", "true") else None
        for column, text in texts.items():
            if column in self._cells:
                start, end, cell = self._cells[column]
                style = cell.attributes.get("s")
            else:
                start = end = min((c[0] for other, c in self._cells.items() if other > column), default=at)
                style = own_style or self._styles.get(column)
            self.edits.append(_Edit(start, end, column, _cell((self.row, column), text, style=style, prefix=prefix)))
        if texts.keys() - self._cells.keys():  # the hint which columns have cells may be wrong now
            start, end = row.start, row.start + len(row.tag)
            self.edits.append(_Edit(start, end, 0, _SPANS.sub(b"", row.tag)))


def _cell(place: Place, text: str, *, style: str | None, prefix: str) -> bytes:
    from openpyxl.utils import get_column_letter  # heavy: imported on use

    own = f"{get_column_letter(place[1])}{place[0]}"
    styled = "" if style is None else f' s="{int(style)}"'
    inner = escape(_ESCAPE.sub("_x005F_", text))
    xml = (
        f'<{prefix}c r="{own}"{styled} t="inlineStr"><{prefix}is><{prefix}t xml:space="preserve">{inner}'
        f"</{prefix}t></{prefix}is></{prefix}c>"
    )
    return xml.encode("ascii", "xmlcharrefreplace")  # right in whatever encoding the XML declares


def _column(coordinate: str) -> int:
    from openpyxl.utils.cell import coordinate_to_tuple  # heavy: imported on use

    return int(coordinate_to_tuple(coordinate)[1])


def _refuse(*_: object) -> None:
    raise ValueError("its XML declares a document type")
