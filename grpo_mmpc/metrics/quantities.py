"""Read quantities from titles: sizes with units as normalised text, counts as numbers."""

import re
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

_UNIT_WORDS = {
    "oz": "oz ozs ounce ounces",
    "lb": "lb lbs pound pounds",
    "g": "g gr gram grams",
    "kg": "kg kgs kilogram kilograms",
    "mg": "mg milligram milligrams",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "l": "l liter liters litre litres",
    "gal": "gal gallon gallons",
    "qt": "qt quart quarts",
    "pt": "pint pints",
    "in": "in inch inches \" '' \u201d \u2033",
    "ft": "ft foot feet ' \u2032",
    "yd": "yd yds yard yards",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "gb": "gb gigabyte gigabytes",
    "tb": "tb terabyte terabytes",
    "mah": "mah",
    "v": "v volt volts",
    "w": "w watt watts",
}
_UNIT_OF = MappingProxyType({word: unit for unit, words in _UNIT_WORDS.items() for word in words.split()})
_LENGTHS = frozenset({"in", "ft", "yd", "mm", "cm", "m"})
_TIMES = frozenset({"x", "\u00d7"})
_MAX_DIMENSIONS = 3
MAX_DIGITS = 12  # longer runs are codes, and a number of thousands of digits cannot be printed

# Numbers, words, and the marks that matter behind a number; a number splits off its unit ("12oz").
_PIECE = re.compile(r"(?<![\w.])\.[0-9]+|[0-9]+(?:[.,/][0-9]+)*|[^\W\d_]+|''|[^\w\s]")


class _Piece(NamedTuple):
    text: str
    start: int
    end: int


class Quantities(NamedTuple):
    """Quantities of one title."""

    sizes: frozenset[str]
    counts: frozenset[str]
    """Numbers of pieces from products such as ``2 x 500 ml``."""
    rest: str
    """The text with a neutral word in place of each measure: its digits are not read again."""


def read_quantities(title: str) -> Quantities:
    """Read the numbers with units and dimensions of a title, and the text without them."""
    pieces = [_Piece(match.group(), *match.span()) for match in _PIECE.finditer(title)]
    sizes: set[str] = set()
    counts: set[str] = set()
    rest: list[str] = []
    done = position = 0
    while position < len(pieces):
        values, units, end = _read_dimensions(pieces, position)
        if len(values) < 2 and not any(units):
            position += 1
            continue
        if len(values) > 1 and any(unit is not None and unit not in _LENGTHS for unit in units):
            # "2 x 500 ml": two bottles, not an area
            counts.update(
                v for v, unit in zip(values, units, strict=True) if unit is None and v.isdecimal() and v != "1"
            )
            sizes.update(f"{v} {unit}" for v, unit in zip(values, units, strict=True) if unit is not None)
        else:
            sizes.add(_dimensions(values, units))
        rest += [title[done : pieces[position].start], " measure "]
        done, position = pieces[end - 1].end, end
    return Quantities(frozenset(sizes), frozenset(counts), "".join([*rest, title[done:]]))


def _read_dimensions(pieces: list[_Piece], position: int) -> tuple[list[str], list[str | None], int]:
    # numbers and units joined by "x"; the position behind them comes back too, as below
    values: list[str] = []
    units: list[str | None] = []
    if position and pieces[position - 1].end == pieces[position].start and pieces[position - 1].text.isalpha():
        return values, units, position  # digits inside a word, such as A4 or X100
    end = position
    while len(values) < _MAX_DIMENSIONS:
        value, behind = _read_number(pieces, position)
        if value is None:
            break
        unit, behind = _read_unit(pieces, behind)
        if unit is None and _joined_to_word(pieces, behind):
            break  # "2pack", "1080p"
        values.append(value)
        units.append(unit)
        end = behind
        if behind >= len(pieces) or pieces[behind].text.lower() not in _TIMES:
            break
        position = behind + 1
    return values, units, end


def _read_number(pieces: list[_Piece], position: int) -> tuple[str | None, int]:
    value = _number(pieces[position].text) if position < len(pieces) else None
    if value is None:
        return None, position
    behind = position + 1
    fraction = behind + (behind < len(pieces) and pieces[behind].text == "-")
    if value.denominator == 1 and fraction < len(pieces) and "/" in pieces[fraction].text:
        part = _number(pieces[fraction].text)
        if part is not None and part < 1:
            value, behind = value + part, fraction + 1
    return f"{float(value):.3f}".rstrip("0").rstrip("."), behind


def _number(text: str) -> Fraction | None:
    if not text[-1:].isdecimal() or len(text) > MAX_DIGITS:
        return None
    if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?", text):
        text = text.replace(",", "")
    try:
        return Fraction(text.replace(",", "."))
    except (ValueError, ZeroDivisionError):  # 1.2.3, 24/0
        return None


def _read_unit(pieces: list[_Piece], position: int) -> tuple[str | None, int]:
    start = position
    if start + 1 < len(pieces) and pieces[start].text == "-" and pieces[start].end == pieces[start + 1].start:
        start += 1
    words = [piece.text.lower() for piece in pieces[start : start + 3]]
    if words[:1] in (["fl"], ["fluid"]):
        ounces = 2 if words[1:2] == ["."] else 1
        if len(words) > ounces and _UNIT_OF.get(words[ounces]) == "oz":
            return "fl oz", start + ounces + 1
    unit = _UNIT_OF.get(words[0]) if words else None
    if unit is None or (words[0] == "in" and not _means_inches(pieces, start)):
        return None, position
    if words[0] in ("'", "\u2032") and _joined_to_word(pieces, start + 1) and words[1:2] != ["x"]:
        return None, position  # the 90's
    return unit, start + 1


def _means_inches(pieces: list[_Piece], position: int) -> bool:
    # joined to its number, before a full stop or before a dimension
    unit = pieces[position]
    following = pieces[position + 1] if position + 1 < len(pieces) else _Piece("", -1, -1)
    if pieces[position - 1].end == unit.start:
        return not (following.text.isdecimal() and following.start == unit.end)  # "3in1"
    return following.text == "." or following.text.lower() in _TIMES


def _joined_to_word(pieces: list[_Piece], position: int) -> bool:
    if position >= len(pieces) or pieces[position].start != pieces[position - 1].end:
        return False
    return pieces[position].text.isalpha() and pieces[position].text.lower() not in _TIMES


def _dimensions(values: list[str], units: list[str | None]) -> str:
    known = [unit for unit in units if unit is not None]
    if len(set(known)) > 1:
        return " x ".join(f"{value} {unit}" if unit else value for value, unit in zip(values, units, strict=True))
    return "x".join(values) + (f" {known[0]}" if known else "")
