"""Shopify: the rows of one Handle are a product, its variants and its further images."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grpo_mmpc.catalogue.normalise import readable_text
from grpo_mmpc.catalogue.rows import RawRow
from grpo_mmpc.catalogue.sources.cleaning import has_words
from grpo_mmpc.catalogue.sources.listing import Listing, Rows, first_filled, is_filled

_OPTIONS = tuple((f"Option{number} Name", f"Option{number} Value") for number in (1, 2, 3))
_NO_OPTION = ("Title", "Default Title")
"""The option of a product that has none."""
_CATEGORIES = ("Product Category", "Type", "Standard Product Type", "Custom Product Type")
_PRODUCT = ("Title", "Body (HTML)", "Vendor", *_CATEGORIES, *(name for name, _ in _OPTIONS))
"""The columns that are filled in one row of a product."""
_USED = {
    *("Handle", "Title", "Body (HTML)", "Vendor", "Image Src", "Image Position", "Variant Image", "Variant SKU"),
    *(column for pair in _OPTIONS for column in pair),
}
OTHERS = {
    "Handle": ("URL handle",),
    "Body (HTML)": ("Description",),
    "Product Category": ("Product category",),
    "Image Src": ("Product image URL",),
    "Image Position": ("Image position",),
    "Variant Image": ("Variant image URL",),
    "Variant SKU": ("SKU",),
    "Option# Name": ("Option# name",),
    "Option# Value": ("Option# value",),
}


def read(rows: Rows) -> Iterator[Listing]:
    """Read the products of an export, each with its variants, whatever order the rows are in."""
    products: dict[str | int, list[RawRow]] = {}
    for raw in rows():
        products.setdefault(readable_text(raw.values.get("Handle")) or raw.row, []).append(raw)
    for handle, group in products.items():
        if isinstance(handle, str):
            yield from _product(handle, group)
        else:
            problem = group[0].problem or "Handle is missing: the product cannot be named"
            yield Listing(row=handle, problem=problem)


def _product(handle: str, rows: Sequence[RawRow]) -> Iterator[Listing]:
    main = max(rows, key=_product_cells)
    values = {**main.values, **_product_values(main, rows)}
    placed = sorted((row.values for row in rows if is_filled(row.values.get("Image Src"))), key=_position)
    images = [values["Image Src"] for values in placed]
    brand = {"brand": values["Vendor"]} if is_filled(values.get("Vendor")) else {}
    names = [values.get(name) for name, _ in _OPTIONS]
    variants = [row for row in rows if first_filled(row.values, "Option1 Value", "Variant SKU") is not None]
    further = {column: value for column, value in values.items() if column not in _USED}
    product = Listing(
        row=main.row,
        item_id=handle,
        title=values.get("Title"),
        description=values.get("Body (HTML)"),
        category=first_filled(values, *_CATEGORIES),
        images=images,
        # of several variants, size and colour are theirs
        attributes=brand | (_options(values, names) if len(variants) == 1 else {}),
        parent_id=handle,
        further=further,
        cells={"title": "Title", "image": "Image Src", "description": "Body (HTML)"},
        spell_description=_paragraphs,
        values=values,
        state=_vendor,
    )
    yield product
    for row in variants:
        if row is main:  # the product stands in the row of one of them
            continue
        if not has_words(readable_text(product.title) or ""):
            problem = f"a variant of {handle!r}, which has no title yet: it has that of its product"
            yield Listing(row=row.row, problem=problem)
            continue
        yield Listing(
            row=row.row,
            item_id=f"{handle}:{readable_text(row.values.get('Variant SKU')) or row.row}",
            title=product.title,
            description=product.description,
            category=product.category,
            images=[row.values["Variant Image"]] if is_filled(row.values.get("Variant Image")) else images,
            attributes=brand | _options(row.values, names),
            parent_id=handle,
            further={column: row.values.get(column) for column in further if row.values.get(column) is not None},
        )


def _product_cells(row: RawRow) -> tuple[bool, int]:
    """Return how much of its product a row holds: the title counts before all else."""
    return is_filled(row.values.get("Title")), sum(is_filled(row.values.get(name)) for name in _PRODUCT)


def _product_values(main: RawRow, rows: Sequence[RawRow]) -> dict[str, Any]:
    """Return the cells of a product: those of its own row, else of any other."""
    cells = [row.values for row in (main, *rows)]
    found = {column: next((c[column] for c in cells if is_filled(c.get(column))), None) for column in _PRODUCT}
    return {column: value for column, value in found.items() if value is not None}


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{html.escape(line, quote=False)}</p>" for line in text.splitlines())


def _vendor(values: Mapping[str, Any], name: str, value: object) -> dict[str, str]:
    """Return the cell of a brand; to write an option would make another variant."""
    return {"Vendor": str(value)} if name == "brand" and "Vendor" in values and not values["Vendor"] else {}


def _position(values: Mapping[str, Any]) -> int:
    text = readable_text(values.get("Image Position")) or ""
    return int(text) if text.isdecimal() else 1_000_000


def _options(values: Mapping[str, Any], names: Sequence[Any]) -> dict[str, Any]:
    pairs = [(name, values.get(column)) for name, (_, column) in zip(names, _OPTIONS, strict=True)]
    filled = [(name, value) for name, value in pairs if is_filled(name) and is_filled(value)]
    return {str(name).casefold(): value for name, value in filled if (name, value) != _NO_OPTION}
