"""The data of a benchmark: interactions of each category, split in time, and items' features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.features import image_features, rows_without_vector, text_features
from grpo_mmpc.recbench.interactions import (
    PAPER_FILTER,
    InteractionCounts,
    filter_interactions,
    read_interactions,
)
from grpo_mmpc.recbench.records import Floats, Modality, Pairs, Split
from grpo_mmpc.recbench.settings import RecBenchSection
from grpo_mmpc.recbench.splits import SplitStatistics, chronological_split, leave_one_out_split, split_statistics
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.utils.console import Progress, Say


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryData:
    """One category, a benchmark of its own."""

    name: str
    split: Split
    first_row: int
    """Its items are rows ``first_row .. first_row + I - 1`` of all items of the benchmark."""
    counts: InteractionCounts
    statistics: SplitStatistics

    @property
    def rows(self) -> slice:
        """The rows of its items."""
        return slice(self.first_row, self.first_row + self.split.num_items)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkData:
    """The data of all categories; the items of all of them stand in one order, ``[I]``."""

    categories: list[CategoryData]
    excluded: dict[str, str]
    """Categories that cannot be benchmarked, and why."""
    item_ids: list[str]
    titles: list[str | None]
    image_paths: list[Path | None]
    groups: dict[str, list[str | None]]
    """``category`` and ``brand`` of each item."""

    def true_values(self, modality: Modality) -> Sequence[str | Path | None]:
        """Return titles or image files of all items, None where an item has none."""
        return self.titles if modality == "text" else self.image_paths

    def train(self) -> Pairs:
        """Return the training interactions of all categories, each with users of its own."""
        users, items, first_user = [], [], 0
        for category in self.categories:
            users.append(category.split.train.users + first_user)
            items.append(category.split.train.items + category.first_row)
            first_user += category.split.num_users
        return Pairs(users=np.concatenate(users), items=np.concatenate(items))


def read_benchmark_data(settings: RecBenchSection, catalogue: Catalogue, *, say: Say) -> BenchmarkData:
    """Read, filter and split interactions, and print what is left of each category.

    Raises:
        RecBenchError: No interactions, an unknown category, or no category with anything to rank.
    """
    if catalogue.quarantined:
        first = catalogue.quarantined[0]
        say(
            f"{catalogue.items_file.name}: {len(catalogue.quarantined):,} of {catalogue.rows_read:,} rows are broken "
            f"and left out, row {first.row} among them: {first.reason} (all of them: grpo-mmpc data validate "
            f"{catalogue.folder})"
        )
    records = {record.item_id: record for record in catalogue.records()}
    raw = read_interactions(catalogue.folder, known_items={i: record.category for i, record in records.items()})
    say(
        f"{raw.file}: {plural(raw.rows_read, 'row')}, {raw.unknown_items:,} of items that the catalogue does not have, "
        f"{raw.broken:,} broken"
    )
    for note in (*raw.examples, *raw.warnings):
        say(f"  - {note}")
    kept = PAPER_FILTER if settings.mode == "paper" else settings.interactions
    categories: list[CategoryData] = []
    excluded: dict[str, str] = {}
    for name in settings.categories or raw.categories:
        try:
            interactions, counts = filter_interactions(raw, category=name, filter=kept, mode=settings.mode)
            is_chronological = settings.interactions.split == "chronological"
            split = (chronological_split if is_chronological else leave_one_out_split)(interactions)
        except RecBenchError as error:
            if name not in raw.categories:
                raise
            excluded[name] = str(error)
            say(f"left out {name}: {error}")
            continue
        first_row = categories[-1].rows.stop if categories else 0
        categories.append(
            CategoryData(name=name, split=split, first_row=first_row, counts=counts, statistics=split_statistics(split))
        )
        say(f"{name}: {categories[-1].statistics}")
        if excluded_rows := counts.excluded():
            say(f"  not counted of {plural(counts.rows_read, 'row')}: {excluded_rows}")
    if not categories:
        raise RecBenchError(f"{catalogue.folder}: no category can be benchmarked: {'; '.join(excluded.values())}")
    item_ids = [item_id for category in categories for item_id in category.split.item_ids]
    chosen = [records[item_id] for item_id in item_ids]
    if settings.clustered_by == "brand" and not any("brand" in record.attributes for record in chosen):
        raise RecBenchError(
            "clustered_by is brand, but no item of the catalogue has a brand among its attributes; add them, or "
            "cluster by category"
        )
    return BenchmarkData(
        categories=categories,
        excluded=excluded,
        item_ids=item_ids,
        titles=[record.title for record in chosen],
        image_paths=[catalogue.image_path(record) for record in chosen],
        groups={
            "category": [record.category for record in chosen],
            "brand": [record.attributes.get("brand") for record in chosen],
        },
    )


def true_features(
    settings: RecBenchSection, data: BenchmarkData, *, say: Say, progress: Progress | None
) -> Mapping[Modality, Floats]:
    """Encode titles and images, ``[I, D]`` each; NaN rows for items without, D = 0 if unused."""
    text = nothing = np.empty((len(data.item_ids), 0), dtype=np.float32)
    if "text" in settings.encoded:
        text = text_features(data.titles, settings.encoders.text, progress=progress)
        without = int(rows_without_vector(text).sum())
        if without:
            say(
                f"{without:,} of {len(data.item_ids):,} items have no title: nothing is known of them, in the ceiling "
                "too"
            )
    if "image" not in settings.encoded:
        return {"text": text, "image": nothing}
    images = image_features(data.image_paths, settings.encoders.image, mode=settings.mode, progress=progress)
    absent = data.image_paths.count(None)
    unreadable = int(rows_without_vector(images).sum()) - absent
    if absent or unreadable:
        say(
            f"of {len(data.item_ids):,} items {absent:,} have no image and {unreadable:,} an unreadable one: nothing "
            "is known of them there, in the ceiling too"
        )
    return {"text": text, "image": images}
