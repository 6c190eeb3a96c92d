"""Prompt rows: what the policy is shown for an item, and everything needed to score its answer."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.catalogue.images import find_image
from grpo_mmpc.tasks import TASKS, Task
from grpo_mmpc.types import ProductRecord, PromptRow
from grpo_mmpc.utils.hashing import stable_order


def usable_indices(catalogue: Catalogue, indices: Iterable[int]) -> list[int]:
    """Items that have both a title and an image.

    Both tasks need both fields: one is shown, the other scores the answer.
    """
    columns = catalogue.items.select_columns(["title", "image"]).with_format("arrow")
    complete: list[bool] = []
    for table in columns.iter(batch_size=10_000):
        titles, images = table.column("title").is_valid(), table.column("image").is_valid()
        complete += [title and image for title, image in zip(titles.to_pylist(), images.to_pylist(), strict=True)]
    return [i for i in indices if complete[i]]


def select_balanced(
    catalogue: Catalogue,
    indices: Sequence[int],
    *,
    max_items: int | None,
    salt: str,
    max_per_category: int | None = None,
) -> list[int]:
    """Select at most ``max_items`` items, from the categories in turn so that each is equal."""
    ids, categories = (catalogue.column(name, indices) for name in ("item_id", "category"))
    by_category: dict[str, list[int]] = defaultdict(list)
    for position in stable_order(ids, salt=salt):
        by_category[categories[position]].append(indices[position])
    queues = [by_category[category][:max_per_category] for category in sorted(by_category)]
    depth = max((len(queue) for queue in queues), default=0)
    ordered = [queue[level] for level in range(depth) for queue in queues if level < len(queue)]
    return ordered if max_items is None else ordered[:max_items]


def filling_task(record: ProductRecord) -> Task | None:
    """Return the task that fills what an item lacks; None where nothing is missing, or both are."""
    if record.title is None and record.image is not None:
        return TASKS["image_to_text"]
    if record.image is None and record.title is not None:
        return TASKS["text_to_image"]
    return None


def prompt_row(folder: Path, record: ProductRecord, task: Task) -> PromptRow:
    """Build the prompt of an item that has what the task shows, the image or the title.

    The reference is the title in image_to_text; text_to_image has no text reference, its reference
    is the image. Either is None for an item that lacks it: its completion fills the gap and cannot
    be scored.

    Args:
        folder: The catalogue's.
        record: The item.
        task: What is shown and what is withheld.

    Raises:
        ValueError: The item lacks what the task shows.
        ImageError: Its image vanished or lies outside the folder.
    """
    path = None if record.image is None else find_image(record.image, folder=folder)
    shows_image = task.source_modality == "image"
    if (path if shows_image else record.title) is None:
        shown = "image" if shows_image else "title"
        raise ValueError(f"item {record.item_id!r} lacks the {shown} that {task.name} shows; leave it out")
    return PromptRow(
        prompt_id=f"{task.name}:{record.item_id}",
        item_id=record.item_id,
        category=record.category,
        task=task.name,
        messages=task.messages(title=None if shows_image else record.title),
        prompt_image_path=str(path) if shows_image else None,
        image_path=None if path is None else str(path),
        reference=record.title if shows_image else None,
        title=record.title or "",
        attributes=record.attributes,
    )


def prompt_rows(catalogue: Catalogue, indices: Sequence[int], tasks: Iterable[str]) -> list[PromptRow]:
    """Prompt rows of the items for each task, task by task."""
    records = [catalogue.record(i) for i in indices]
    return [prompt_row(catalogue.folder, record, TASKS[task]) for task in tasks for record in records]
