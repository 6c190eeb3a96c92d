"""Items to look at: every policy's answers, and the rule that chooses few of many items."""

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.evaluation_folder import FURTHER, SCORE_PREFIX
from grpo_mmpc.reports.common.labels import clamp
from grpo_mmpc.utils.hashing import crc
from grpo_mmpc.utils.parquet import open_parquet

PER_CATEGORY = 2
"""In one group, as long as there are other categories to choose from."""
_TEXT_LIMIT = 240
_WORD = re.compile(r"\w+", re.UNICODE)
_STATE_NOTHING = frozenset(
    _WORD.findall(
        "a an and as at by for from in is it its no of on or the this to with "
        "am auf aus bei das dem der ein eine für im ist mit oder und von zu "
        "avec con da dans de del di e el en et il la le les par para per por pour sur un une van voor y"
    )
)
"""Words that a description shares with any title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text to show: marked pieces of its beginning, and how much was left out."""

    pieces: list[tuple[str, bool]]
    """(text, whether the reference has this word too)."""
    omitted: int
    """Characters left out at the end."""
    is_malformed: bool = False
    """The completion could not be parsed; the pieces are the raw completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of one evaluated policy to an item."""

    prediction: str | None
    """None when the completion was malformed."""
    completion: str
    score: float
    rendered: Path | None

    def text(self, reference: str | None) -> Text:
        """Return the beginning of the prediction, its words that the reference has too marked.

        Of a malformed answer, return the raw completion.
        """
        if self.prediction is None:
            shown, omitted = clamp(self.completion, limit=_TEXT_LIMIT)
            return Text(pieces=[(shown, False)], omitted=omitted, is_malformed=True)
        shown, omitted = clamp(self.prediction, limit=_TEXT_LIMIT)
        return Text(pieces=_marked(shown, _words(reference or "")), omitted=omitted)


def confirmed(text: str, facts: Iterable[str]) -> list[tuple[str, bool]]:
    """Return pieces of a text, each with whether it is a word that the facts have too."""
    return _marked(text, _words(" ".join(facts)) - _STATE_NOTHING)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}


def _marked(text: str, known: Container[str]) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _WORD.finditer(text):
        if match[0].casefold() in known:
            pieces += [(text[end : match.start()], False), (match[0], True)]
            end = match.end()
    pieces.append((text[end:], False))
    return [piece for piece in pieces if piece[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item and the answers to it, by the name of who answered."""

    item_id: str
    category: str
    reference: str | None
    image: Path | None
    answers: Mapping[str, Answer]
    more: Sequence[str] = ()
    """Further texts that are as right as the reference."""

    @property
    def reference_text(self) -> Text:
        """The beginning of the reference, unmarked."""
        shown, omitted = clamp(self.reference or "", limit=_TEXT_LIMIT)
        return Text(pieces=[(shown, False)], omitted=omitted)

    @property
    def images(self) -> list[Path]:
        """The product's image, then those rendered from the answers."""
        paths = [self.image, *(answer.rendered for answer in self.answers.values())]
        return [path for path in paths if path is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemGroup:
    """Items that were chosen by one rule."""

    title: str
    rule: str
    items: list[Item]


def read_items(samples: Mapping[str, Path], *, task: str, metric: str) -> list[Item]:
    """Read the items of a task that every evaluation holds with a score of the metric.

    ``samples`` are paths of ``samples.parquet`` by the name of who answered.

    Raises:
        OSError, pyarrow.ArrowException, KeyError: A file or a column is missing or unreadable.
    """
    tables = {name: _scored_rows(path, task, metric) for name, path in samples.items()}
    first = next(iter(tables.values()))
    return [
        Item(
            item_id=str(item_id),
            category=str(row["category"]),
            reference=row["reference"],
            more=row.get(FURTHER) or (),
            image=Path(row["image_path"]) if row["image_path"] else None,
            answers={name: _answer(table[item_id], samples[name].parent) for name, table in tables.items()},
        )
        for item_id, row in first.items()
        if all(item_id in table for table in tables.values())
    ]


def _scored_rows(path: Path, task: str, metric: str) -> dict[str, dict[str, Any]]:
    import pyarrow.compute as pc  # heavy: imported on use

    texts = ["item_id", "category", "task", "reference", "image_path", "completion", "prediction", "rendered_image"]
    table = open_parquet(path)
    texts += [FURTHER] * (FURTHER in table.schema.names)
    found = table.read([*texts, SCORE_PREFIX + metric]).filter(pc.field("task") == task)
    rows = (row | {"score": row[SCORE_PREFIX + metric]} for row in found.to_pylist())
    return {row["item_id"]: row for row in rows if row["score"] is not None and row["score"] == row["score"]}


def _answer(row: Mapping[str, Any], folder: Path) -> Answer:
    return Answer(
        prediction=row["prediction"],
        completion=str(row["completion"] or ""),
        score=float(row["score"]),
        rendered=folder / row["rendered_image"] if row["rendered_image"] else None,
    )


def most(items: Sequence[Item], value: Callable[[Item], float], *, count: int) -> list[Item]:
    """Return ``count`` items of the largest value, few per category while categories last.

    The order of the input does not matter: equal values are told apart by a hash of the id, so that
    they do not all come from the beginning of the catalogue.
    """
    ordered = sorted(items, key=lambda item: (-value(item), crc(item.item_id)))
    per_category: Counter[str] = Counter()
    taken: list[Item] = []
    for item in ordered:
        if len(taken) < count and per_category[item.category] < PER_CATEGORY:
            per_category[item.category] += 1
            taken.append(item)
    chosen = {item.item_id for item in taken + without(ordered, taken)[: count - len(taken)]}
    return [item for item in ordered if item.item_id in chosen]


def without(items: Sequence[Item], taken: Sequence[Item]) -> list[Item]:
    """Return the items that are not taken, in their order."""
    chosen = {item.item_id for item in taken}
    return [item for item in items if item.item_id not in chosen]
