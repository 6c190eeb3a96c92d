"""The columns of the training data set, for rewards of saved or made-up completions."""

from collections.abc import Sequence
from typing import Any

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.errors import ImageError
from grpo_mmpc.rewards import TRL_KEYWORDS
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_row

ROW_COLUMNS = ("prompt_id", "item_id", "category", "task", "reference", "image_path", "title", "attributes")


class RewardColumns:
    """The columns of a catalogue's items by their id; each (item, task) is read once a batch."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._index = {item_id: i for i, item_id in enumerate(catalogue.items["item_id"][:])}
        own = {*ROW_COLUMNS, *TRL_KEYWORDS, "prompt", "images", "image"}
        self._extras = [name for name in catalogue.items.column_names if name not in own]

    def known(self, item_ids: Sequence[str]) -> list[bool]:
        """Return for each item whether the catalogue still has it, with title and image."""
        complete = {item_id: self._is_complete(item_id) for item_id in dict.fromkeys(item_ids)}
        return [complete[item_id] for item_id in item_ids]

    def of(self, item_ids: Sequence[str], tasks: Sequence[str]) -> dict[str, list[Any]]:
        """Return the keyword lists for ``RewardMix.score`` of known items, but completions."""
        pairs = list(zip(item_ids, tasks, strict=True))
        rows = {pair: self._row(*pair) for pair in dict.fromkeys(pairs)}
        return {name: [rows[pair][name] for pair in pairs] for name in ("prompts", *ROW_COLUMNS, *self._extras)}

    def _row(self, item_id: str, task: str) -> dict[str, Any]:
        index = self._index[item_id]
        row = prompt_row(self._catalogue, self._catalogue.record(index), TASKS[task])
        raw = self._catalogue.items[index] if self._extras else {}
        return {
            "prompts": row.messages,
            **{name: getattr(row, name) for name in ROW_COLUMNS},
            **{name: raw[name] for name in self._extras},
        }

    def _is_complete(self, item_id: str) -> bool:
        index = self._index.get(item_id)
        if index is None:
            return False
        record = self._catalogue.record(index)
        try:
            return record.title is not None and self._catalogue.image_path(record) is not None
        except ImageError:  # the file has vanished
            return False
