"""Texts about a nano product in the style of sellers, and the reader of any text about one."""

import random
import re
from collections.abc import Mapping

from grpo_mmpc.nano.vocabulary import BRAND_POSITIONS, CATEGORY_BY_TYPE, KINDS, VALUES, pick

# By category: the place where sellers say the product belongs. No word of it is an attribute value.
PLACES = {
    "All_Beauty": "bathroom",
    "Toys_and_Games": "playroom",
    "Video_Games": "gamers",
    "Home_and_Kitchen": "home",
    "Electronics": "travel",
    "Industrial_and_Scientific": "workshop",
    "Office_Products": "office",
    "Musical_Instruments": "stage",
    "Arts_Crafts_and_Sewing": "studio",
}
_PRAISE = ("Made to last.", "Easy to clean.", "Ready to use.", "A gift for everyone.")

# A seller's series and selling points, which no image shows and no attribute value contains.
_SERIES = ("classic", "prime", "nova", "urban", "essential", "deluxe", "vintage", "signature")
_PERKS = ("gift ready", "easy care", "heavy duty", "best value", "new edition", "limited offer")

# By position of the brand in its category; see vocabulary.BRAND_POSITIONS.
_STYLES = (
    "{brand} {series} {pattern} {color} {material} {type}, {size}{pack}, {perk}",
    "{size} {pattern} {color} {material} {type} for {place} by {brand} - {series} series{pack} - {perk}",
    "{type} in {pattern} {color} {material} - {brand} {series}, {size} size{pack} | {perk}",
)
_PACK_STYLES = (", pack of {}", " (pack of {})", " | pack of {}")
_HOUSE_STYLE_SHARE = 0.85


def seller_title(attributes: Mapping[str, str], rng: random.Random) -> str:
    """Write a seller's title: all attributes in a house style, and words that no image tells.

    It names every attribute, so the title recalls all of them; a product without ``pack`` is sold
    singly and says nothing about it. The series and the selling point are sampled, and 15 titles in
    100 follow another house style than their brand's: no policy can foresee them, so that a perfect
    reading of the image stays well below a BLEU of 1. Two calls with ``rng`` in the same state
    decide alike.
    """
    series, perk, is_house, other = pick(rng, _SERIES), pick(rng, _PERKS), rng.random(), rng.random()
    style = BRAND_POSITIONS[attributes["brand"]]
    if is_house >= _HOUSE_STYLE_SHARE:
        style = (style + 1 + int(other * 2)) % len(_STYLES)
    pack = _PACK_STYLES[style].format(attributes["pack"]) if "pack" in attributes else ""
    place = PLACES[CATEGORY_BY_TYPE[attributes["type"]]]
    title = _STYLES[style].format(**{**attributes, "pack": pack, "place": place, "series": series, "perk": perk})
    return in_title_case(title)


def description(attributes: Mapping[str, str], rng: random.Random) -> str:
    """Write three or four sentences in a seller's voice; no two calls on one ``rng`` need agree."""
    color, material, pattern = attributes["color"], attributes["material"], attributes["pattern"]
    product, place = attributes["type"], PLACES[CATEGORY_BY_TYPE[attributes["type"]]]
    brand = attributes["brand"].title()
    opening = pick(
        rng,
        (
            f"Meet the {brand} {product} for {place} use.",
            f"{brand} presents this {product}, made for {place} use.",
            f"This {product} by {brand} belongs in every {place} set.",
        ),
    )
    body = pick(
        rng,
        (
            f"It comes in {color} {material} with a {pattern} finish.",
            f"The {pattern} {color} finish goes well with the {material} body.",
        ),
    )
    pack = attributes.get("pack", "1")
    sold = "Sold singly" if pack == "1" else f"You get a pack of {pack}"
    return " ".join((opening, body, f"{sold}, size {attributes['size']}.", pick(rng, _PRAISE)))


def read_attributes(text: str) -> dict[str, str]:
    """Find the vocabulary in any text, whatever its case and order.

    Whole words only, the first value of each kind wins, and a number is a pack count only as in
    "pack of 2". The attributes come back in the order of ``KINDS``; kinds the text does not mention
    are absent.
    """
    attributes: dict[str, str] = {}
    for match in _VALUE.finditer(" ".join(text.lower().split())):
        kind = str(match.lastgroup)
        attributes.setdefault(kind, match.group(kind))
    return {kind: attributes[kind] for kind in KINDS if kind in attributes}


def in_title_case(text: str) -> str:
    """Return a text with its words in title case, but for small ones."""
    return re.sub(r"[a-z]+", lambda word: word[0] if word[0] in ("in", "by", "for", "of") else word[0].title(), text)


def _value_pattern() -> re.Pattern[str]:
    groups = []
    for kind in KINDS:
        values = "|".join(sorted(map(re.escape, VALUES[kind]), key=len, reverse=True))
        groups.append(rf"\bpack of (?P<{kind}>{values})\b" if kind == "pack" else rf"\b(?P<{kind}>{values})\b")
    return re.compile("|".join(groups))


_VALUE = _value_pattern()
