"""Check items by columns; rows that are not plainly right go through the rule for one."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from grpo_mmpc.catalogue.columns import to_arrow
from grpo_mmpc.catalogue.normalise import readable_text
from grpo_mmpc.catalogue.plain_rows import Cells, Column, by_rule, flags, texts
from grpo_mmpc.catalogue.records import (
    CORE_COLUMNS,
    FURTHER_TEXTS,
    read_attributes,
    read_core,
    read_further_texts,
)
from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.tables import Batch, TableFile, python_values
from grpo_mmpc.types import Quarantined

_PARAGRAPHS = r"^[!-~]([ -~]*[!-~])?$"
_PATH = r"^[\w-][\w.-]*(/[\w-][\w.-]*)*$"
"""One inside the folder, with nothing to fold."""
_NO_LIMIT = 2**31 - 1


class CheckedItems(NamedTuple):
    """Rows that lie together."""

    items: pa.RecordBatch
    """The usable ones."""
    read: int
    """The number of rows."""
    set_aside: list[tuple[Quarantined, str | None]]
    """The broken ones, with their category."""
    warnings: list[str]


def checked_items(table: TableFile, schema: pa.Schema) -> Iterator[CheckedItems]:
    """Read every row of an items file in order, as ``read_core`` would.

    Raises:
        CatalogueError: The file cannot be read on, or its columns are not those that were learned.
    """
    columns = [name for name in table.columns if name in CORE_COLUMNS or name in schema.names]
    for batch in table.batches(columns, check=True):
        yield _check(batch, schema, file=table.path.name)


def _check(batch: Batch, schema: pa.Schema, *, file: str) -> CheckedItems:
    count = len(batch.rows)
    cells = {name: batch.cells.get(name, pa.nulls(count)) for name in schema.names}
    title, image = texts(cells["title"], may_lack=True), texts(cells["image"], _PATH, may_lack=True)
    has_either = flags(title[0].is_valid()) | flags(image[0].is_valid())
    warnings = []

    def rule(raw: RawRow) -> list[str | None]:
        core = read_core(raw.cells())
        if core.warning is not None:
            warnings.append(f"{file} row {raw.row} ({core.cells['item_id']}): {core.warning}")
        return [core.cells[name] for name in CORE_COLUMNS]

    core = [
        texts(cells["item_id"]),
        texts(cells["category"]),
        title,
        texts(cells["description"], _PARAGRAPHS, at_most=_NO_LIMIT, may_lack=True),
        (image[0], image[1] & has_either),
        _attributes(cells["attributes"]),
    ]
    rows = by_rule(batch, core, rule)
    extra = []
    for name in schema.names[len(CORE_COLUMNS) :]:
        if name in FURTHER_TEXTS:
            read = [read_further_texts(cell, column=name) for cell in _listed(cells[name])]
            warnings += [f"{file} row {row}: {odd}" for row, (_, odd) in zip(batch.rows, read, strict=True) if odd]
            extra.append(pa.array([texts for texts, _ in read], schema.field(name).type))
        else:
            extra.append(_kept(cells[name], schema.field(name).type))
    return CheckedItems(
        items=pa.RecordBatch.from_arrays([*rows.columns, *extra], schema=schema).filter(pa.array(rows.is_usable)),
        read=count + len(batch.unread),
        set_aside=[
            (raw.set_aside(reason, file=file), readable_text(raw.values.get("category"))) for raw, reason in rows.broken
        ],
        warnings=warnings,
    )


def _attributes(cells: Cells) -> Column:
    read = [read_attributes(value) for value in _listed(cells)]
    return pa.array([text for text, _ in read], pa.string()), np.array([warning is None for _, warning in read], bool)


def _listed(cells: Cells) -> list[Any]:
    return python_values(cells) if isinstance(cells, pa.Array) else list(cells)


def _kept(cells: Cells, kind: pa.DataType) -> pa.Array:
    if isinstance(cells, pa.Array) and cells.type == kind:
        return cells
    values = _listed(cells)
    if isinstance(cells, pa.Array) and pa.types.is_temporal(cells.type):
        values = [None if value is None else str(value) for value in values]
    return to_arrow(values, kind)
