"""Rows that cannot be trained on: set aside with the reason, so that the run goes on without them.

All ranks take the same number of rows in every step. A plain prompt therefore takes the place of
such a row; what is answered to it is scored by no reward and masked in the loss.
"""

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.encoders.images import image_key
from grpo_mmpc.rollout.prompts import refusal
from grpo_mmpc.types import PromptRow, Quarantined
from grpo_mmpc.utils.files import append_json_lines, read_json_lines
from grpo_mmpc.utils.single_out import Failure


class SetAside:
    """Tells which prompts cannot be trained on, and lists those that a run met."""

    def __init__(self, path: Path, catalogue: Catalogue, processor: Any, *, max_tokens: int) -> None:
        """Go on with the list of an earlier start of the run, if there is one.

        Args:
            path: The list: file, row, item, prompt and reason, each prompt once.
            catalogue: Holds the items.
            processor: The policy's.
            max_tokens: Longest completion.
        """
        self.path = path
        self.context: int | None = None
        """Tokens of prompt and completion together that model and engine take; None if unknown."""
        self._catalogue, self._processor, self._max_tokens = catalogue, processor, max_tokens
        self._taken: set[Hashable] = set()
        self._listed = (
            {row.get("prompt_id") for row in read_json_lines(path, skip_broken=True)} if path.exists() else set()
        )

    def refusal(self, row: PromptRow) -> Failure | None:
        """Return why a prompt cannot be completed, and what to do; None if it can.

        A prompt that is taken is not tried again unless its image changes.
        """
        key = row.prompt_id, *map(image_key, row.shown_images)
        if key in self._taken:
            return None
        refused = refusal(row, self._processor, max_tokens=self._max_tokens, context=self.context)
        if refused is None:
            self._taken.add(key)
        return refused

    def add(self, reasons: Mapping[str, str]) -> list[Quarantined]:
        """Append the prompts that are not listed yet, and return them. On the main process.

        Args:
            reasons: By prompt.
        """
        rows = {}
        for prompt_id in reasons.keys() - self._listed:
            item_id = prompt_id.partition(":")[2]
            rows[prompt_id] = Quarantined(
                file=self._catalogue.items_file.name,
                row=self._catalogue.row_of(item_id),
                item_id=item_id,
                reason=reasons[prompt_id],
            )
        self._listed |= rows.keys()
        if rows:
            append_json_lines(self.path, [{"prompt_id": name, **asdict(row)} for name, row in rows.items()])
        return list(rows.values())
