"""One item as a source lists it, and the meaning of a table's columns.

Every reader of every format yields :class:`~grpo_mmpc.catalogue.rows.RawRow`; what a row means is
decided here, or by the shop that wrote the file (``shops``).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grpo_mmpc.catalogue.normalise import readable_text
from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.config.problems import nearest
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.files import parse_json, to_json

Rows = Callable[[], Iterable[RawRow]]
"""Begins to read the rows, as often as called."""

Fields = Mapping[str, Sequence[str]]
"""The columns that hold a field, best first."""

SYNONYMS: Fields = {
    "item_id": (
        *("item_id", "id", "handle id", "sku", "item sku", "seller sku", "handle", "product id"),
        *("item number", "article", "asin", "gtin", "ean"),
    ),
    "title": ("title", "name", "name *", "product name", "product title", "item name", "caption", "text"),
    "description": (
        *("description", "body", "body html", "product description", "item description"),
        *("long description", "short description", "plain description"),
    ),
    "category": (
        "category",
        "categories",
        "categories (x,y,z...)",
        "product category",
        "product type",
        "google product category",
        "feed product type",
        "department",
        "label",
    ),
    "image": (
        *("image", "images", "image link", "image url", "image src", "photo", "picture", "main image"),
        *("main image url", "base image", "product image url", "product image", "image urls", "image urls (x,y,z...)"),
        *("hosted image urls", "additional image link", "additional images", "other image url", "image path"),
        *("product image file", "file name", "img", "jpg"),
    ),
    "attributes": (
        *("attributes", "brand", "brand name", "vendor", "manufacturer", "color", "colour", "color name"),
        *("size", "size name", "material"),
    ),
    "parent_id": ("parent_id", "parent sku", "parent_asin", "item group id", "parent"),
}
"""Names by which columns are recognised; ``_plain`` says what does not matter, and of the columns
of images a number in them does not either."""
_SEVERAL = ("image", "attributes")
"""Fields that may have several columns."""
_HOLDS_AN_IMAGE = ("bytes", "path", "src", "url", "image")
_BETWEEN = re.compile(
    r"\n|[,;|]\s*(?=https?://)|(?<=\.(?:jpg|png|gif|bmp|tif))\s*[,;|]|(?<=\.(?:jpeg|webp|avif|tiff))\s*[,;|]",
    re.IGNORECASE,
)
"""What parts two images: names and addresses may hold commas and semicolons of their own."""
_ATTRIBUTE_NAMES = {
    **dict.fromkeys(("brand name", "vendor", "manufacturer"), "brand"),
    **dict.fromkeys(("colour", "color name"), "color"),
    "size name": "size",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One item as a source has it, before anything is cleaned or checked."""

    row: int
    """The data row that it begins with."""
    item_id: object = None
    title: object = None
    description: object = None
    category: object = None
    images: Sequence[Any] = ()
    """Addresses, paths, or bytes, the main one first."""
    attributes: object = None
    """A mapping, or the JSON text of one."""
    parent_id: object = None
    """The identifier of the product that it is a variant of; of a product with variants its own."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """Cells that mean none of the above, by column."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """By field, the column of this row that holds it and nothing else, for writing back."""
    spell_description: Callable[[str], str] = str
    """Returns a text as the column of descriptions spells it."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The cells of its row by column, for ``state``."""
    state: Callable[[Mapping[str, Any], str, Any], Mapping[str, str]] | None = None
    """Returns the texts by column that state one more attribute in such cells, none where no column
    is for it."""
    problem: str | None = None
    """The reason why the row is no item."""


def choose_fields(columns: Sequence[str], chosen: Fields) -> dict[str, list[str]]:
    """Return the columns of each field: those that were chosen, else those that are recognised.

    Raises:
        CatalogueError: A field or a column does not exist, or no column can be a title or an image.
    """
    if unknown := [name for name in chosen if name not in SYNONYMS]:
        raise CatalogueError(f"--map {unknown[0]}=...: unknown field; {nearest(unknown[0], SYNONYMS)}")
    for name, wanted in chosen.items():
        for column in wanted:
            if column not in columns:
                near = nearest(column, columns)
                listed = "" if near.startswith("known") else f"; the columns are: {', '.join(columns)}"
                raise CatalogueError(f"--map {name}={column}: there is no such column; {near}{listed}")
        if name not in _SEVERAL and len(wanted) > 1:
            raise CatalogueError(f"--map {name}={','.join(wanted)}: only {' and '.join(_SEVERAL)} take several columns")
    taken = {column for wanted in chosen.values() for column in wanted}
    plain, numbered = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for column in columns:
        if column not in taken:
            plain[_plain(column)].append(column)
            numbered[" ".join(re.sub(r"\d+", " ", _plain(column)).split())].append(column)
    fields = {name: list(wanted) for name, wanted in chosen.items()}
    for name, names in SYNONYMS.items():
        if name not in chosen:
            alike = [(numbered if name == "image" else plain)[_plain(one)] for one in names]
            # A second image is an image; a second size, colour or title contradicts the first.
            seen = [column for same in alike for column in (same if name == "image" else same[:1])]
            fields[name] = seen if name in _SEVERAL else seen[:1]
    if not fields["title"] and not fields["image"]:
        raise CatalogueError(
            f"no column is recognised as title or image; the columns are: {', '.join(columns)}; say which is which, "
            "with quotes around spaces: --map title=COLUMN image=COLUMN"
        )
    return fields


