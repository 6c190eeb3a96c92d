"""Read one review of Amazon Reviews 2023 as an interaction of a catalogue."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue.interactions import Interaction, read_interaction
from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.tables import find_table
from grpo_mmpc.errors import CatalogueError

INTERACTIONS = "interactions.parquet"
"""Smaller than JSON lines, with typed times, and read by columns."""


def read_review(review: Mapping[str, Any]) -> Interaction:
    """Check and clean one review; its ``parent_asin`` is its item.

    Raises:
        RowError: Without user, product or time in milliseconds, or with a rating that is no number.
    """
    if review.get("parent_asin") in (None, ""):
        raise RowError("parent_asin is missing: what was reviewed cannot be known")
    interaction = read_interaction({**review, "item_id": review["parent_asin"]})
    if interaction.is_no_date:
        raise RowError(f"timestamp {interaction.timestamp} lies before 1980 or after 2100; expected milliseconds")
    return interaction


def refuse_other_interactions(folder: Path) -> None:
    """Refuse a folder whose interactions are in another format: two files cannot be told apart.

    Raises:
        CatalogueError: There is such a file.
    """
    table = find_table(folder, "interactions")
    if table is not None and table.name != INTERACTIONS:
        raise CatalogueError(
            f"{folder} holds {table.name} already; remove it before reviews are written into {INTERACTIONS}"
        )
