"""The words of the nano catalogue about products.

No value is a word of another value, of a house style, or of a prompt template, so that a text can
be read back without ambiguity (there is no white product, because captions speak of a "white
background").
"""

import random
from collections.abc import Mapping
from types import MappingProxyType

KINDS = ("type", "color", "pattern", "material", "size", "pack", "brand")
"""Attribute kinds, in the order in which item attributes are stored."""

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray")
PATTERNS = ("plain", "striped", "dotted", "checkered", "zigzag")
MATERIALS = ("wood", "steel", "plastic", "glass", "cotton", "leather")
SIZES = ("small", "medium", "large")
PACKS = ("1", "2", "3", "6")
"""Pieces in a pack. A single item has no ``pack`` attribute, as sellers leave 1 unsaid."""

TYPES_BY_CATEGORY: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "All_Beauty": {
            "shampoo bottle": ("plastic", "glass", "steel"),
            "lipstick": ("plastic", "steel", "leather"),
            "hairbrush": ("wood", "plastic", "steel"),
            "hand mirror": ("wood", "plastic", "steel", "glass"),
            "perfume": ("glass", "steel", "leather"),
            "comb": ("wood", "plastic", "steel"),
        },
        "Toys_and_Games": {
            "board game": ("wood", "plastic", "leather"),
            "teddy bear": ("cotton", "leather", "plastic"),
            "kite": ("cotton", "plastic", "leather"),
            "race car": ("wood", "steel", "plastic"),
            "puzzle": ("wood", "plastic", "leather"),
            "robot": ("wood", "steel", "plastic"),
        },
        "Video_Games": {
            "game controller": ("plastic", "steel", "leather"),
            "joystick": ("plastic", "steel", "wood"),
            "console": ("plastic", "steel", "wood"),
            "handheld": ("plastic", "steel", "glass"),
            "racing wheel": ("plastic", "steel", "leather"),
            "cartridge": ("plastic", "steel", "wood"),
        },
        "Home_and_Kitchen": {
            "kettle": ("steel", "plastic", "glass"),
            "mug": ("steel", "plastic", "glass", "wood"),
            "saucepan": ("steel", "glass", "wood"),
            "lamp": ("wood", "steel", "glass", "cotton"),
            "chair": ("wood", "steel", "plastic", "leather"),
            "vase": ("wood", "steel", "glass", "plastic"),
        },
        "Electronics": {
            "headphones": ("steel", "plastic", "leather", "wood"),
            "camera": ("steel", "plastic", "leather"),
            "laptop": ("steel", "plastic", "glass"),
            "speaker": ("wood", "steel", "plastic", "cotton"),
            "smartwatch": ("steel", "plastic", "glass", "leather"),
            "flashlight": ("steel", "plastic", "glass"),
        },
        "Industrial_and_Scientific": {
            "digital caliper": ("steel", "plastic"),
            "wrench": ("steel", "plastic", "wood"),
            "helmet": ("steel", "plastic", "leather"),
            "ladder": ("wood", "steel", "plastic"),
            "toolbox": ("wood", "steel", "plastic", "leather"),
            "flask": ("steel", "plastic", "glass"),
        },
        "Office_Products": {
            "stapler": ("steel", "plastic", "wood"),
            "scissors": ("steel", "plastic", "leather"),
            "notebook": ("cotton", "plastic", "leather"),
            "pencil": ("wood", "steel", "plastic"),
            "calculator": ("wood", "steel", "plastic"),
            "clipboard": ("wood", "steel", "plastic", "leather"),
        },
        "Musical_Instruments": {
            "ukulele": ("wood", "plastic", "steel"),
            "drum": ("wood", "steel", "plastic", "leather"),
            "trumpet": ("wood", "steel", "plastic"),
            "microphone": ("wood", "steel", "plastic"),
            "metronome": ("wood", "steel", "plastic", "glass"),
            "xylophone": ("wood", "steel", "plastic"),
        },
        "Arts_Crafts_and_Sewing": {
            "yarn ball": ("cotton", "plastic", "leather"),
            "paintbrush": ("wood", "steel", "plastic"),
            "easel": ("wood", "steel", "plastic"),
            "sewing machine": ("wood", "steel", "plastic"),
            "thread spool": ("wood", "plastic", "cotton"),
            "paint palette": ("wood", "plastic", "glass"),
        },
    }
)
"""Category -> product type -> the materials that type is made of."""

BRANDS_BY_CATEGORY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "All_Beauty": ("lumera", "velisse", "oradew"),
        "Toys_and_Games": ("zibbo", "plumkin", "tottle"),
        "Video_Games": ("pixora", "grindor", "jolvax"),
        "Home_and_Kitchen": ("nordvik", "hearthly", "cazuma"),
        "Electronics": ("voltane", "omnira", "teksu"),
        "Industrial_and_Scientific": ("ferrok", "brunex", "staldor"),
        "Office_Products": ("papiro", "deskova", "quillon"),
        "Musical_Instruments": ("tonara", "fiddlo", "resonix"),
        "Arts_Crafts_and_Sewing": ("stitcha", "wolliva", "crafteo"),
    }
)
"""Category -> its brands. A brand's position decides its house style and its mark's colour."""

CATEGORIES = tuple(TYPES_BY_CATEGORY)
"""The nine categories of MMPCBench, spelled as in Amazon Reviews 2023."""

BRANDS = tuple(brand for category in CATEGORIES for brand in BRANDS_BY_CATEGORY[category])
TYPES = tuple(product_type for category in CATEGORIES for product_type in TYPES_BY_CATEGORY[category])

VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "type": TYPES,
        "color": COLORS,
        "pattern": PATTERNS,
        "material": MATERIALS,
        "size": SIZES,
        "pack": PACKS,
        "brand": BRANDS,
    }
)
"""Kind -> its values. A value's position is its class index as a label."""

CATEGORY_BY_TYPE: Mapping[str, str] = MappingProxyType(
    {product_type: category for category in CATEGORIES for product_type in TYPES_BY_CATEGORY[category]}
)
BRAND_POSITIONS: Mapping[str, int] = MappingProxyType(
    {brand: position for brands in BRANDS_BY_CATEGORY.values() for position, brand in enumerate(brands)}
)
"""Brand -> its position (0, 1, 2) among the brands of its category."""


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Refuse attributes that the nano catalogue does not know.

    Raises:
        ValueError: A kind or a value is not in ``VALUES``.
    """
    for kind, value in attributes.items():
        if kind not in VALUES:
            raise ValueError(f"unknown attribute kind {kind!r}; the nano catalogue knows {', '.join(KINDS)}")
        if value not in VALUES[kind]:
            raise ValueError(f"unknown {kind} {value!r}; the nano catalogue knows {', '.join(VALUES[kind])}")


def pick(rng: random.Random, values: tuple[str, ...]) -> str:
    """Sample a value, the same in every Python version, which ``rng.choice`` does not promise."""
    return values[int(rng.random() * len(values))]
