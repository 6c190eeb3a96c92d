"""Extract checkable facts from a title: colours, sizes, pack counts, model numbers, a known brand.

Rules, not a model: what a pattern is not sure of is left out, because a false fact costs twice.
Facts are compared as normalised values:

- ``color``: English colour words ("grey" is ``gray``); none that are mostly a food, a flower or a
  verb ("cream", "rose", "clear").
- ``size``: a number with a unit, never converted ("16 Ounces" is ``16 oz``); dimensions in their
  order (``10"x8"`` is ``10x8 in``); clothing sizes ("Large" is ``l``, "size 7" is ``size 7``). One
  letter alone counts only behind "size" or between separators; "in" behind a space only before a
  full stop or another dimension ("3 in 1").
- ``count``: the number in "pack of 2", "2-pack", "2 pcs", "x2", "2 x 500 ml"; never a bare number,
  never 1.
- ``model``: a word of letters and digits, four characters and two digits at least ("WH-1000XM4" is
  ``wh1000xm4``), that is no measure, count or ordinal.
- ``brand``: the item's known brand, where the title states it.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from grpo_mmpc.metrics.attributes import attribute_recall_of, attribute_words, stated_counts
from grpo_mmpc.metrics.quantities import MAX_DIGITS, read_quantities

KINDS = ("brand", "color", "size", "count", "model")
"""Every kind of fact."""

_COLOR_WORDS = (
    "red orange yellow green blue purple pink brown black white gray beige tan navy teal turquoise burgundy maroon "
    "magenta cyan lavender violet indigo gold silver bronze copper ivory khaki charcoal crimson fuchsia aqua "
    "multicolor multicolored"
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
_CLOTHING = re.compile(
    r"(?<![^\W_])(?:(?:(?P<more>extra|x{1,4}|[2-6]x)[ -]?)?(?P<word>small|large)|(?P<medium>medium)"
    r"|(?P<times>x{1,4}|[2-6]x)(?P<letter>s|l))(?![^\W_])",
    re.IGNORECASE,
)
_LETTER_SIZE = re.compile(r"(?:^|[,(|/\[]) ?([SML])(?= ?(?:$|[,)|/\]]))|\b(?i:size:?) ([SML])\b")
_NUMBERED_SIZE = re.compile(r"\bsize:? ([0-9]{1,3}(?:\.[0-9])?)(?![\w.])", re.IGNORECASE)
_LONG_TIMES = re.compile(r"x[0-9]{3,}")
_CODE = re.compile(r"(?<![^\W_])[a-z0-9]+(?:-[a-z0-9]+)*(?![^\W_])", re.IGNORECASE | re.ASCII)
_NOT_A_MODEL = re.compile(r"[0-9-]*[a-z]*|[0-9]+-?(?:in|x)-?[0-9]+", re.IGNORECASE)


class Agreement(NamedTuple):
    """Agreement of the facts of a predicted and the true title; NaN = cannot be judged."""

    precision: float
    recall: float
    f1: float


def compare_titles(*, prediction: str, reference: str, brand: str | None = None) -> Agreement:
    """Compare the facts that two titles state.

    Precision is NaN where the prediction states no fact, recall where the reference states none, F1
    where neither does; with facts on one side only F1 is 0.
    """
    predicted, expected = _facts(prediction, brand), _facts(reference, brand)
    hits = len(predicted & expected)
    return Agreement(
        precision=hits / len(predicted) if predicted else math.nan,
        recall=hits / len(expected) if expected else math.nan,
        f1=2 * hits / (len(predicted) + len(expected)) if predicted or expected else math.nan,
    )


def extract_attributes(title: str, *, brand: str | None = None) -> dict[str, frozenset[str]]:
    """Return the facts that a title states, by kind; kinds without a fact are absent."""
    quantities = read_quantities(title)
    facts: Mapping[str, frozenset[str]] = {
        "brand": _brand(title, brand),
        "color": _colors(title),
        "size": quantities.sizes | _clothing_sizes(quantities.rest),
        "count": quantities.counts | _pack_counts(quantities.rest),
        "model": _models(quantities.rest),
    }
    return {kind: facts[kind] for kind in KINDS if facts[kind]}


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
    colors = set()
    taken = -1
    for position, pair in enumerate(pairwise((*tokens, ""))):
        if pair in _COLOR_PAIRS:
            colors.add(_COLOR_PAIRS[pair])
            taken = position + 1
        elif pair[0] in _COLORS and position != taken:
            colors.add("multicolor" if pair[0] == "multicolored" else pair[0])
    return frozenset(colors)


def _clothing_sizes(text: str) -> frozenset[str]:
    sizes = {f"size {match[1].removesuffix('.0')}" for match in _NUMBERED_SIZE.finditer(text)}
    sizes |= {(match[1] or match[2]).lower() for match in _LETTER_SIZE.finditer(text)}
    for match in _CLOTHING.finditer(text):
        if match["medium"]:
            sizes.add("m")
            continue
        times = (match["more"] or match["times"] or "").lower()
        count = int(times[0]) if times[:1].isdecimal() else 1 if times == "extra" else len(times)
        base = (match["word"] or match["letter"])[0].lower()
        sizes.add({0: "", 1: "x"}.get(count, f"{count}x") + base)
    if re.search(r"\bone size\b", text, re.IGNORECASE):
        sizes.add("one size")
    return frozenset(sizes)


def _pack_counts(text: str) -> frozenset[str]:
    # "x" before three digits and more begins a model: X100.
    words = tuple("" if _LONG_TIMES.fullmatch(word) else word for word in attribute_words(text))
    counts = {int(count) for count in stated_counts(words) if len(count) <= MAX_DIGITS}
    return frozenset(str(count) for count in counts if count > 1)


def _models(text: str) -> frozenset[str]:
    models = set()
    for match in _CODE.finditer(text):
        code = match.group()
        core = code.replace("-", "")
        num_digits = sum(map(str.isdecimal, core))
        if not 4 <= len(core) <= 24 or num_digits < 2 or num_digits == len(core) or _NOT_A_MODEL.fullmatch(code):
            continue
        # Words joined to numbers are models in capitals only: "RT-2000", not "covid-19".
        is_mixed = any(part.isalnum() and not part.isalpha() and not part.isdecimal() for part in code.split("-"))
        if is_mixed or code.upper() == code:
            models.add(core.lower())
    return frozenset(models)
