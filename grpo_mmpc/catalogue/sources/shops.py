"""The exports of shops, which spread a product over several rows, and how they are recognised."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from grpo_mmpc.catalogue.sources import shopify, woocommerce
from grpo_mmpc.catalogue.sources.listing import Listing, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A program that writes exports."""

    name: str
    marks: tuple[str, ...]
    """The columns by which its exports are recognised."""
    others: Mapping[str, Sequence[str]]
    """What else exports call a column, in other versions and languages; # is a number."""
    read: Callable[[Rows], Iterator[Listing]]
    """Reads rows whose columns have the names that these others stand for."""

    def own_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the columns of an export by the names that its reader knows."""
        known = {other.casefold(): name for name, others in self.others.items() for other in others}
        own: dict[str, str] = {}
        for column in columns:
            number = "".join(re.findall(r"\d+", column)[:1])
            pattern = re.sub(r"\d+", "#", column).replace("\u2019", "'").casefold()
            name = known[pattern].replace("#", number) if pattern in known else column
            own[column if name in own or name in columns else name] = column
        return own

    def listings(self, columns: Sequence[str], rows: Rows) -> Iterator[Listing]:
        """Read an export; what is listed names its columns as the export does."""
        own = self.own_columns(columns)
        known = {column: name for name, column in own.items()}
        for one in self.read(lambda: (raw._replace(values=_renamed(raw.values, known)) for raw in rows())):
            yield replace(
                one,
                further=_renamed(one.further, own),
                cells={field: own.get(column, column) for field, column in one.cells.items()},
                values=_renamed(one.values, own),
                state=None if one.state is None else partial(_own_state, one.state, own, known),
            )


def shop_of(columns: Sequence[str]) -> Shop | None:
    """Return the shop whose export has these columns."""
    return next((shop for shop in SHOPS if shop.own_columns(columns).keys() >= set(shop.marks)), None)


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(column, column): value for column, value in values.items()}


def _own_state(
    state: Callable[[Mapping[str, Any], str, Any], Mapping[str, str]],
    own: Mapping[str, str],
    known: Mapping[str, str],
    values: Mapping[str, Any],
    name: str,
    value: object,
) -> dict[str, str]:
    return _renamed(state(_renamed(values, known), name, value), own)


SHOPS = (
    Shop(name="Shopify", marks=("Handle", "Title", "Image Src"), others=shopify.OTHERS, read=shopify.read),
    Shop(
        name="WooCommerce",
        marks=("ID", "Type", "SKU", "Name", "Images"),
        others=woocommerce.OTHERS,
        read=woocommerce.read,
    ),
)
