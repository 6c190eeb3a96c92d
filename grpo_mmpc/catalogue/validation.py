"""Check a catalogue folder before training on it."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from grpo_mmpc.catalogue.arrow_cache import UNKNOWN_CATEGORY
from grpo_mmpc.catalogue.duplicates import largest_groups
from grpo_mmpc.catalogue.images import MAX_IMAGE_PIXELS
from grpo_mmpc.catalogue.interactions_summary import InteractionsSummary, summarise_interactions
from grpo_mmpc.catalogue.reader import Catalogue, arrow_column, load_catalogue
from grpo_mmpc.catalogue.records import FURTHER_TEXTS
from grpo_mmpc.catalogue.splits import product_groups
from grpo_mmpc.metrics.language import foreign_share
from grpo_mmpc.types import Quarantined

_CORE = ("category", "title", "description", "image")
_EXAMPLE_GROUPS, _SHOWN_OF_GROUP = 5, 3
_MAX_CATEGORIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryCounts:
    """One category's usable items, what they lack, and its broken rows."""

    category: str
    items: int
    missing_title: int
    missing_description: int
    missing_image: int
    broken: int
    """Rows set aside whose category could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateGroup:
    """Items that are near-duplicates of each other."""

    items: int
    item_ids: list[str]
    """The first few."""
    images: list[str | None]
    """Their images, relative to the folder."""
    title: str | None
    """Title of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """The result of `grpo-mmpc data validate`."""

    folder: str
    items_file: str
    fingerprint: str
    rows_read: int
    items: int
    categories: list[CategoryCounts]
    """By number of items, largest first."""
    quarantined: list[Quarantined]
    further_texts: dict[str, int]
    """Items with further texts that are right as well, by column; empty where none has any."""
    duplicate_ids: int
    """Rows set aside because an earlier row has the same item_id; included in ``quarantined``."""
    near_duplicate_groups: int
    """Groups of at least two near-duplicates or variants of one product."""
    near_duplicate_items: int
    largest_groups: list[DuplicateGroup]
    interactions: InteractionsSummary | None
    warnings: list[str]

    @property
    def is_broken(self) -> bool:
        """True if any row of any file cannot be used."""
        interactions = self.interactions
        return bool(
            self.quarantined or not self.items or (interactions and (interactions.broken or interactions.unknown_items))
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as plain values, every broken row included."""
        return {**asdict(self), "is_broken": self.is_broken}


def validate_catalogue(folder: Path | str, *, max_image_pixels: int = MAX_IMAGE_PIXELS) -> ValidationReport:
    """Check every row and every image of a catalogue folder.

    Raises:
        CatalogueError: The catalogue cannot be read at all: see
            :func:`~grpo_mmpc.catalogue.load_catalogue`.
    """
    catalogue = load_catalogue(folder, max_image_pixels=max_image_pixels, allow_empty=True)
    groups = product_groups(catalogue)
    sizes = Counter(groups.tolist())
    shared = [size for size in sizes.values() if size > 1]
    categories = _count_categories(catalogue)
    return ValidationReport(
        folder=str(folder),
        items_file=catalogue.items_file.name,
        fingerprint=catalogue.fingerprint,
        rows_read=catalogue.rows_read,
        items=len(catalogue),
        categories=categories,
        quarantined=catalogue.quarantined,
        further_texts=_count_further_texts(catalogue),
        duplicate_ids=catalogue.duplicate_ids,
        near_duplicate_groups=len(shared),
        near_duplicate_items=sum(shared),
        largest_groups=[
            DuplicateGroup(
                items=len(g),
                item_ids=catalogue.column("item_id", g[:_SHOWN_OF_GROUP]),
                images=catalogue.column("image", g[:_SHOWN_OF_GROUP]),
                title=catalogue.items[g[0]]["title"],
            )
            for g in largest_groups(groups, limit=_EXAMPLE_GROUPS)
        ],
        interactions=summarise_interactions(catalogue),
        warnings=[
            *_category_warnings(categories),
            *_group_warnings(shared, num_items=len(catalogue)),
            *_script_warnings(catalogue),
            *catalogue.warnings,
        ],
    )


def _count_further_texts(catalogue: Catalogue) -> dict[str, int]:
    if not set(FURTHER_TEXTS) & set(catalogue.items.column_names):
        return {}
    counts = Counter(name for record in catalogue.records() for name in FURTHER_TEXTS if getattr(record, name))
    return {name: counts[name] for name in FURTHER_TEXTS if counts[name]}


def _script_warnings(catalogue: Catalogue) -> list[str]:
    known = arrow_column(catalogue.items, "title").drop_null()
    odd = known.filter(pc.invert(pc.string_is_ascii(known)))
    foreign = sum(foreign_share(title) >= 0.5 for title in odd.to_pylist())
    if not foreign:
        return []
    return [
        f"{foreign:,} of {len(known):,} titles ({foreign / len(known):.0%}) are not in Latin script: word metrics read "
        "them by their script, title_attribute_* finds no English facts in them and leaves them unscored, as text "
        "encoders of other languages do"
    ]


def _count_categories(catalogue: Catalogue) -> list[CategoryCounts]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    table = catalogue.items.select_columns(list(_CORE)).with_format("arrow")[:]
    gaps = ("title", "description", "image")
    grouped = table.group_by("category").aggregate([([], "count_all"), *((name, "count") for name in gaps)])
    for row in grouped.to_pylist():
        items = row["count_all"]
        missing = {f"missing_{name}": items - row[f"{name}_count"] for name in gaps}
        counts[row["category"]].update(items=items, **missing)
    for category, broken in catalogue.broken_by_category.items():
        counts[category]["broken"] += broken
    names = [field.name for field in fields(CategoryCounts)][1:]
    rows = [CategoryCounts(category=category, **{name: c[name] for name in names}) for category, c in counts.items()]
    return sorted(rows, key=lambda row: (-row.items, row.category))


def _category_warnings(categories: Iterable[CategoryCounts]) -> list[str]:
    warnings = []
    spellings: dict[str, list[str]] = defaultdict(list)
    named = [c for c in categories if c.category != UNKNOWN_CATEGORY]
    for row in named:
        spellings[" ".join(row.category.replace("_", " ").casefold().split())].append(row.category)
        if row.items == 0:
            warnings.append(f"category {row.category} has no usable item ({row.broken} broken)")
        elif row.items == row.missing_image:
            warnings.append(f"category {row.category} has no image at all: image_to_text cannot be measured on it")
        elif row.items == row.missing_title:
            warnings.append(f"category {row.category} has no title at all: nothing to compare completions with")
    for names in spellings.values():
        if len(names) > 1:
            warnings.append(f"categories {', '.join(sorted(names))} look like one: use one spelling")
    if len(named) > _MAX_CATEGORIES:
        warnings.append(
            f"{len(named)} categories: results are averaged over categories, so use departments rather than "
            "fine classes"
        )
    return warnings


def _group_warnings(sizes: list[int], *, num_items: int) -> list[str]:
    largest = max(sizes, default=0)
    if num_items >= 20 and largest > num_items / 10:
        return [
            f"{largest} of {num_items} items are near-duplicates of each other (one title or one placeholder image?): "
            "they all go to the same side of a split"
        ]
    return []
