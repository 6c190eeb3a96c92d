"""The training data set: an index of (item, task) that becomes TRL's columns when it is read."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import ImageError, first_line
from grpo_mmpc.rewards.columns import RowReader
from grpo_mmpc.rollout.prompts import load_prompt_image, plain_prompt
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.hashing import stable_order
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from datasets import Dataset


def training_dataset(
    config: RunConfig, data: RunData, *, refuse: Callable[[PromptRow], Failure | None] = lambda _: None
) -> "Dataset":
    """Build a data set with one row per (item, task), in a stable order that interleaves the tasks.

    Columns: ``prompt`` (chat messages), ``images`` (list of PIL images, empty for a text-only
    prompt), ``set_aside`` (None), then what rewards receive, see ``RewardRow``. A prompt that is
    refused, or whose image cannot be read any more, has the reason under ``set_aside``, a plain
    prompt in its place, and nothing for rewards but what names it.

    Args:
        config: The recipe.
        data: Its items.
        refuse: Returns why a prompt cannot be trained on; asked whenever a row is read.
    """
    # heavy: imported on use
    import numpy as np
    from datasets import Dataset

    catalogue = data.catalogue  # what a row needs of the data: datasets hashes all that its function holds
    known = config.known_tasks
    reader = RowReader(catalogue, known_tasks=known)
    ids = catalogue.column("item_id", data.train)
    chosen = [data.train[i] for i in stable_order(ids, salt=config.data.salt)[: config.data.max_train_items]]

    def row_of(index: int, task: str) -> dict[str, Any]:
        try:
            prompt, columns = reader.read(index, task)
            images = [load_prompt_image(path) for path in prompt.shown_images]
            refused = refuse(prompt)
        except (ImageError, OSError) as error:
            refused = Failure(reason=first_line(error))
        if refused is None:
            return {"prompt": prompt.messages, "images": images, "set_aside": None, **columns}
        record = catalogue.record(index)
        plain, images = plain_prompt(shows_image=known[task].shows_image)
        return {
            **dict.fromkeys(reader.columns),
            **{"prompt_id": f"{task}:{record.item_id}", "item_id": record.item_id, "task": task},
            **{"category": record.category, "prompt": plain, "images": images, "set_aside": refused.reason},
        }

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = list(zip(batch["index"], batch["task"], strict=True))
        # A batch asks for every prompt once per rollout of its group; one look-up serves the group.
        unique = {pair: row_of(*pair) for pair in dict.fromkeys(pairs)}
        return {
            name: [unique[pair][name] for pair in pairs] for name in ("prompt", "images", "set_aside", *reader.columns)
        }

    index = np.repeat(np.array(chosen), len(config.tasks))
    return Dataset.from_dict({"index": index, "task": [*config.tasks] * len(chosen)}).with_transform(rows)
