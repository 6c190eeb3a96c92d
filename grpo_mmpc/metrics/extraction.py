"""Finds the checkable facts in a title: colours, sizes and measures, pack counts, model numbers, and a known brand.

Rules, not a model: each kind is found by the pattern described here, and what a pattern is not sure
of is left out, because a false fact costs twice. Facts are compared as normalised values:

- ``color``: English colour words ("grey" is ``gray``, "navy blue" is ``navy``). Words that are
  mostly a food, a flower or a verb are no colours ("cream", "rose", "clear").
- ``size``: a number with a unit, never converted ("16 Ounces" is ``16 oz``, ``10"`` is ``10 in``,
  "1-1/2 inch" is ``1.5 in``); dimensions in their order ("10 x 8 inches" and ``10"x8"`` are both
  ``10x8 in``); clothing sizes ("Large" and "size L" are ``l``, "XXL" is ``2xl``, "size 7" is ``size
  7``). One letter alone counts only behind "size" or between separators ("Shirt, M", not "Type M");
  "in" behind a space only before a full stop or another dimension ("3 in 1").
- ``count``: the number in "pack of 2", "2-pack", "2 pcs", "set of two", "x2", "2 x 500 ml"; never a
  bare number, never 1.
- ``model``: a word of letters and digits, four characters and two digits at least ("WH-1000XM4" is
  ``wh1000xm4``), that is no measure, count or ordinal. Digits followed by letters alone are left
  out ("1080p", "60Hz").
- ``brand``: the item's known brand, where the title states it. An unknown brand cannot be told from
  other words.

The text is read once per kind: time grows linearly with its length.
"""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from grpo_mmpc.metrics.attributes import (
    PACK_CONTAINERS,
    PACK_COUNTERS,
    PACK_UNITS,
    attribute_recall_of,
    attribute_words,
)

KINDS = ("brand", "color", "size", "count", "model")
"""Every kind of fact."""

_COLOR_WORDS = (
    "red orange yellow green blue purple pink brown black white gray beige tan navy teal turquoise burgundy maroon magenta "
    "cyan lavender violet indigo gold silver bronze copper ivory khaki charcoal crimson fuchsia aqua multicolor multicolored"
)
_COLORS = frozenset(_COLOR_WORDS.split())
# Two words that name one colour, where each alone would name another one or none.
_COLOR_PAIRS = MappingProxyType(
    {
        ("navy", "blue"): "navy",
        ("rose", "gold"): "rose gold",
        ("off", "white"): "off white",
        ("multi", "color"): "multicolor",
        ("multi", "colored"): "multicolor",
    }
)
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
_MAX_DIGITS = 12  # longer runs are codes, and a number of thousands of digits cannot be printed

# Numbers, words, and the marks that matter behind a number; a number splits off the unit behind it
# ("12oz").
_PIECE = re.compile(r"(?<![\w.])\.[0-9]+|[0-9]+(?:[.,/][0-9]+)*|[^\W\d_]+|''|[^\w\s]")
_CLOTHING = re.compile(
    r"(?<![^\W_])(?:(?:(?P<more>extra|x{1,4}|[2-6]x)[ -]?)?(?P<word>small|large)|(?P<medium>medium)"
    r"|(?P<times>x{1,4}|[2-6]x)(?P<letter>s|l))(?![^\W_])",
    re.IGNORECASE,
)
_LETTER_SIZE = re.compile(r"(?:^|[,(|/\[]) ?([SML])(?= ?(?:$|[,)|/\]]))|\b(?i:size:?) ([SML])\b")
_NUMBERED_SIZE = re.compile(r"\bsize:? ([0-9]{1,3}(?:\.[0-9])?)(?![\w.])", re.IGNORECASE)
_CODE = re.compile(r"(?<![^\W_])[a-z0-9]+(?:-[a-z0-9]+)*(?![^\W_])", re.IGNORECASE | re.ASCII)
_NOT_A_MODEL = re.compile(r"[0-9-]*[a-z]*|[0-9]+-?(?:in|x)-?[0-9]+", re.IGNORECASE)


class Agreement(NamedTuple):
    """How far the facts of a predicted title agree with those of the true one; NaN = cannot be judged."""

    precision: float
    recall: float
    f1: float


class _Piece(NamedTuple):
    text: str
    start: int
    end: int


class _Measures(NamedTuple):
    sizes: frozenset[str]
    counts: frozenset[str]
    rest: str
    """The text with a neutral word in the place of each measure, so that its digits are not read
    again."""


def compare_titles(*, prediction: str, reference: str, brand: str | None = None) -> Agreement:
    """Agreement of the facts that two titles state.

    Args:
        prediction: The policy's title.
        reference: The true title.
        brand: The item's brand, if it is known.

    Returns:
        Shares in [0, 1]. Precision is NaN where the prediction states no fact, recall where the
        reference states none, F1 where neither does; with facts on one side only F1 is 0.
    """
    predicted, expected = _facts(prediction, brand), _facts(reference, brand)
    hits = len(predicted & expected)
    return Agreement(
        precision=hits / len(predicted) if predicted else math.nan,
        recall=hits / len(expected) if expected else math.nan,
        f1=2 * hits / (len(predicted) + len(expected)) if predicted or expected else math.nan,
    )


def extract_attributes(title: str, *, brand: str | None = None) -> dict[str, frozenset[str]]:
    """The facts that a title states, by kind; kinds without a fact are absent. See the module for what counts.

    Args:
        title: Any text.
        brand: The item's brand, if it is known.
    """
    measures = _measures(title)
    found: Mapping[str, frozenset[str]] = {
        "brand": _brand(title, brand),
        "color": _colors(title),
        "size": measures.sizes | _clothing_sizes(measures.rest),
        "count": measures.counts | _pack_counts(measures.rest),
        "model": _models(measures.rest),
    }
    return {kind: found[kind] for kind in KINDS if found[kind]}


