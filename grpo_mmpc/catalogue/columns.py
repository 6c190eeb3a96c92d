"""Check an items file's columns and choose the Arrow type that each further column keeps."""

import difflib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from grpo_mmpc.catalogue.normalise import json_text, writable
from grpo_mmpc.catalogue.records import CORE_COLUMNS, FURTHER_TEXTS
from grpo_mmpc.errors import CatalogueError

REQUIRED_COLUMNS = ("item_id", "category", "title", "image")
"""Must exist, though title and image may be empty; description and attributes may be absent."""
_ADVICE = {
    "item_id": "give every item an item_id of its own",
    "category": "add category with the department of every item (one word for all of them will do)",
    "title": "add title, with empty cells where it is missing",
    "image": "add image, with empty cells where it is missing",
}


def check_columns(file: Path, columns: Mapping[str, pa.DataType]) -> list[str]:
    """Refuse an items file without the columns a catalogue needs; return warnings.

    Raises:
        CatalogueError: Names the missing columns, the present ones and the nearest match.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise CatalogueError(_missing_message(file, missing, list(columns)))
    for name in ("item_id", "category", "title", "image"):
        if pa.types.is_struct(columns[name]) or pa.types.is_binary(columns[name]):
            raise CatalogueError(
                f"{file}: column {name} holds {columns[name]}, expected text; an image is given as a path relative to "
                "the catalogue folder, such as images/{item_id}.jpg: write the images into files"
            )
    warnings = []
    if "description" not in columns:
        warnings.append(f"{file.name} has no column description: every description counts as missing")
    if unusable := [name for name in columns if not _is_usable(name)]:
        warnings.append(f"{file.name}: columns whose names no table can hold are left out: {unusable[:5]!r}")
    return warnings


def extra_columns(columns: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Return the kept type of each further column; JSON text where datasets has no such type."""
    kept = {name: kind for name, kind in columns.items() if name not in CORE_COLUMNS and _is_usable(name)}
    texts = pa.list_(pa.string())
    return {name: texts if name in FURTHER_TEXTS else _kept_type(kind) for name, kind in kept.items()}


def _is_usable(name: str) -> bool:
    return bool(name.strip()) and "\0" not in name and name == writable(name)


def to_arrow(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Convert one batch of a column to its kept type."""
    if pa.types.is_string(kind):
        if set(map(type, values)) <= {str, type(None)}:
            with suppress(UnicodeEncodeError):  # half of a surrogate pair
                return pa.array(values, kind)
        return pa.array([v if v is None else writable(v if isinstance(v, str) else json_text(v)) for v in values], kind)
    if pa.types.is_floating(kind):  # JSON writes some numbers of a float column without a fraction
        return pa.array([v if v is None else float(v) for v in values], kind)
    return pa.array(values, kind)


def _kept_type(kind: pa.DataType) -> pa.DataType:
    from datasets.features.features import generate_from_arrow_type  # heavy: imported on use

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    try:
        generate_from_arrow_type(kind)
    except (ValueError, NotImplementedError):
        return pa.string()
    # Times as text: Python's end with the year 9999, and know few names of time zones.
    return pa.string() if pa.types.is_null(kind) or pa.types.is_temporal(kind) else kind


def _missing_message(file: Path, missing: list[str], names: list[str]) -> str:
    lower = {name.casefold(): name for name in names}
    hints = []
    for name in missing:
        near = difflib.get_close_matches(name, lower, n=1, cutoff=0.7)
        hints.append(f"rename {lower[near[0]]} to {name}" if near else _ADVICE[name])
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        hints = ["the header is not separated by commas: save the file as comma-separated"]
    plural = "column" if len(missing) == 1 else "columns"
    return (
        f"{file} lacks the {plural} {', '.join(missing)}; found: {', '.join(names) or 'none'}; "
        f"expected: {', '.join(REQUIRED_COLUMNS)} (optional: description, attributes); {'; '.join(hints)}"
    )
