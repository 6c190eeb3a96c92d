"""Items to look at: some that improved most, some around the median, some that got worst, chosen by rule."""

import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from grpo_mmpc.evaluation.evaluation_folder import SCORE_PREFIX
from grpo_mmpc.reports.common.labels import clamp

MAX_ITEMS = 24
"""On the whole page."""
PER_CATEGORY = 2
"""In one group, as long as there are other categories to choose from."""
_TEXT_LIMIT = 240
_WORD = re.compile(r"\w+", re.UNICODE)


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
    """What one checkpoint made of an item."""

    prediction: str | None
    """None when the completion was malformed."""
    completion: str
    score: float
    rendered: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item, before and after."""

    item_id: str
    category: str
    reference: str | None
    image: Path | None
    before: Answer
    after: Answer

    @property
    def delta(self) -> float:
        """Score after minus score before."""
        return self.after.score - self.before.score


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Items that were chosen by one rule."""

    title: str
    rule: str
    items: list[Item]


def choose(items: Sequence[Item], *, count: int) -> list[Group]:
    """Three groups of up to ``count`` items each, the same ones for the same items.

    No item appears twice. A group is named by what really happened: where no item got worse, the
    last group says so.
    """
    if not items:
        return []
    middle = median(item.delta for item in items)
    best = _spread(sorted(items, key=lambda item: (-item.delta, _tie(item))), count)
    left = _without(items, best)
    worst = _spread(sorted(left, key=lambda item: (item.delta, _tie(item))), count)
    left = _without(left, worst)
    typical = _spread(sorted(left, key=lambda item: (abs(item.delta - middle), _tie(item))), count)
    groups = [
        Group(title=_best_title(best), rule="largest change upwards", items=best),
        Group(title="In the middle", rule="closest to the median change", items=typical),
        Group(title=_worst_title(worst), rule="largest change downwards", items=worst),
    ]
    return [group for group in groups if group.items]


def _tie(item: Item) -> int:
    # By hash, so that equal changes do not all come from the beginning of the catalogue.
    return zlib.crc32(item.item_id.encode())


def _spread(ordered: Sequence[Item], count: int) -> list[Item]:
    """The first ``count`` items with few per category; filled up from the rest when categories run out."""
    per_category: Counter[str] = Counter()
    taken: list[Item] = []
    for item in ordered:
        if len(taken) < count and per_category[item.category] < PER_CATEGORY:
            per_category[item.category] += 1
            taken.append(item)
    taken += _without(ordered, taken)[: count - len(taken)]
    chosen = {item.item_id for item in taken}
    return [item for item in ordered if item.item_id in chosen]


def _without(items: Sequence[Item], taken: Sequence[Item]) -> list[Item]:
    chosen = {item.item_id for item in taken}
    return [item for item in items if item.item_id not in chosen]


def _best_title(items: Sequence[Item]) -> str:
    return "Improved most" if any(item.delta > 0 for item in items) else "Changed least: no item improved"


def _worst_title(items: Sequence[Item]) -> str:
    return "Got worst" if any(item.delta < 0 for item in items) else "Improved least: no item chosen here got worse"


def read_items(*, before: Path, after: Path, task: str, metric: str) -> list[Item]:
    """Items of a task that both sample files hold with a score of the metric.

    Raises:
        OSError, pyarrow.ArrowException, KeyError: A file or a column is missing or unreadable.
    """
    first = _rows(before, task, metric)
    second = {row["item_id"]: row for row in _rows(after, task, metric)}
    pairs = [(row, second[row["item_id"]]) for row in first if row["item_id"] in second]
    return [
        _item(old, new, before=before.parent, after=after.parent)
        for old, new in pairs
        if _scored(old["score"]) and _scored(new["score"])
    ]


def _rows(path: Path, task: str, metric: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq  # heavy: imported on use

    texts = ["item_id", "category", "task", "reference", "image_path", "completion", "prediction", "rendered_image"]
    table = pq.read_table(path, columns=[*texts, SCORE_PREFIX + metric], filters=[("task", "=", task)])
    return [row | {"score": row[SCORE_PREFIX + metric]} for row in table.to_pylist()]


def _scored(value: float | None) -> bool:
    return value is not None and value == value


def _item(old: Mapping[str, Any], new: Mapping[str, Any], *, before: Path, after: Path) -> Item:
    return Item(
        item_id=str(old["item_id"]),
        category=str(old["category"]),
        reference=old["reference"],
        image=Path(old["image_path"]) if old["image_path"] else None,
        before=_answer(old, before),
        after=_answer(new, after),
    )


def _answer(row: Mapping[str, Any], folder: Path) -> Answer:
    return Answer(
        prediction=row["prediction"],
        completion=str(row["completion"] or ""),
        score=float(row["score"]),
        rendered=folder / row["rendered_image"] if row["rendered_image"] else None,
    )


def plain_text(text: str) -> Text:
    """The beginning of a text, unmarked."""
    shown, omitted = clamp(text, limit=_TEXT_LIMIT)
    return Text(pieces=[(shown, False)], omitted=omitted)


def answer_text(answer: Answer, *, reference: str | None) -> Text:
    """The beginning of a prediction, its words that the reference has too marked; of the completion if malformed."""
    if answer.prediction is None:
        raw = plain_text(answer.completion)
        return Text(pieces=raw.pieces, omitted=raw.omitted, is_malformed=True)
    shown, omitted = clamp(answer.prediction, limit=_TEXT_LIMIT)
    known = {word.casefold() for word in _WORD.findall(reference or "")}
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _WORD.finditer(shown):
        if match[0].casefold() in known:
            pieces += [(shown[end : match.start()], False), (match[0], True)]
            end = match.end()
    pieces.append((shown[end:], False))
    return Text(pieces=[piece for piece in pieces if piece[0]], omitted=omitted)
