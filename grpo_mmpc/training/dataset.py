"""The training data set: an index of (item, task) that becomes TRL's columns when it is read."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import ImageError, TrainingError, first_line
from grpo_mmpc.rewards.columns import RowReader
from grpo_mmpc.rollout.prompts import load_prompt_image, plain_prompt
from grpo_mmpc.tasks import Task
from grpo_mmpc.types import ProductRecord, PromptRow
from grpo_mmpc.utils.hashing import stable_order
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from datasets import Dataset

    from grpo_mmpc.catalogue import Catalogue


def training_dataset(
    config: RunConfig,
    data: RunData,
    *,
    refuse: Callable[[PromptRow], Failure | None] = lambda _: None,
    answers: bool = False,
    processor: Any = None,
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
        answers: Add ``completion``, the answer that a perfect policy would give, and leave out
            items that hold none.
        processor: The policy's, in whose size images are read; None leaves them as they are.

    Raises:
        TrainingError: No item holds an answer of a task.
    """
    # heavy: imported on use
    import numpy as np
    from datasets import Dataset

    catalogue = data.catalogue
    known = config.known_tasks
    reader = RowReader(catalogue, known_tasks=known)
    ids = catalogue.column("item_id", data.train)
    chosen = [data.train[i] for i in stable_order(ids, salt=config.data.salt)[: config.data.max_train_items]]

    def row_of(index: int, task: str) -> dict[str, Any]:
        try:
            prompt, columns = reader.read(index, task)
            images = [load_prompt_image(path, processor) for path in prompt.shown_images]
            refused = refuse(prompt)
        except (ImageError, OSError) as error:
            refused = Failure(reason=first_line(error))
        record = catalogue.record(index)
        given = {"completion": [_message(known[task].answer(target_of(record, known[task])))]} if answers else {}
        if refused is None:
            return {"prompt": prompt.messages, "images": images, "set_aside": None, **columns, **given}
        plain, images = plain_prompt(shows_image=known[task].shows_image)
        return {
            **dict.fromkeys(reader.columns),
            **{"prompt_id": f"{task}:{record.item_id}", "item_id": record.item_id, "task": task},
            **{"category": record.category, "prompt": plain, "images": images, "set_aside": refused.reason},
            **given,
        }

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = list(zip(batch["index"], batch["task"], strict=True))
        # A batch asks for every prompt once per rollout of its group; one look-up serves the group.
        unique = {pair: row_of(*pair) for pair in dict.fromkeys(pairs)}
        names = ("prompt", "images", "set_aside", *reader.columns, *(["completion"] if answers else []))
        return {name: [unique[pair][name] for pair in pairs] for name in names}

    index, tasks = np.repeat(np.array(chosen), len(config.tasks)), [*config.tasks] * len(chosen)
    if answers:
        held = _answered(catalogue, chosen, [known[task] for task in config.tasks])
        index, tasks = index[held], [task for task, is_held in zip(tasks, held, strict=True) if is_held]
    return Dataset.from_dict({"index": index, "task": tasks}).with_transform(_Transform(rows))


def target_of(record: ProductRecord, task: Task) -> str:
    """Return the text that a policy is taught to answer; empty if the item has none.

    No catalogue holds prompts for images: what comes closest is the description of the product.
    """
    return (record.description if task.target == "image" else task.reference(record)) or ""


def _answered(catalogue: "Catalogue", chosen: Sequence[int], tasks: Sequence[Task]) -> list[bool]:
    """Return for every pair, item by item, whether there is a text to learn."""
    described = [bool(text) for text in catalogue.column("description", chosen)]
    for task in tasks:
        if task.target == "image" and ("description" in task.source or not any(described)):
            why = "it shows itself" if "description" in task.source else "no training item has"
            raise TrainingError(f"{task.name} would be taught descriptions, which {why}; leave the task out")
    return [task.target != "image" or is_described for is_described in described for task in tasks]


class _Transform:
    """A function of rows that is called when they are read.

    ``datasets`` hashes a transform for the name of the data set, twice, and does so by pickling all
    that a function holds, here the catalogue. Nothing of ours asks for that name.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __call__(self, batch: dict[str, list[Any]]) -> Any:
        return self._rows(batch)

    def __deepcopy__(self, memo: Any) -> "_Transform":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Transform, (None,)


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}
