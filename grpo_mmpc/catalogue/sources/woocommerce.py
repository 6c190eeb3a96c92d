"""WooCommerce: a variation names its product, whose images and category it shares."""

import html
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from grpo_mmpc.catalogue.normalise import readable_text
from grpo_mmpc.catalogue.sources.listing import Listing, Rows, first_filled, is_filled, several

_ATTRIBUTE = re.compile(r"Attribute \d+ (?:name|value\(s\)|visible|global|default)")
_NEW_LINE = re.compile(r"(?<!\\)\\n")
"""A line break in the cell of a text: a backslash and an n."""
_COMMA = re.compile(r"(?<!\\),")
"""What parts two values of a cell; a comma inside of one has a backslash before it."""
_FORMULA = re.compile(r"'(?=[=+@-])")
"""An apostrophe before what a spreadsheet would run."""
_USED = {"ID", "Name", "Description", "Short description", "Categories", "Images", "Parent"}
OTHERS = {  # German, French, Spanish, Italian, Dutch, Portuguese
    "Type": ("Typ", "Tipo"),
    "SKU": ("Artikelnummer", "UGS", "COD", "REF"),
    "Name": ("Nom", "Nombre", "Nome", "Naam"),
    "Short description": (
        *("Kurzbeschreibung", "Description courte", "Descripción corta"),
        *("Breve descrizione", "Korte beschrijving", "Descrição curta"),
    ),
    "Description": ("Beschreibung", "Descripción", "Descrizione", "Beschrijving", "Descrição"),
    "Categories": ("Kategorien", "Catégories", "Categorías", "Categorie", "Categorieën", "Categorias"),
    "Images": ("Bilder", "Imágenes", "Immagine", "Immagini", "Afbeeldingen", "Imagens"),
    "Parent": ("Übergeordnetes Produkt", "Übergeordnet", "Superior", "Genitore", "Hoofd", "Bovenliggend", "Ascendente"),
    "Attribute # name": (
        *("Attribut # Name", "Nom de l'attribut #", "Nombre del atributo #"),
        *("Attributo # nome", "Attribuut # naam", "Nome do atributo #"),
    ),
    "Attribute # value(s)": (
        *("Attribut # Wert(e)", "Valeur(s) de l'attribut #", "Valor(es) del atributo #"),
        *("Attributo # valuta(e)", "Attribuut # waarde(n)", "Valores do atributo #"),
    ),
}


def read(rows: Rows) -> Iterator[Listing]:
    """Read the products and variations of an export, one a row."""
    ids: dict[str, str] = {}
    spelled: dict[str, str] = {}
    shared: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
    for raw in rows():  # a variation may come before its product
        key, sku = readable_text(first_filled(raw.values, "ID", "SKU")), readable_text(raw.values.get("SKU"))
        for name in filter(None, (readable_text(raw.values[column]) for column in _names(raw.values))):
            spelled[name.casefold()] = name
        if key and "variation" not in _types(raw.values):
            ids |= {f"id:{key}": key} | ({sku: key} if sku else {})
            if "variable" in _types(raw.values):
                shared[key] = raw.values.get("Images"), raw.values.get("Categories"), _attributes(raw.values)
    for raw in rows():
        if raw.problem is not None:
            yield Listing(row=raw.row, problem=raw.problem)
            continue
        values, item_id = raw.values, first_filled(raw.values, "ID", "SKU")
        parent = ids.get(readable_text(values.get("Parent")) or "")
        images, categories, attributes = shared.get(parent or "", (None, None, {}))
        is_variation = "variation" in _types(values)
        description = str(first_filled(values, "Description", "Short description") or "")
        yield Listing(
            row=raw.row,
            item_id=item_id,
            title=_text(values.get("Name")),
            description=_text(_NEW_LINE.sub("\n", description)),
            category=next(iter(_values(first_filled(values, "Categories") or categories)), None),
            images=_images(values.get("Images")) or (_images(images) if is_variation else []),
            attributes=(attributes if is_variation else {}) | _attributes(values),
            parent_id=parent if is_variation else item_id if "variable" in _types(values) else None,
            further={c: v for c, v in values.items() if c not in _USED and not _ATTRIBUTE.fullmatch(c)},
            cells={"title": "Name", "image": "Images", "description": "Description"},
            spell_description=lambda text: html.escape(text, quote=False).replace("\n", r"\n"),
            values=values,
            state=partial(_state, spelled),
        )


def _types(values: Mapping[str, Any]) -> list[str]:
    """Return what a row is: a virtual variation is both."""
    return _values(values.get("Type"))


def _values(cell: object) -> list[str]:
    """Return the values of a cell, between commas."""
    parts = (part.strip() for part in _COMMA.split(str(_text(cell) or "")))
    return [part.replace(r"\,", ",") for part in parts if part]


def _text(cell: object) -> object:
    """Return a cell without the apostrophe before what would be a formula."""
    return _FORMULA.sub("", cell, count=1) if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _images(cell: object) -> list[Any]:
    return [image.replace(r"\,", ",") if isinstance(image, str) else image for image in several(cell)]


def _names(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the columns of attributes' names that have one for the values beside it."""
    named = (column for column in values if column.startswith("Attribute ") and column.endswith(" name"))
    return (column for column in named if _value(column) in values)


def _value(column: str) -> str:
    return column.removesuffix("name") + "value(s)"


def _attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    pairs = [(readable_text(values[column]), values[_value(column)]) for column in _names(values)]
    return {
        name.casefold(): ", ".join(_values(value)) if isinstance(value, str) else value
        for name, value in pairs
        if name and is_filled(value)
    }


def _state(spelled: Mapping[str, str], values: Mapping[str, Any], name: str, value: object) -> dict[str, str]:
    """Return the cells of an attribute: where its name stands without a value, else a free pair."""
    free = [column for column in _names(values) if not is_filled(values[_value(column)])]
    own = [column for column in free if (readable_text(values[column]) or "").casefold() == name]
    for column in own or [column for column in free if not values[column]]:
        named = {} if own else {column: spelled.get(name, name.capitalize())}
        return named | {_value(column): str(value).replace(",", r"\,")}  # others part two values
    return {}
