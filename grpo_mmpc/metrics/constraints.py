"""What a seller demands of every title: one list, for reward, gate and report."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from grpo_mmpc.metrics.attributes import attribute_recall_of
from grpo_mmpc.metrics.language import english_score

LetterCase = Literal["title", "no_capitals"]
_SMALL = "a an and as at but by for from in nor of on or per the to vs with x"
"""Words that begin small in a title."""
_ENGLISH = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What a title must keep; what is left out is not demanded.

    Raises:
        ValueError: A value is impossible; says which and what is expected.
    """

    length: Sequence[int] = (1, 200)
    """The least and the greatest number of characters; the most that Amazon allows is 200."""
    banned: Sequence[str] = ()
    """Words and phrases that it must not contain, whatever their case."""
    brands: Sequence[str] = ()
    """Brands of which it must name one; that of the item, where its attributes know it."""
    required: Sequence[str] = ()
    """Kinds of attributes whose value it must state, where the item has them."""
    letter_case: LetterCase | None = None
    """``title`` wants every word but small ones to begin with a capital; ``no_capitals`` refuses
    words of four capital letters and more."""
    language: Literal["english"] | None = None

    def __post_init__(self) -> None:
        """Refuse what no title can keep."""
        low_high = list(self.length)
        if len(low_high) != 2 or not all(type(one) is int for one in low_high) or not 0 <= low_high[0] <= low_high[1]:
            raise ValueError(f"length is {self.length!r}, expected [least, greatest] number of characters")
        for name in ("banned", "brands", "required"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(one, str) and one.strip() for one in value):
                raise ValueError(f"{name} is {value!r}, expected a list of texts")
        for name, known in (("letter_case", get_args(LetterCase)), ("language", ("english",))):
            if getattr(self, name) not in (None, *known):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")

    def check(self, text: str, attributes: Mapping[str, str]) -> list[str]:
        """Return what a title violates, in words; empty if it keeps all.

        Args:
            text: The title.
            attributes: Known facts of its item.
        """
        low, high = self.length
        violated = []
        if not low <= len(text) <= high:
            violated.append(f"{len(text)} characters, not {low} to {high}")
        violated += [f"banned: {one}" for one in self.banned if _contains(text, one)]
        brand = attributes.get("brand", "")
        brands = [brand] if brand in self.brands else self.brands
        if brands and not any(_states(text, "brand", one) for one in brands):
            violated.append(f"does not name {brand}" if brand in self.brands else "names none of the brands")
        violated += [
            f"does not state the {kind}: {attributes[kind]}"
            for kind in self.required
            if attribute_recall_of(prediction=text, attributes=attributes, kind=kind) == 0.0
        ]
        words = re.findall(r"[^\W\d_]+", text)
        if self.letter_case == "no_capitals" and (loud := [one for one in words if len(one) > 3 and one.isupper()]):
            violated.append(f"capitals: {' '.join(loud)}")
        if self.letter_case == "title":
            begun = re.findall(r"(?<![\w'-])[^\W\d_][\w']*", text)
            small = [one for one in begun if one[0].islower() and one not in _SMALL.split()]
            violated += [f"begins small: {' '.join(small)}"] if small else []
        if self.language == "english" and english_score(text) < _ENGLISH:
            violated.append("not English")
        return violated

    def __len__(self) -> int:
        """Return how many demands there are."""
        lists = len(self.banned) + bool(self.brands) + len(self.required)
        return 1 + lists + (self.letter_case is not None) + (self.language is not None)


def _contains(text: str, phrase: str) -> bool:
    words = r"\s+".join(map(re.escape, phrase.split()))
    return re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def _states(text: str, kind: str, value: str) -> bool:
    return attribute_recall_of(prediction=text, attributes={kind: value}, kind=kind) == 1.0