def unread(columns: Sequence[str], fields: Fields) -> str | None:
    """Return what to do where no column is read as the title, or as the image, of an item."""
    for name in ("title", "image"):
        if not fields[name]:
            return f"No column is read as {name}; the columns are: {', '.join(columns)}; name it: --map {name}=COLUMN"
    return None


def namesakes(columns: Sequence[str], fields: Fields) -> dict[str, str]:
    """Return, by column that is read, further ones of its name that are not."""
    taken = {column: _plain(column) for wanted in fields.values() for column in wanted}
    others = {
        column: [one for one in columns if one not in taken and _plain(one) == name] for column, name in taken.items()
    }
    return {column: ", ".join(same) for column, same in others.items() if same}


def _plain(name: str) -> str:
    """Return what two columns of one meaning have in common.

    Case, underscores, hyphens and the humps of ``productName`` do not matter, nor do the "g:" of a
    feed to Google and the "(2)" of a second column of a name.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"^g:| \(\d+\)$", "", name))
    return " ".join(words.casefold().replace("_", " ").replace("-", " ").split())


def table_listings(rows: Iterable[RawRow], fields: Fields) -> Iterator[Listing]:
    """Read one item a row."""
    used = {column for columns in fields.values() for column in columns}
    for raw in rows:
        if raw.problem is not None:
            yield Listing(row=raw.row, problem=raw.problem)
            continue
        one: dict[str, Any] = {
            name: raw.values.get(columns[0]) for name, columns in fields.items() if columns and name not in _SEVERAL
        }
        images: list[Any] = []  # a column of all of them repeats the main one
        for image in (image for column in fields["image"] for image in several(raw.values.get(column))):
            images += [image] if image not in images else []
        yield Listing(
            row=raw.row,
            images=images,
            attributes=_attributes(raw.values, fields["attributes"]),
            further={column: value for column, value in raw.values.items() if column not in used},
            cells={name: fields[name][0] for name in ("title", "image", "description") if fields[name]},
            values=raw.values,
            state=partial(_state, fields["attributes"]),
            **one,
        )


def is_filled(value: object) -> bool:
    """Return whether a cell holds something; the number 0 is something."""
    return readable_text(value) is not None


def first_filled(values: Mapping[str, Any], *columns: str) -> Any:
    """Return the first cell of these columns that holds something."""
    return next((values[column] for column in columns if is_filled(values.get(column))), None)


def several(cell: object) -> list[Any]:
    """Return the images of a cell: one, a list, or addresses and paths between commas.

    An object gives its bytes, path or address, as data sets and shops write it; one that has none
    is returned itself, so that it is told to be no image.
    """
    if isinstance(cell, list | tuple):
        return [image for part in cell for image in several(part)]
    if isinstance(cell, Mapping):
        held = next((cell[key] for key in _HOLDS_AN_IMAGE if cell.get(key)), None)
        if held is None:
            return [cell] if any(value is not None for value in cell.values()) else []
        return several(held) if isinstance(held, Mapping) else [held]
    if not isinstance(cell, str):
        return [] if cell is None else [cell]
    if cell.lstrip().startswith(("[", "{")):
        try:
            return several(parse_json(cell))
        except (ValueError, RecursionError):
            pass
    return [part.strip() for part in _BETWEEN.split(cell) if part.strip()]


def _attributes(values: Mapping[str, Any], columns: Sequence[str]) -> object:
    """Return the facts of columns of their own together with those of a column of objects."""
    facts: dict[str, Any] = {}
    for column in columns:
        value = values.get(column)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = parse_json(value)
            except (ValueError, RecursionError):
                return value  # whose problem the catalogue's own reader explains
        if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            value = dict(value)  # a map of Parquet
        if isinstance(value, Mapping):
            facts |= value
        elif value is not None:
            facts.setdefault(_attribute(column), value)
    return facts


def _attribute(column: str) -> str:
    """Return the attribute of a column of its own."""
    name = _plain(column)
    return _ATTRIBUTE_NAMES.get(name, name)


def _state(columns: Sequence[str], values: Mapping[str, Any], name: str, value: object) -> dict[str, str]:
    """Return the cell that states an attribute: one of its own, else one that holds objects."""
    for column in columns:
        if _attribute(column) == name:
            return {column: str(value)} if values.get(column) is None else {}
    for column in columns:
        cell = str(values.get(column) or ("{}" if _attribute(column) == "attributes" else ""))
        with suppress(ValueError, RecursionError):
            facts = parse_json(cell)
            if isinstance(facts, Mapping) and name not in facts:
                begun = cell.rstrip()[:-1]  # what stands there keeps its spelling
                return {column: f"{begun}{', ' if facts else ''}{to_json({name: value})[1:]}"}
    return {}
