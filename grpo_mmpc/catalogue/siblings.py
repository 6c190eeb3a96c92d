"""The look beside an item before a model is asked: titles that the catalogue itself gives.

A title is taken from a variant of the same product, from an item with the same image, or from the
item's own other fields. What the item's attributes say otherwise is adapted word by word; a title
that cannot be adapted for certain is not taken, and one that says more than is known waits for
review.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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


class Siblings:
    """The titled items of each product and of each image."""

    def __init__(self, source: Catalogue, *, wanting: Collection[int] | None = None) -> None:
        """Group a catalogue's items.

        Args:
            source: The catalogue.
            wanting: Positions of the items that want a title; None is those that have none. One
                that has a title wants it from elsewhere.
        """
        self._source = source
        has_title = arrow_column(source.items, "title").is_valid().to_numpy()
        is_wanted = bool(wanting) if wanting is not None else not has_title.all()
        self._groups: dict[Literal["sibling", "same image"], npt.NDArray[np.int32]] = {"sibling": _products(source)}
        if has_title.any() and is_wanted:
            self._groups["same image"] = image_groups(source)
        titled = np.flatnonzero(has_title)
        self._titled = {kind: titled[np.argsort(of[titled], kind="stable")] for kind, of in self._groups.items()}
        """Positions of titled items, group by group."""

    def title(self, position: int, record: ProductRecord) -> Beside | None:
        """Return the title of an item at a position of the catalogue; None where nothing gives it.

        Certain ones come first; then a variant before an item with the same image, and that before
        the item's own fields.
        """
        beside = {kind: self._beside(kind, position) for kind in self._groups}
        is_same_image = {one.item_id for one in beside.get("same image", ())}
        given = []
        for source, others in beside.items():
            adapted = [
                (one, text, doubt)
                for one in others
                for text, doubt in [adapt(str(one.title), theirs=one.attributes, own=record.attributes)]
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

    def _beside(self, kind: Literal["sibling", "same image"], position: int) -> list[ProductRecord]:
        """Return the first titled items of an item's group, without itself."""
        groups, titled = self._groups[kind], self._titled[kind]
        if (group := groups[position]) < 0:
            return []
        start, end = (bisect(titled, group, key=lambda place: groups[place]) for bisect in (bisect_left, bisect_right))
        places = [place for place in titled[start:end][:_MOST_SIBLINGS].tolist() if place != position]
        return list(self._source.records(places))


def _products(source: Catalogue) -> npt.NDArray[np.int32]:
    """Number the products that items are variants of, -1 of the others; a parent may be an item."""
    parents = pa.array(parents_of(source) or [None] * len(source), pa.string())
    names = pc.unique(parents.filter(pc.not_equal(parents, "")))
    own = pc.index_in(arrow_column(source.items, "item_id"), value_set=names)
    numbers: npt.NDArray[np.int32] = pc.coalesce(
        pc.index_in(parents, value_set=names), own, pa.scalar(-1, pa.int32())
    ).to_numpy()
    return numbers


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
    """Return the titles among an item's own fields: a further one, an attribute, a heading."""
    named = [*record.titles] if record.title is None else []  # else they are references
    named += [
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
