"""The look beside an item before a model is asked: titles that the catalogue itself gives.

A title is taken from a variant of the same product, from an item with the same image, or from the
item's own other fields. What the item's attributes say otherwise is adapted word by word; a title
that cannot be adapted for certain is not taken, and one that says more than is known waits for
review.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.catalogue.reader import arrow_column
from grpo_mmpc.catalogue.splits import image_groups, parents_of
from grpo_mmpc.metrics.attributes import attribute_recall_of, attribute_words
from grpo_mmpc.metrics.extraction import extract_attributes
from grpo_mmpc.metrics.fields import agrees, kind_of
from grpo_mmpc.types import ProductRecord

GivenBy = Literal["sibling", "same image", "own field"]
"""What gave a title: a variant, an item with the same image, a field of the item itself."""

_NAME_KINDS = frozenset({"title", "name", "product name", "product title", "item name"})
"""Attributes that are a title."""
_LONGEST_HEADING = 150
_PACK = r"(?:(?:(?:pack|set|box|case|lot|bundle)s? of |x ?){0}|{0}[ -]?(?:packs?|pk|count|ct|pieces?|pcs?|sets?))"
_MOST_SIBLINGS = 50
"""Titled siblings that are looked at for one product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A title that the catalogue itself gives."""

    value: str
    source: GivenBy
    source_item: str | None = None
    doubt: str = ""
    """What the title says and nothing confirms; empty where all is known."""


@dataclass(frozen=True, slots=True)
class _Titled:
    item_id: str
    title: str
    attributes: Mapping[str, str]


class Siblings:
    """Titled items by product and by image, of those products and images that want a title."""

    def __init__(
        self, source: Catalogue, records: Iterable[ProductRecord], *, wanting: Collection[int] | None = None
    ) -> None:
        """Look through a catalogue once.

        Args:
            source: The catalogue.
            records: Its items, in order.
            wanting: Positions of the items that want a title; None is those that have none. One
                that has a title wants it from elsewhere.
        """
        has_title = arrow_column(source.items, "title").is_valid().to_numpy()
        if wanting is None:
            wanting = np.flatnonzero(~has_title).tolist()
        self._keys: defaultdict[int, dict[Literal["sibling", "same image"], Hashable]] = defaultdict(dict)
        """Of items that have some, by position."""
        parents = parents_of(source) or []
        products = set(parents)
        for position, (item_id, parent) in enumerate(zip(source.items["item_id"][:], parents, strict=False)):
            # A parent may be an item itself.
            if product := parent or (item_id if item_id in products else None):
                self._keys[position]["sibling"] = ("product", product)
        if has_title.any() and wanting:
            groups = image_groups(source)
            of_several = np.bincount(groups)[groups] > 1
            for position in np.flatnonzero(of_several & np.isin(groups, groups[has_title])).tolist():
                self._keys[position]["same image"] = ("image", int(groups[position]))
        wanted = {key for position in wanting for key in self._keys.get(position, {}).values()}
        self._titled: dict[Hashable, list[_Titled]] = defaultdict(list)
        for position, record in enumerate(records):
            keys = self._keys.get(position, {})
            for key in wanted.intersection(keys.values()) if record.title is not None else ():
                if len(self._titled[key]) < _MOST_SIBLINGS:
                    self._titled[key].append(_Titled(record.item_id, str(record.title), record.attributes))

    def title(self, position: int, record: ProductRecord) -> Beside | None:
        """Return the title of an item at a position of the catalogue; None where nothing gives it.

        Certain ones come first; then a variant before an item with the same image, and that before
        the item's own fields.
        """
        keys = self._keys.get(position, {})
        is_same_image = {one.item_id for one in self._titled.get(keys.get("same image"), ())}
        given = []
        for source, key in sorted(keys.items(), reverse=True):
            adapted = [
                (one, text, doubt)
                for one in self._titled.get(key, ())
                if one.item_id != record.item_id
                for text, doubt in [adapt(one.title, theirs=one.attributes, own=record.attributes)]
                if text is not None
            ]
            # An image of several products may be a placeholder: all of them must say the same.
            if source == "same image" and len({attribute_words(text) for _, text, _ in adapted if text}) != 1:
                continue
            given += [
                Beside(
                    value=str(text),
                    source=source,
                    source_item=one.item_id,
                    doubt=_doubt(doubt - {"color"} if one.item_id in is_same_image else doubt),
                )
                for one, text, doubt in adapted
            ]
        given += own_title(record)
        times = Counter(one.value for one in given)
        return min(given, key=lambda one: (bool(one.doubt), -times[one.value]), default=None)


def adapt(title: str, *, theirs: Mapping[str, str], own: Mapping[str, str]) -> tuple[str | None, frozenset[str]]:
    """Return another item's title with this item's values in it, and the kinds that stay unknown.

    A value of theirs that differs from the item's own is replaced where the title states it exactly
    once; None where it cannot be. A fact that the title states and the item does not know is named.

    Args:
        title: The other item's.
        theirs: Its attributes.
        own: Those of the item that needs a title.
    """
    text, unknown = title, set()
    for read in (partial(_foreign_by_attributes, theirs=theirs, own=own), partial(_foreign_by_rule, own=own)):
        for fact in read(text):
            if fact.own is None:
                unknown.add(kind_of(fact.kind))
            elif (changed := _replaced(text, fact.kind, old=fact.stated, new=fact.own)) is not None:
                text = changed
            else:
                return None, frozenset()
    return text, frozenset(unknown)


class _Foreign(NamedTuple):
    """A fact that a title states and the item does not have."""

    kind: str
    stated: str
    own: str | None
    """The item's in its place: None is unknown, empty one that must not be exchanged."""


