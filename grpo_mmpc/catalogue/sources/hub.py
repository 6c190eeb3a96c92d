"""Read data sets of Hugging Face: from the hub, or as ``save_to_disk`` left them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.source_table import SourceTable
from grpo_mmpc.errors import CatalogueError

if TYPE_CHECKING:
    from datasets import Dataset

_READ_ROWS = 16
"""At once: each may hold several images."""
_UNLABELLED = (None, -1)


def saved_tables(folder: Path) -> list[SourceTable]:
    """Open what ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote.

    Raises:
        CatalogueError: It cannot be read.
    """
    from datasets import load_from_disk  # heavy: imported on use

    try:
        return _tables(load_from_disk(str(folder)), path=folder)
    except (OSError, ValueError, KeyError) as error:
        raise CatalogueError(f"{folder} cannot be read as a saved data set: {error}") from error


def hub_tables(name: str) -> list[SourceTable]:
    """Download a data set of the hub and open all of its splits.

    Raises:
        CatalogueError: It does not exist, cannot be reached, or needs code of its own.
    """
    from datasets import load_dataset  # heavy: imported on use

    try:
        return _tables(load_dataset(name), path=Path(name))
    except (OSError, ValueError, RuntimeError) as error:
        raise CatalogueError(
            f"{name} is no file or folder here (looked from {Path.cwd()}), and as a data set of the hub it cannot be "
            f"read: {' '.join(str(error).split())[:300]}"
        ) from error


def _tables(data: Any, *, path: Path) -> list[SourceTable]:
    splits: dict[str, Dataset] = dict(data) if isinstance(data, dict) else {"": data}
    return [
        SourceTable(
            path=path / split if len(splits) > 1 else path,
            kind="Hugging Face data set" + (f", split {split}" if split else ""),
            columns=list(one.column_names),
            rows=partial(_rows, one),
            images_in=path,
        )
        for split, one in splits.items()
    ]


def _rows(data: "Dataset") -> Iterator[RawRow]:
    """Yield rows as they are stored: no image is decoded here, nor a document or a recording."""
    from datasets import ClassLabel

    labels = {name: kind for name, kind in data.features.items() if isinstance(kind, ClassLabel)}
    stored = data.with_format("arrow").iter(batch_size=_READ_ROWS)
    for number, row in enumerate((row for batch in stored for row in batch.to_pylist()), start=1):
        names = {name: None if row[name] in _UNLABELLED else kind.int2str(row[name]) for name, kind in labels.items()}
        yield RawRow(row=number, values=row | names)
