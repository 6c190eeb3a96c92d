"""The training data set: an index of (item, task) that becomes TRL's columns when it is read."""

from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.rewards.columns import RowReader
from grpo_mmpc.rollout.prompts import load_prompt_image
from grpo_mmpc.utils.hashing import stable_order

if TYPE_CHECKING:
    from datasets import Dataset


def training_dataset(config: RunConfig, data: RunData) -> "Dataset":
    """Build a data set with one row per (item, task), in a stable order that interleaves the tasks.

    Columns: ``prompt`` (chat messages), ``images`` (list of PIL images, empty for a text-only
    prompt), then what rewards receive, see ``RewardRow``.
    """
    # heavy: imported on use
    from datasets import Dataset

    reader = RowReader(data.catalogue)
    ids = list(data.catalogue.items.select(data.train)["item_id"])
    chosen = [data.train[i] for i in stable_order(ids, salt=config.data.salt)[: config.data.max_train_items]]
    pairs = [(index, task) for index in chosen for task in config.tasks]

    def row_of(index: int, task: str) -> dict[str, Any]:
        prompt, columns = reader.read(index, task)
        images = [load_prompt_image(prompt.prompt_image_path)] if prompt.prompt_image_path else []
        return {"prompt": prompt.messages, "images": images, **columns}

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = list(zip(batch["index"], batch["task"], strict=True))
        # A batch asks for every prompt once per rollout of its group; one look-up serves the group.
        unique = {pair: row_of(*pair) for pair in dict.fromkeys(pairs)}
        return {name: [unique[pair][name] for pair in pairs] for name in ("prompt", "images", *reader.columns)}

    index_set = Dataset.from_dict({"index": [i for i, _ in pairs], "task": [t for _, t in pairs]})
    return index_set.with_transform(rows)
