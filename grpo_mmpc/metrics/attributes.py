"""Check whether a text names a product's known attributes, by exact words."""

import math
from collections.abc import Mapping
from functools import lru_cache

from grpo_mmpc.metrics.text import words

PACK_KINDS = frozenset({"pack", "pack_size", "pack_count", "count", "unit_count", "number_of_items", "quantity"})
"""Kinds whose value is a number of pieces; a bare number in the text does not state them."""

_NUMBER_WORDS = dict(
    zip(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
        map(str, range(1, 13)),
        strict=True,
    )
)
# Before "of 2"; directly before a number only words that end no name ("tote bag 2 pockets").
_PACK_CONTAINERS = frozenset(
    {"pack", "set", "box", "case", "bundle", "lot", "bag", "carton", "count", "quantity", "qty"}
)
_PACK_COUNTERS = frozenset({"pack", "quantity", "qty"})
_PACK_UNITS = frozenset(
    {"pack", "packs", "pk", "pks", "count", "ct", "piece", "pieces", "pc", "pcs", "set", "sets", "unit", "units"}
)
_SPELLINGS = {"grey": "gray", "colour": "color", "multicolour": "multicolor", "aluminium": "aluminum"}


def attribute_recall(*, prediction: str, attributes: Mapping[str, str]) -> float:
    """Return the share of the known attributes whose value is stated; NaN where none is known."""
    scores = [attribute_recall_of(prediction=prediction, attributes=attributes, kind=kind) for kind in attributes]
    known = [score for score in scores if not math.isnan(score)]
    return math.fsum(known) / len(known) if known else math.nan


def attribute_recall_of(*, prediction: str, attributes: Mapping[str, str], kind: str) -> float:
    """Return 1.0 if the prediction states the value of one attribute, else 0.0.

    A value is stated when its words occur in order, as whole words, whatever their case and number
    ("Tote Bags" states "tote bag"; "redwood" does not state "red"). A pack size is stated by a
    phrase such as "pack of 2", "2-pack", "set of two" or "x2", never by a bare number. NaN where
    the item does not know the kind, and for a pack of 1: no title says it.
    """
    value = attributes.get(kind)
    if value is None or not str(value).strip():
        return math.nan
    expected = attribute_words(str(value))
    if kind.casefold() in PACK_KINDS:
        count = next((token for token in expected if token.isdecimal()), None)
        if count is not None:
            return math.nan if int(count) == 1 else float(count in stated_counts(attribute_words(prediction)))
    if not expected:  # only punctuation: nothing that a text could state
        return math.nan
    return float(_states_value(attribute_words(prediction), expected))


@lru_cache(maxsize=4096)
def attribute_words(text: str) -> tuple[str, ...]:
    """Return ``text.words`` with number words as digits and American spelling."""
    return tuple(_NUMBER_WORDS.get(word, _SPELLINGS.get(word, word)) for word in words(text))


def _states_value(tokens: tuple[str, ...], expected: tuple[str, ...]) -> bool:
    width = len(expected)
    return any(
        all(map(_same_word, tokens[start : start + width], expected)) for start in range(len(tokens) - width + 1)
    )


def stated_counts(words: tuple[str, ...]) -> frozenset[str]:
    """Return the numbers of pieces stated: ``pack of 2``, ``pack 2``, ``2 pcs``, ``x2``."""
    counts = set()
    for position, word in enumerate(one.removeprefix("-") for one in words):
        if word.startswith("x") and word[1:].isdecimal():
            counts.add(word[1:])
        if not word.isdecimal():
            continue
        before, after = words[max(0, position - 2) : position], words[position + 1 : position + 2]
        is_of = before[-1:] == ("of",) and before[0].removesuffix("s") in _PACK_CONTAINERS
        if is_of or _PACK_COUNTERS.intersection(before[-1:]) or _PACK_UNITS.intersection(after):
            counts.add(word)
    return frozenset(counts)


def _same_word(first: str, second: str) -> bool:
    return first == second or first in plurals(second) or second in plurals(first)


@lru_cache(maxsize=4096)
def plurals(word: str) -> frozenset[str]:
    """Return regular English plurals of a word; none of codes, sizes and numbers."""
    if len(word) < 3 or not word.isalpha():
        return frozenset()
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return frozenset({word + "es"})
    forms = {word + "s"}
    if word.endswith("o"):
        forms.add(word + "es")
    if word.endswith("y") and word[-2] not in "aeiou":
        forms.add(word[:-1] + "ies")
    if word.endswith("fe"):
        forms.add(word[:-2] + "ves")
    elif word.endswith("f"):
        forms.add(word[:-1] + "ves")
    return frozenset(forms)
