"""The true answer to a prompt, and eight that must lose against it, each wrong in its own way."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import PromptRow

GOLD = "gold"
KINDS: Mapping[str, str] = {
    GOLD: "the item's own title (in text_to_image too: a catalogue holds no true prompt)",
    "same_category": "the title of another item of the category",
    "other_category": "the title of an item of another category",
    "truncated": "the first half of the title's words",
    "word_shuffled": "the title's words in random order",
    "keyword_stuffed": "the title and ten frequent words of its category that it does not hold",
    "copied_prompt": "the text of the prompt",
    "empty": "the right JSON object with nothing in it, which is malformed",
    "over_long": "the title again and again, 300 words long",
}
"""Every kind and its description."""
OVER_LONG_WORDS = 300
_STUFFING = 10
_TRIES = 20
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An answer to the prompt of one item."""

    item_id: str
    task: str
    kind: str
    text: str

    @property
    def completion(self) -> str:
        """The answer as a policy would write it."""
        return TASKS[self.task].answer(self.text)


class TitlePool:
    """The titles of a catalogue by category, the source of wrong titles and frequent words."""

    def __init__(self, titles: Iterable[tuple[str, str]]) -> None:
        """Collect (category, title) pairs."""
        by_category: dict[str, list[str]] = defaultdict(list)
        for category, title in titles:
            by_category[category].append(title)
        self._titles = {category: sorted(set(known)) for category, known in sorted(by_category.items())}
        self._frequent: dict[str, list[str]] = {}

    def other(self, rng: random.Random, *, category: str, title: str) -> str | None:
        """Return another title of the category; None if there is none."""
        known = self._titles.get(category, [])
        for _ in range(_TRIES):
            if known and (chosen := rng.choice(known)) != title:
                return chosen
        return None

    def foreign(self, rng: random.Random, *, category: str) -> str | None:
        """Return a title of another category, each equally likely; None if there is only one."""
        others = [name for name in self._titles if name != category]
        return rng.choice(self._titles[rng.choice(others)]) if others else None

    def frequent_words(self, category: str) -> list[str]:
        """Return words of three letters or more, ordered by the number of titles that hold them."""
        if category not in self._frequent:
            counts = Counter(word for title in self._titles.get(category, []) for word in set(_words(title)))
            self._frequent[category] = sorted(counts, key=lambda word: (-counts[word], word))
        return self._frequent[category]


def candidates(rows: Sequence[PromptRow], pool: TitlePool, *, seed: int) -> list[Candidate]:
    """Make every kind of every prompt, but those that a title cannot have (half of one word).

    The same seed gives the same candidates for an item, whatever other items there are.
    """
    made = []
    for row in rows:
        rng = random.Random(f"{seed}\0{row.item_id}")
        for kind, text in _texts(row, pool, rng).items():
            if text is not None:
                made.append(Candidate(item_id=row.item_id, task=row.task, kind=kind, text=text))
    return made


def _texts(row: PromptRow, pool: TitlePool, rng: random.Random) -> dict[str, str | None]:
    gold = row.title
    words = gold.split()
    held = set(_words(gold))
    stuffing = [word for word in pool.frequent_words(row.category) if word not in held][:_STUFFING]
    repeats = -(-OVER_LONG_WORDS // max(1, len(words)))
    return {
        GOLD: gold,
        "same_category": pool.other(rng, category=row.category, title=gold),
        "other_category": pool.foreign(rng, category=row.category),
        "truncated": " ".join(words[: len(words) // 2]) or None,
        "word_shuffled": shuffled(words, rng),
        "keyword_stuffed": " ".join([gold, *stuffing]) if stuffing else None,
        "copied_prompt": "".join(part["text"] or "" for part in row.messages[-1]["content"]),
        "empty": "",
        "over_long": " ".join((words * repeats)[:OVER_LONG_WORDS]),
    }


def shuffled(words: Sequence[str], rng: random.Random) -> str | None:
    """Return the words in another order; None if they have no other."""
    if len(set(words)) < 2:
        return None
    mixed = list(words)
    while mixed == list(words):
        rng.shuffle(mixed)
    return " ".join(mixed)


def _words(title: str) -> list[str]:
    return _WORD.findall(title.casefold())
