"""The exports of shops: Shopify and WooCommerce, which spread a product over several rows."""

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.listing import Listing, several

Rows = Callable[[], Iterable[RawRow]]
"""Begins to read the rows, as often as called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A program that writes exports."""

    name: str
    marks: tuple[str, ...]
    """The columns by which its exports are recognised."""
    read: Callable[[Rows], Iterator[Listing]]


def shop_of(columns: Sequence[str]) -> Shop | None:
    """Return the shop whose export has these columns."""
    return next((shop for shop in SHOPS if set(shop.marks) <= set(columns)), None)


def _first(values: Mapping[str, Any], *columns: str) -> Any:
    return next((values[column] for column in columns if values.get(column)), None)


# --- Shopify: the rows of one Handle are a product, its variants and its further images

_SHOPIFY_OPTIONS = tuple((f"Option{number} Name", f"Option{number} Value") for number in (1, 2, 3))
_NO_OPTION = ("Title", "Default Title")
"""The option of a product that has none."""
_SHOPIFY_USED = {
    *("Handle", "Title", "Body (HTML)", "Vendor", "Image Src", "Image Position", "Variant Image", "Variant SKU"),
    *(column for pair in _SHOPIFY_OPTIONS for column in pair),
}


def _shopify(rows: Rows) -> Iterator[Listing]:
    for handle, group in groupby(rows(), key=lambda raw: raw.values.get("Handle")):
        whole = []
        for raw in group:
            if raw.problem is not None or not handle:
                yield Listing(row=raw.row, problem=raw.problem or "Handle is missing: the product cannot be named")
            else:
                whole.append(raw)
        if whole:
            yield from _shopify_product(str(handle), whole)


def _shopify_product(handle: str, rows: Sequence[RawRow]) -> Iterator[Listing]:
    first = rows[0].values
    placed = sorted((row.values for row in rows if row.values.get("Image Src")), key=_position)
    images = [values["Image Src"] for values in placed]
    brand = {"brand": first["Vendor"]} if first.get("Vendor") else {}
    names = [first.get(name) for name, _ in _SHOPIFY_OPTIONS]
    variants = [row for row in rows if _first(row.values, "Option1 Value", "Variant SKU")]
    further = {column: value for column, value in first.items() if column not in _SHOPIFY_USED}
    product = Listing(
        row=rows[0].row,
        item_id=handle,
        title=first.get("Title"),
        description=first.get("Body (HTML)"),
        category=_first(first, "Product Category", "Type", "Standard Product Type", "Custom Product Type"),
        images=images,
        # of several variants, size and colour are theirs
        attributes=brand | (_options(first, names) if len(variants) == 1 else {}),
        parent_id=handle,
        further=further,
        cells={"title": "Title", "image": "Image Src", "description": "Body (HTML)"},
        spell_description=_paragraphs,
        values=first,
        state=_vendor,
    )
    yield product
    for row in variants[1:]:  # the first one stands in the row of the product
        if not product.title:
            problem = f"a variant of {handle!r}, which has no title yet: it has that of its product"
            yield Listing(row=row.row, problem=problem)
            continue
        yield Listing(
            row=row.row,
            item_id=f"{handle}:{_first(row.values, 'Variant SKU') or row.row}",
            title=product.title,
            description=product.description,
            category=product.category,
            images=[row.values["Variant Image"]] if row.values.get("Variant Image") else images,
            attributes=brand | _options(row.values, names),
            parent_id=handle,
            further={column: row.values.get(column) for column in further if row.values.get(column)},
        )


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{html.escape(line, quote=False)}</p>" for line in text.splitlines())


def _vendor(values: Mapping[str, Any], name: str, value: object) -> dict[str, str]:
    """Return the cell of a brand; to write an option would make another variant."""
    return {"Vendor": str(value)} if name == "brand" and "Vendor" in values and not values["Vendor"] else {}


def _position(values: Mapping[str, Any]) -> int:
    text = str(values.get("Image Position") or "")
    return int(text) if text.isdecimal() else 1_000_000