@lru_cache(maxsize=4096)
def _facts(title: str, brand: str | None) -> frozenset[tuple[str, str]]:
    return frozenset(
        (kind, value) for kind, values in extract_attributes(title, brand=brand).items() for value in values
    )


def _brand(title: str, brand: str | None) -> frozenset[str]:
    if brand is None or attribute_recall_of(prediction=title, attributes={"brand": brand}, kind="brand") != 1.0:
        return frozenset()
    return frozenset({" ".join(attribute_words(brand))})


def _colors(title: str) -> frozenset[str]:
    tokens = attribute_words(title)
    found = set()
    taken = -1
    for position, pair in enumerate(pairwise((*tokens, ""))):
        if pair in _COLOR_PAIRS:
            found.add(_COLOR_PAIRS[pair])
            taken = position + 1
        elif pair[0] in _COLORS and position != taken:
            found.add("multicolor" if pair[0] == "multicolored" else pair[0])
    return frozenset(found)


def _measures(title: str) -> _Measures:
    """Numbers with units and dimensions, and the text without them."""
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
    return _Measures(frozenset(sizes), frozenset(counts), "".join([*rest, title[done:]]))


def _read_dimensions(pieces: list[_Piece], position: int) -> tuple[list[str], list[str | None], int]:
    """Numbers and their units, joined by "x", from a position on; and the position behind them."""
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
    """The number at a position as plain decimal text, whole numbers with fractions included, and the position behind."""
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
    if not text[-1:].isdecimal() or len(text) > _MAX_DIGITS:
        return None
    if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?", text):
        text = text.replace(",", "")
    try:
        return Fraction(text.replace(",", "."))
    except (ValueError, ZeroDivisionError):  # 1.2.3, 24/0
        return None


def _read_unit(pieces: list[_Piece], position: int) -> tuple[str | None, int]:
    """The unit behind a number, through a hyphen too ("12-inch"), and the position behind it."""
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
    """Whether an "in" behind a number is a unit: joined to it, before a full stop, or before another dimension."""
    unit = pieces[position]
    following = pieces[position + 1] if position + 1 < len(pieces) else _Piece("", -1, -1)
    if pieces[position - 1].end == unit.start:
        return not (following.text.isdecimal() and following.start == unit.end)  # "3in1"
    return following.text == "." or following.text.lower() in _TIMES


def _joined_to_word(pieces: list[_Piece], position: int) -> bool:
    """Whether a word that is not "x" starts right where the piece before ends."""
    if position >= len(pieces) or pieces[position].start != pieces[position - 1].end:
        return False
    return pieces[position].text.isalpha() and pieces[position].text.lower() not in _TIMES


def _dimensions(values: list[str], units: list[str | None]) -> str:
    known = [unit for unit in units if unit is not None]
    if len(set(known)) > 1:
        return " x ".join(f"{value} {unit}" if unit else value for value, unit in zip(values, units, strict=True))
    return "x".join(values) + (f" {known[0]}" if known else "")


def _clothing_sizes(text: str) -> frozenset[str]:
    found = {f"size {match[1].removesuffix('.0')}" for match in _NUMBERED_SIZE.finditer(text)}
    found |= {(match[1] or match[2]).lower() for match in _LETTER_SIZE.finditer(text)}
    for match in _CLOTHING.finditer(text):
        if match["medium"]:
            found.add("m")
            continue
        times = (match["more"] or match["times"] or "").lower()
        count = int(times[0]) if times[:1].isdecimal() else 1 if times == "extra" else len(times)
        base = (match["word"] or match["letter"])[0].lower()
        found.add({0: "", 1: "x"}.get(count, f"{count}x") + base)
    if re.search(r"\bone size\b", text, re.IGNORECASE):
        found.add("one size")
    return frozenset(found)


def _pack_counts(text: str) -> frozenset[str]:
    """Numbers of pieces stated by a phrase: the rule of ``attribute_recall_of``, for every number at once."""
    tokens = attribute_words(text)
    found = set()
    for position, token in enumerate(tokens):
        if re.fullmatch(r"x[0-9]{1,2}", token):  # longer ones are models: X100
            found.add(int(token[1:]))
        if not token.isdecimal() or len(token) > _MAX_DIGITS:
            continue
        before = tokens[max(0, position - 2) : position]
        is_of = before[-1:] == ("of",) and before[0].removesuffix("s") in PACK_CONTAINERS
        if is_of or set(before[-1:]) & PACK_COUNTERS or set(tokens[position + 1 : position + 2]) & PACK_UNITS:
            found.add(int(token))
    return frozenset(str(count) for count in found if count > 1)


def _models(text: str) -> frozenset[str]:
    found = set()
    for match in _CODE.finditer(text):
        code = match.group()
        core = code.replace("-", "")
        num_digits = sum(map(str.isdecimal, core))
        if not 4 <= len(core) <= 24 or num_digits < 2 or num_digits == len(core) or _NOT_A_MODEL.fullmatch(code):
            continue
        # Whole words joined to numbers are models in capitals only: "RT-2000", not "covid-19" or
        # "pre-2024".
        is_mixed = any(part.isalnum() and not part.isalpha() and not part.isdecimal() for part in code.split("-"))
        if is_mixed or code.upper() == code:
            found.add(core.lower())
    return frozenset(found)
