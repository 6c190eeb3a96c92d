"""The way of a catalogue record into the keyword lists that a reward is called with."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

from grpo_mmpc.errors import ImageError
from grpo_mmpc.tasks import SHIPPED, Task
from grpo_mmpc.types import PromptRow

if TYPE_CHECKING:
    from grpo_mmpc.catalogue import Catalogue

TRL_KEYWORDS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


class RewardRow(TypedDict):
    """What rewards know of a prompt: fields of its ``PromptRow``, under the same names.

    The catalogue's further columns follow under their own names.
    """

    prompt_id: str
    item_id: str
    category: str
    task: str
    reference: str | None
    more_references: Sequence[str]
    image_path: str | None
    more_image_paths: Sequence[str]
    title: str
    attributes: Mapping[str, str]


ROW_COLUMNS = tuple(RewardRow.__annotations__)
PLURALS = {
    "reference": "references",
    "item_id": "item_ids",
    "category": "categories",
    "image_path": "image_paths",
    "task": "tasks",
}
"""Columns that rewards know under another name, see ``RewardFn``."""


class RowReader:
    """Reads (item, task) pairs of a catalogue as prompts and what rewards know of them.

    Items are named by position, or by their ids for saved or made-up completions.
    """

    def __init__(self, catalogue: "Catalogue", *, known_tasks: Mapping[str, Task] = SHIPPED) -> None:
        self._catalogue, self._tasks = catalogue, known_tasks
        own = {*ROW_COLUMNS, *TRL_KEYWORDS, "prompt", "images", "image", "set_aside"}
        self.columns = (*ROW_COLUMNS, *(name for name in catalogue.items.column_names if name not in own))
        """Keys of every row: those of ``RewardRow``, then the catalogue's own."""

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item_id: i for i, item_id in enumerate(self._catalogue.items["item_id"][:])}

    def read(self, index: int, task: str) -> tuple[PromptRow, dict[str, Any]]:
        """Return the prompt of an item, by its position in the catalogue, and its ``columns``."""
        from grpo_mmpc.tasks.prompt_rows import prompt_row  # heavy: imported on use

        prompt = prompt_row(self._catalogue.folder, self._catalogue.record(index), self._tasks[task])
        extras = self.columns[len(ROW_COLUMNS) :]
        raw = self._catalogue.items[index] if extras else {}
        own = {name: getattr(prompt, name) for name in ROW_COLUMNS}
        return prompt, own | {name: raw[name] for name in extras}

    def known(self, item_ids: Sequence[str], tasks: Sequence[str]) -> list[bool]:
        """Return for each item whether the catalogue still has it, with all that its task needs."""
        pairs = list(zip(item_ids, tasks, strict=True))
        complete = {pair: self._is_complete(*pair) for pair in dict.fromkeys(pairs)}
        return [complete[pair] for pair in pairs]

    def of(self, item_ids: Sequence[str], tasks: Sequence[str]) -> dict[str, list[Any]]:
        """Return the keyword lists for ``RewardMix.score`` of known items, but completions.

        Each (item, task) is read once.
        """
        pairs = list(zip(item_ids, tasks, strict=True))
        rows = {(item, task): self.read(self._index[item], task) for item, task in dict.fromkeys(pairs)}
        columns = {name: [rows[pair][1][name] for pair in pairs] for name in self.columns}
        return {"prompts": [rows[pair][0].messages for pair in pairs], **columns}

    def _is_complete(self, item_id: str, task: str) -> bool:
        index = self._index.get(item_id)
        if index is None:
            return False
        record = self._catalogue.record(index)
        try:
            self._catalogue.image_path(record)
        except ImageError:  # the file has vanished
            return False
        return self._tasks[task].is_complete(record)


def as_keywords(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch of rows, column by column, under the names that rewards know.

    Prompts stay; TRL's further keywords, images and reasons of setting aside are left out.
    """
    kept = {key: value for key, value in columns.items() if key not in (*TRL_KEYWORDS[1:], "images", "set_aside")}
    # A catalogue's own column may have one of these names; the data set's comes first.
    return kept | {plural: kept.pop(name) for name, plural in PLURALS.items() if name in kept}
