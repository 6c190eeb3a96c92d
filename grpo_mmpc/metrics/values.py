"""Compare the values of two JSON objects of texts key by key: an answer's and the catalogue's."""

import json
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from grpo_mmpc.metrics.attributes import PACK_KINDS, attribute_words, plurals

RECALL = "attribute_recall"
"""The measure that answers of text have, too."""


class Values(NamedTuple):
    """The keys that a catalogue knows of an item, counted by what an answer says of them.

    What an answer says of other keys cannot be judged.
    """

    known: int
    answered: int
    """Known ones that the answer has a value for; it abstains from the others."""
    right: int
    """Answered ones whose value is the same once normalised."""
    exact: int
    """Answered ones whose value is the same to the letter."""


def compare_values(*, prediction: str | None, reference: str, key: str | None = None) -> Values:
    """Count the keys of a reference by what a prediction says of them.

    Args:
        prediction: The text of a JSON object of texts; None, a malformed answer, states nothing.
        reference: The same of the catalogue's values.
        key: The only key to look at; None looks at all.
    """
    stated: Mapping[str, str] = json.loads(prediction or "{}")
    truth: Mapping[str, str] = json.loads(reference)
    known = [name for name in truth if key in (None, name)]
    answered = [name for name in known if name in stated]
    return Values(
        known=len(known),
        answered=len(answered),
        right=sum(is_same(stated[name], truth[name], kind=name) for name in answered),
        exact=sum(stated[name] == truth[name] for name in answered),
    )


def is_same(first: str, second: str, *, kind: str) -> bool:
    """Return whether two values of a kind are one: case, spelling, plurals and number words aside.

    Of kinds that count pieces the number decides: ``Pack of 2`` is ``2``.
    """
    words = attribute_words(first), attribute_words(second)
    if kind.casefold() in PACK_KINDS:
        counts = [next((word for word in side if word.isdecimal()), None) for side in words]
        if None not in counts:
            return counts[0] == counts[1]
    if not any(words):  # only punctuation
        return first == second
    pairs = zip(*words, strict=False)
    return len(words[0]) == len(words[1]) and all(a == b or a in plurals(b) or b in plurals(a) for a, b in pairs)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


MEASURES: Mapping[str, tuple[str, Callable[[Values], float]]] = {
    "attribute_exact": (
        "share of the values that the catalogue knows which the answer gives to the letter",
        lambda values: _share(values.exact, values.known),
    ),
    "attribute_precision": (
        "share of the answer's values that are right, normalised; unscored where it gives none",
        lambda values: _share(values.right, values.answered),
    ),
    "attribute_f1": (
        "F1 of the answer's values, normalised",
        lambda values: _share(2 * values.right, values.known + values.answered),
    ),
    "attribute_abstention": (
        "share of the values that the catalogue knows which the answer leaves out",
        lambda values: _share(values.known - values.answered, values.known),
    ),
    RECALL: (
        "share of the item's known attributes that the answer states",
        lambda values: _share(values.right, values.known),
    ),
}
"""By metric, its description and its value of one item; NaN = unscored."""