def _options(values: Mapping[str, Any], names: Sequence[Any]) -> dict[str, Any]:
    pairs = [(name, values.get(column)) for name, (_, column) in zip(names, _SHOPIFY_OPTIONS, strict=True)]
    return {str(name).casefold(): value for name, value in pairs if name and value and (name, value) != _NO_OPTION}


# --- WooCommerce: a variation names its product, whose images and category it shares

_WOO_ATTRIBUTE = re.compile(r"Attribute \d+ (?:name|value\(s\)|visible|global|default)")
_NEW_LINE = re.compile(r"(?<!\\)\\n")
"""A line break in the cell of a text: a backslash and an n."""
_WOO_USED = {"ID", "Name", "Description", "Short description", "Categories", "Images", "Parent"}


def _woocommerce(rows: Rows) -> Iterator[Listing]:
    ids: dict[str, str] = {}
    spelled: dict[str, str] = {}
    shared: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
    for raw in rows():  # a variation may come before its product
        item_id = _first(raw.values, "ID", "SKU")
        spelled |= {raw.values[c].casefold(): raw.values[c] for c in _woo_names(raw.values) if raw.values[c]}
        if item_id and raw.values.get("Type") != "variation":
            ids |= {f"id:{item_id}": item_id} | ({raw.values["SKU"]: item_id} if raw.values.get("SKU") else {})
            if raw.values.get("Type") == "variable":
                shared[item_id] = raw.values.get("Images"), raw.values.get("Categories"), _woo_attributes(raw.values)
    for raw in rows():
        if raw.problem is not None:
            yield Listing(row=raw.row, problem=raw.problem)
            continue
        values, item_id = raw.values, _first(raw.values, "ID", "SKU")
        parent = ids.get(str(values.get("Parent") or "").strip())
        images, categories, attributes = shared.get(parent or "", (None, None, {}))
        is_variation = values.get("Type") == "variation"
        yield Listing(
            row=raw.row,
            item_id=item_id,
            title=values.get("Name"),
            description=_NEW_LINE.sub("\n", str(_first(values, "Description", "Short description") or "")),
            category=str(_first(values, "Categories") or categories or "").split(", ")[0] or None,
            images=several(values.get("Images")) or (several(images) if is_variation else []),
            attributes=(attributes if is_variation else {}) | _woo_attributes(values),
            parent_id=parent if is_variation else item_id if values.get("Type") == "variable" else None,
            further={c: v for c, v in values.items() if c not in _WOO_USED and not _WOO_ATTRIBUTE.fullmatch(c)},
            cells={"title": "Name", "image": "Images", "description": "Description"},
            spell_description=lambda text: html.escape(text, quote=False).replace("\n", r"\n"),
            values=values,
            state=partial(_woo_state, spelled),
        )


def _woo_names(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the columns of attributes' names that have one for the values beside it."""
    named = (column for column in values if column.startswith("Attribute ") and column.endswith(" name"))
    return (column for column in named if _woo_value(column) in values)


def _woo_value(column: str) -> str:
    return column.removesuffix("name") + "value(s)"


def _woo_attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    pairs = [(values[column], values[_woo_value(column)]) for column in _woo_names(values)]
    return {str(name).casefold(): value for name, value in pairs if name and value}


def _woo_state(spelled: Mapping[str, str], values: Mapping[str, Any], name: str, value: object) -> dict[str, str]:
    """Return the cells of an attribute: where its name stands without a value, else a free pair."""
    free = [column for column in _woo_names(values) if not values[_woo_value(column)]]
    own = [column for column in free if str(values[column] or "").casefold() == name]
    for column in own or [column for column in free if not values[column]]:
        named = {} if own else {column: spelled.get(name, name.capitalize())}
        return named | {_woo_value(column): str(value).replace(",", r"\,")}  # others part two values
    return {}


SHOPS = (
    Shop(name="Shopify", marks=("Handle", "Title", "Image Src"), read=_shopify),
    Shop(name="WooCommerce", marks=("ID", "Type", "SKU", "Name", "Images"), read=_woocommerce),
)
