"""Prompt rows: what the policy is shown for an item, and everything needed to score its answer."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.catalogue.images import find_image
from grpo_mmpc.errors import ImageError
from grpo_mmpc.tasks import IMAGE_TO_TEXT, SHIPPED, TASKS, Task
from grpo_mmpc.types import ProductRecord, PromptRow
from grpo_mmpc.utils.hashing import stable_order

_log = logging.getLogger(__name__)


def usable_indices(catalogue: Catalogue, indices: Iterable[int], tasks: Sequence[Task] = (IMAGE_TO_TEXT,)) -> list[int]:
    """Return the items that have every field that one of the tasks shows or asks for."""
    names = fields_of(tasks)
    columns = catalogue.items.select_columns(names).with_format("arrow")
    complete: list[bool] = []
    for table in columns.iter(batch_size=10_000):
        there = [table.column(name).is_valid().to_pylist() for name in names]
        complete += [all(cells) for cells in zip(*there, strict=True)]
    there_too = [i for i in indices if complete[i]]
    asked = [task for task in tasks if task.target == "attributes"]  # of which an item may lack every key
    if not asked:
        return there_too
    records = zip(there_too, catalogue.records(there_too), strict=True)
    return [i for i, record in records if all(task.is_complete(record) for task in asked)]


def fields_of(tasks: Iterable[Task]) -> list[str]:
    """Return the fields of an item that tasks show or ask for and that may be missing."""
    named = {"image" if name == "images" else name for task in tasks for name in (*task.source, task.target)}
    return [name for name in ("title", "description", "attributes", "image") if name in named]


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


def filling_task(record: ProductRecord, tasks: Iterable[Task] = TASKS.values()) -> Task | None:
    """Return the first task that fills what an item lacks, from what it has; None without one."""
    return next((task for task in tasks if task.has_gap(record) and not task.lacking(record)), None)


def prompt_row(folder: Path, record: ProductRecord, task: Task) -> PromptRow:
    """Build the prompt of an item that has what the task shows.

    An item that lacks what the task asks for has no reference, or no image: its completion fills
    the gap and cannot be scored.

    Args:
        folder: The catalogue's.
        record: The item.
        task: What is shown and what is withheld.

    Raises:
        ValueError: The item lacks what the task shows.
        ImageError: Its image vanished or lies outside the folder.
    """
    path = None if record.image is None else find_image(record.image, folder=folder)
    if lacking := task.lacking(record):
        raise ValueError(f"item {record.item_id!r} lacks the {lacking[0]} that {task.name} shows; leave it out")
    more = _further_images(folder, record, at_most=task.max_images - 1) if task.shows_image else []
    return PromptRow(
        prompt_id=f"{task.name}:{record.item_id}",
        item_id=record.item_id,
        category=record.category,
        task=task.name,
        messages=task.messages(num_images=1 + len(more), **task.shown(record)),
        prompt_image_path=str(path) if task.shows_image else None,
        more_image_paths=more,
        image_path=None if path is None else str(path),
        reference=task.reference(record),
        more_references=task.more_references(record),
        title=record.title or "",
        attributes=record.attributes,
    )


def _further_images(folder: Path, record: ProductRecord, *, at_most: int) -> list[str]:
    """Return the paths of further images of an item, those that are there."""
    paths: list[str] = []
    for image in record.images if at_most else ():
        try:
            paths.append(str(find_image(image, folder=folder)))
        except ImageError as error:
            _log.warning("item %s is shown without a further image: %s", record.item_id, error)
    return paths[:at_most]


def prompt_rows(
    catalogue: Catalogue, indices: Sequence[int], tasks: Iterable[str], *, known: Mapping[str, Task] = SHIPPED
) -> list[PromptRow]:
    """Return prompt rows of the items for each task, task by task; ``known`` has them by name."""
    records = list(catalogue.records(indices))
    return [prompt_row(catalogue.folder, record, known[task]) for task in tasks for record in records]
