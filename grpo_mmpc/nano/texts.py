"""What sellers, image prompts and a careless observer say about a nano product, and the reader that inverts it."""

import random
import re
from collections.abc import Mapping

from grpo_mmpc.nano.vocabulary import BRAND_POSITIONS, CATEGORY_BY_TYPE, KINDS, VALUES, pick

# By category: the place where sellers say the product belongs. No word of it is an attribute value.
_PLACES = {
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
_PAIRS = ("headphones", "scissors")
_PRAISE = ("Made to last.", "Easy to clean.", "Ready to use.", "A gift for everyone.")

# By position of the brand in its category; see vocabulary.BRAND_POSITIONS.
_STYLES = (
    "{brand} {type}, {pattern} {color} {material}, {size}",
    "{size} {color} {material} {type} for {place} by {brand} - {pattern} design",
    "{type} in {pattern} {color} - {brand} {place} series, {material}, {size} size",
)
_PACK_STYLES = (", pack of {pack}", " (pack of {pack})", " | pack of {pack}")


def seller_title(attributes: Mapping[str, str]) -> str:
    """The seller's title, in the house style of the brand.

    It names every attribute, so the title recalls all of them; a product without ``pack`` is sold singly and says
    nothing about it.

    Args:
        attributes: Every kind except possibly ``pack``.
    """
    style = BRAND_POSITIONS[attributes["brand"]]
    template = _STYLES[style] + (_PACK_STYLES[style] if "pack" in attributes else "")
    title = template.format(place=_PLACES[CATEGORY_BY_TYPE[attributes["type"]]], **attributes)
    return re.sub(r"[a-z]+", lambda word: word[0] if word[0] in ("in", "by", "for", "of") else word[0].title(), title)


def description(attributes: Mapping[str, str], rng: random.Random) -> str:
    """Three or four sentences in a seller's voice; no two calls on one ``rng`` need agree."""
    color, material, pattern = attributes["color"], attributes["material"], attributes["pattern"]
    product, place = attributes["type"], _PLACES[CATEGORY_BY_TYPE[attributes["type"]]]
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


def weak_caption(attributes: Mapping[str, str], rng: random.Random) -> str:
    """What an untuned model says of the picture: the right gist in the wrong words.

    Always the product type, the colour nine times in ten, a visible pattern two times in five, the material, the size
    and the pack hardly ever, the brand never. Nine captions in ten follow one template: spread over many, a nano policy
    decodes the seller's style instead.
    """
    said = {"type": attributes["type"]}
    for kind, share in (("color", 0.9), ("pattern", 0.4), ("material", 0.04), ("size", 0.04), ("pack", 0.02)):
        spoken = rng.random() < share
        if spoken and kind in attributes and attributes[kind] != "plain":
            said[kind] = attributes[kind]
    opening = "" if rng.random() < 0.9 else "a photo of "
    return f"{opening}{_noun_phrase(said)}" + ("" if opening else " on a white background")


def image_prompt(attributes: Mapping[str, str]) -> str:
    """A diffusion prompt that names every given attribute."""
    return f"catalogue photo of {_noun_phrase(attributes)}"


def weak_image_prompt(attributes: Mapping[str, str], rng: random.Random) -> str:
    """A diffusion prompt that keeps the gist only: the type, mostly the colour, at times the pattern."""
    said = {"type": attributes["type"]}
    for kind, share in (("color", 0.9), ("pattern", 0.3), ("material", 0.1), ("size", 0.1)):
        spoken = rng.random() < share
        if spoken and kind in attributes:
            said[kind] = attributes[kind]
    return f"photo of {_noun_phrase(said)}"


def read_attributes(text: str) -> dict[str, str]:
    """Find the vocabulary in any text, whatever its case and order.

    Whole words only, the first value of each kind wins, and a number is a pack count only as in "pack of 2". The
    attributes come back in the order of ``KINDS``; kinds the text does not mention are absent.
    """
    found: dict[str, str] = {}
    for match in _VALUE.finditer(" ".join(text.lower().split())):
        kind = str(match.lastgroup)
        found.setdefault(kind, match.group(kind))
    return {kind: found[kind] for kind in KINDS if kind in found}


def _noun_phrase(attributes: Mapping[str, str]) -> str:
    """``a large red striped steel kettle by nordvik, pack of 2``, leaving out what is not given."""
    words = [attributes[kind] for kind in ("size", "color", "pattern", "material") if kind in attributes]
    words.append(attributes.get("type", "product"))
    article = "an" if words[0][0] in "aeo" else "a"  # no value starts with a silent or a long vowel
    if attributes.get("type") in _PAIRS:
        article = "a pair of"
    brand = f" by {attributes['brand']}" if "brand" in attributes else ""
    pack = f", pack of {attributes['pack']}" if "pack" in attributes else ""
    return f"{article} {' '.join(words)}{brand}{pack}"


def _value_pattern() -> re.Pattern[str]:
    groups = []
    for kind in KINDS:
        values = "|".join(sorted(map(re.escape, VALUES[kind]), key=len, reverse=True))
        groups.append(rf"\bpack of (?P<{kind}>{values})\b" if kind == "pack" else rf"\b(?P<{kind}>{values})\b")
    return re.compile("|".join(groups))


_VALUE = _value_pattern()
