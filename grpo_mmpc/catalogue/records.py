"""Turn a raw row into catalogue columns, or into the reason why it is set aside."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from grpo_mmpc.catalogue.images import relative_image_path
from grpo_mmpc.catalogue.normalise import clean_text, json_kind, json_text
from grpo_mmpc.catalogue.rows import RowError, text_cell
from grpo_mmpc.errors import ImageError
from grpo_mmpc.utils.files import parse_json

CORE_COLUMNS = ("item_id", "category", "title", "description", "image", "attributes")
"""Columns of every catalogue after reading, all text; ``attributes`` is that of a JSON object."""
FURTHER_TEXTS = ("titles", "descriptions")
"""Columns that a catalogue may have: lists of further texts, as right as the one that is shown."""


class CoreRow(NamedTuple):
    """The core cells of one item."""

    cells: dict[str, str | None]
    """By the names of :data:`CORE_COLUMNS`."""
    warning: str | None
    """A part that was dropped although the row is kept."""


def read_core(values: Mapping[str, Any]) -> CoreRow:
    """Check and clean the cells of one row.

    Raises:
        RowError: Without a usable item_id or category, with neither title nor image, with an image
            path that leaves the folder, or with a cell of the wrong kind.
    """
    item_id = text_cell(values, "item_id")
    if item_id is None:
        raise RowError("item_id is missing; give every item a unique identifier")
    category = text_cell(values, "category")
    if category is None:
        raise RowError("category is missing; name the department the item belongs to")
    title = text_cell(values, "title")
    image = text_cell(values, "image", one_line=False)
    if image is not None:
        try:
            image = relative_image_path(image)
        except ImageError as e:
            raise RowError(str(e)) from e
    if title is None and image is None:
        raise RowError("neither title nor image; one of them is needed to complete the other")
    attributes, warning = read_attributes(values.get("attributes"))
    columns = (item_id, category, title, _description(values), image, attributes)
    return CoreRow(dict(zip(CORE_COLUMNS, columns, strict=True)), warning)


def read_further_texts(cell: object, *, column: str) -> tuple[list[str] | None, str | None]:
    """Read a list of texts, or its JSON text, with a warning if it is none."""
    if isinstance(cell, str) and clean_text(cell) is not None:
        with suppress(ValueError, RecursionError):
            cell = parse_json(cell)
    try:
        if not isinstance(cell, list):
            return None, None if clean_text(cell) is None else f'{column} dropped: expected a list such as ["Red Mug"]'
        texts = [text for one in cell if (text := clean_text(one, one_line=column == "titles")) is not None]
    except TypeError as e:
        return None, f'{column} dropped: it holds {e}, expected a list such as ["Red Mug"]'
    return texts or None, None


def read_attributes(cell: object) -> tuple[str | None, str | None]:
    """Read known facts as the text of a JSON object of texts, with a warning for what was dropped.

    Args:
        cell: An object, or the JSON text of one. Lists of simple values are joined with commas;
            missing values are left out.
    """
    if isinstance(cell, str):
        if clean_text(cell) is None:
            return None, None
        try:
            cell = parse_json(cell)
        except (ValueError, RecursionError) as e:
            return None, f'attributes dropped: not JSON ({e}); expected an object such as {{"color": "red"}}'
    if cell is None or cell != cell:  # NaN, pandas' way to leave a cell of objects empty
        return None, None
    if isinstance(cell, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in cell):
        cell = dict(cell)  # how Arrow hands over a map column
    if not isinstance(cell, dict):
        return None, f'attributes dropped: found {json_kind(cell)}, expected a JSON object such as {{"color": "red"}}'
    if {*map(type, cell), *map(type, cell.values())} == {str}:  # most rows, twice as fast
        facts = {name: member for name, member in map(_fact, cell, cell.values()) if member is not None}
        return (f"{{{','.join(facts.values())}}}" if facts else None), None
    members: dict[str, str] = {}
    dropped: list[str] = []
    for kind, value in cell.items():
        try:
            parts = value if isinstance(value, list) else (value,)
            name, member = _fact(str(kind), value if isinstance(value, str) else tuple(map(clean_text, parts)))
        except TypeError:
            dropped.append(str(kind))
            continue
        if member is not None:
            members[name] = member
    warning = f"attributes {', '.join(dropped)} dropped: expected text or a number" if dropped else None
    return (f"{{{','.join(members.values())}}}" if members else None), warning


@lru_cache(maxsize=4096)
def _fact(kind: str, value: str | tuple[str | None, ...]) -> tuple[str, str | None]:
    """Return a fact's clean name and its member of a JSON object; most occur in many rows."""
    name = clean_text(kind) or ""
    texts = (clean_text(value),) if isinstance(value, str) else value
    text = ", ".join(text for text in texts if text is not None)
    return name, f"{json_text(name)}:{json_text(text)}" if name and text else None


def _description(values: Mapping[str, Any]) -> str | None:
    """Return the description; a list of paragraphs is joined by line breaks."""
    cell = values.get("description")
    paragraphs = cell if isinstance(cell, list) else [cell]
    try:
        texts = [text for part in paragraphs if (text := clean_text(part, one_line=False)) is not None]
    except TypeError as e:
        raise RowError(f"description holds {e}") from e
    return "\n".join(texts) or None
