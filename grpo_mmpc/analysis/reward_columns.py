"""The columns of the training data set, for rewards of saved or made-up completions."""

from collections.abc import Sequence
from typing import Any

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.errors import ImageError
from grpo_mmpc.rewards.columns import RowReader


class RewardColumns:
    """The columns of a catalogue's items by their id; each (item, task) is read once a batch."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._reader = RowReader(catalogue)
        self._index = {item_id: i for i, item_id in enumerate(catalogue.items["item_id"][:])}

    def known(self, item_ids: Sequence[str]) -> list[bool]:
        """Return for each item whether the catalogue still has it, with title and image."""
        complete = {item_id: self._is_complete(item_id) for item_id in dict.fromkeys(item_ids)}
        return [complete[item_id] for item_id in item_ids]

    def of(self, item_ids: Sequence[str], tasks: Sequence[str]) -> dict[str, list[Any]]:
        """Return the keyword lists for ``RewardMix.score`` of known items, but completions."""
        pairs = list(zip(item_ids, tasks, strict=True))
        rows = {(item, task): self._reader.read(self._index[item], task) for item, task in dict.fromkeys(pairs)}
        columns = {name: [rows[pair][1][name] for pair in pairs] for name in self._reader.columns}
        return {"prompts": [rows[pair][0].messages for pair in pairs], **columns}

    def _is_complete(self, item_id: str) -> bool:
        index = self._index.get(item_id)
        if index is None:
            return False
        record = self._catalogue.record(index)
        try:
            return record.title is not None and self._catalogue.image_path(record) is not None
        except ImageError:  # the file has vanished
            return False
