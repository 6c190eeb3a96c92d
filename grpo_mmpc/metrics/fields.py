"""The fields that a title states: values of the catalogue's own attributes, and facts by rule."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache

from grpo_mmpc.metrics.attributes import PACK_KINDS, attribute_recall_of, attribute_words, plurals
from grpo_mmpc.metrics.extraction import extract_attributes

_COLOR_KINDS = frozenset({"color", "colour"})
_MOST_WORDS = 5
_MOST_VALUES = 20_000
"""Values of a kind; one with more, or with a value of its own for nearly every item, is free
text."""


class Fields:
    """Reads titles for the values that a catalogue's attributes take, and for facts by rule.

    A kind of which a title has no value that the catalogue knows is read by rule, pack counts
    always; see ``extract_attributes`` for its kinds.
    """

    def __init__(self, attributes: Iterable[Mapping[str, str]]) -> None:
        """Learn the values of each kind from the attributes of all items."""
        values: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
        for known in attributes:
            for kind, value in known.items():
                if kind_of(kind) != "count" and len(values[kind]) <= _MOST_VALUES:
                    values[kind][attribute_words(value)] += 1
        self._starts: defaultdict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for kind, counts in values.items():
            if len(counts) > _MOST_VALUES or (len(counts) > 20 and 10 * len(counts) > 9 * counts.total()):
                continue
            for spelled in counts:
                if 0 < len(spelled) <= _MOST_WORDS and not all(word.isdecimal() for word in spelled):
                    for first in {spelled[0], *plurals(spelled[0])}:
                        self._starts[first].append((spelled, kind_of(kind)))
        self.stated = lru_cache(maxsize=1024)(self._stated)

    def _stated(self, title: str) -> Mapping[str, frozenset[str]]:
        tokens = attribute_words(title)
        values: defaultdict[str, set[str]] = defaultdict(set)
        position = 0
        while position < len(tokens):
            fitting = [
                (spelled, kind)
                for spelled, kind in self._starts.get(tokens[position], ())
                if len(tokens) >= position + len(spelled)
                and all(map(_is_same, spelled, tokens[position : position + len(spelled)]))
            ]
            longest = max((len(spelled) for spelled, _ in fitting), default=1)
            for spelled, kind in fitting:
                if len(spelled) == longest:
                    values[kind].add(" ".join(spelled))
            position += longest
        read = {kind: frozenset(spelled) for kind, spelled in values.items()}
        return read | {kind: facts for kind, facts in extract_attributes(title).items() if kind not in read}


def kind_of(name: str) -> str:
    """Return the kind of ``extract_attributes`` that an attribute's name means, or the name."""
    name = name.casefold()
    return "count" if name in PACK_KINDS else "color" if name in _COLOR_KINDS else name


def contradicted(stated: Mapping[str, frozenset[str]], attributes: Mapping[str, str]) -> list[str]:
    """Return the kinds of which a title states only other values than an item's attributes."""
    return [
        kind
        for kind, values in stated.items()
        if (known := [value for name, value in attributes.items() if kind_of(name) == kind_of(kind)])
        and not any(agrees(value, kind, one) for value in values for one in known)
    ]


def agrees(fact: str, kind: str, value: str) -> bool:
    """Return whether an attribute's value says a fact that a title states."""
    if attribute_recall_of(prediction=value, attributes={"": fact}, kind="") == 1.0:
        return True
    context = {"count": "pack of {}", "size": "size {}"}.get(kind_of(kind), "{}")
    return any(fact in extract_attributes(text).get(kind_of(kind), ()) for text in (value, context.format(value)))


def _is_same(first: str, second: str) -> bool:
    return first == second or second in plurals(first)
