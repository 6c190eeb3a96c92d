"""The training data set: an index of (item, task) that becomes TRL's columns when it is read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.rewards import TRL_KEYWORDS
from grpo_mmpc.rollout.prompts import load_prompt_image
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_row
from grpo_mmpc.utils.hashing import stable_order

if TYPE_CHECKING:
    from datasets import Dataset

OWN_COLUMNS = (
    "prompt",
    "images",
    "prompt_id",
    "item_id",
    "category",
    "task",
    "reference",
    "image_path",
    "title",
    "attributes",
)


def training_dataset(
    catalogue: Catalogue,
    indices: Sequence[int],
    tasks: Sequence[str],
    *,
    max_items: int | None,
    salt: str,
) -> "Dataset":
    """Build a data set with one row per (item, task), in a stable order that interleaves the tasks.

    Columns: ``prompt`` (chat messages), ``images`` (list of PIL images, empty for a text-only
    prompt), ``prompt_id``, ``item_id``, ``category``, ``task``, ``reference``, ``image_path``,
    ``title``, ``attributes``, and the catalogue's further columns, which reward functions receive
    under their own names.

    Args:
        catalogue: The catalogue.
        indices: Training items; each has a title and an image.
        tasks: Tasks to train.
        max_items: Keep at most this many items.
        salt: Salt of the order and of the choice of items.
    """
    # heavy: imported on use
    from datasets import Dataset

    ids = list(catalogue.items.select(indices)["item_id"])
    chosen = [indices[i] for i in stable_order(ids, salt=salt)[:max_items]]
    pairs = [(index, task) for index in chosen for task in tasks]
    extras = [
        column
        for column in catalogue.items.column_names
        if column not in OWN_COLUMNS and column not in ("image", *TRL_KEYWORDS)
    ]

    def row_of(index: int, task: str) -> dict[str, Any]:
        row = prompt_row(catalogue, catalogue.record(index), TASKS[task])
        raw = catalogue.items[index] if extras else {}
        return {
            "prompt": row.messages,
            "images": [load_prompt_image(row.prompt_image_path)] if row.prompt_image_path else [],
            **{name: getattr(row, name) for name in OWN_COLUMNS if name not in ("prompt", "images")},
            **{name: raw[name] for name in extras},
        }

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = list(zip(batch["index"], batch["task"], strict=True))
        # A batch asks for every prompt once per rollout of its group; one look-up serves the group.
        unique = {pair: row_of(*pair) for pair in dict.fromkeys(pairs)}
        return {name: [unique[pair][name] for pair in pairs] for name in (*OWN_COLUMNS, *extras)}

    index_set = Dataset.from_dict({"index": [i for i, _ in pairs], "task": [t for _, t in pairs]})
    return index_set.with_transform(rows)