def _foreign_by_attributes(title: str, *, theirs: Mapping[str, str], own: Mapping[str, str]) -> Iterator[_Foreign]:
    """Yield the other item's values that the title states exactly."""
    for kind, value in theirs.items():
        is_stated = attribute_recall_of(prediction=title, attributes=theirs, kind=kind) == 1.0
        if is_stated and attribute_words(own.get(kind, "")) != attribute_words(value):
            yield _Foreign(kind, value, own.get(kind))


def _foreign_by_rule(title: str, *, own: Mapping[str, str]) -> Iterator[_Foreign]:
    """Yield facts found without attributes: a single colour may be exchanged, a size must agree."""
    for kind, facts in extract_attributes(title).items():
        known = [value for name, value in own.items() if kind_of(name) == kind]
        others = [fact for fact in facts if not any(agrees(fact, kind, value) for value in known)]
        if others and known:
            yield _Foreign(kind, others[0], known[0] if kind == "color" and len(facts) == 1 else "")
        elif others and not any(attribute_words(fact) == attribute_words(v) for fact in others for v in own.values()):
            yield _Foreign(kind, others[0], None)


def own_title(record: ProductRecord) -> list[Beside]:
    """Return the titles among an item's own fields: an attribute that is one, a heading."""
    named = [
        value for kind, value in record.attributes.items() if re.sub(r"[\W_]+", " ", kind).casefold() in _NAME_KINDS
    ]
    if named:
        return [Beside(value=named[0], source="own field")]
    heading, _, rest = (record.description or "").partition("\n")
    heading = heading.strip()
    is_heading = rest.strip() and len(heading) <= _LONGEST_HEADING and heading[-1:] not in ".!?:;,"
    if is_heading and len(heading.split()) > 1:
        return [Beside(value=heading, source="own field", doubt="the first line of the description")]
    return []


def _replaced(text: str, kind: str, *, old: str, new: str) -> str | None:
    is_count = kind_of(kind) == "count"
    if is_count:
        old, new = (next(filter(str.isdecimal, attribute_words(value)), "") for value in (old, new))
    words = r"[\W_]+".join(map(re.escape, re.findall(r"[^\W_]+", old)))
    if not words or not new:
        return None
    # Letters of a size are capitals, and never the s of "Men's".
    flags = re.NOFLAG if len(old) <= 2 and not is_count else re.IGNORECASE
    pattern = _PACK.format(words) if is_count else words
    places = list(re.finditer(rf"(?<![^\W_])(?<!['\u2019]){pattern}(?![^\W_])", text, flags))
    if len(places) != 1:
        return None
    [place] = places
    part = place.group()
    if is_count:
        written = re.sub(words, new, part)
    else:
        written = new.upper() if part.isupper() else new.title() if part.istitle() and new.islower() else new
    return text[: place.start()] + written + text[place.end() :]


def _doubt(unknown: Iterable[str]) -> str:
    kinds: Sequence[str] = sorted(unknown)
    return f"{', '.join(kinds)} as the other item has it, which nothing confirms" if kinds else ""
