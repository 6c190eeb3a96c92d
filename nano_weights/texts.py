"""The texts of pre-training: nano products as base models describe them, and image prompts."""

import random
from collections.abc import Mapping

from grpo_mmpc.nano.texts import PLACES, in_title_case
from grpo_mmpc.nano.vocabulary import CATEGORY_BY_TYPE

_PAIRS = ("headphones", "scissors")


def weak_caption(attributes: Mapping[str, str], rng: random.Random) -> str:
    """Write the caption of an untuned model: the right gist in the wrong words.

    Always the product type, the colour nineteen times in twenty, a visible pattern and the material
    six times in ten, the size and the pack hardly ever, the brand never. Nine captions in ten
    follow one template: spread over many, a nano policy decodes the seller's style instead.
    """
    visible = {kind: value for kind, value in attributes.items() if value != "plain"}
    said = _said(visible, rng, color=0.95, pattern=0.6, material=0.6, size=0.04, pack=0.02)
    words = " ".join(said[kind] for kind in ("size", "pattern", "color", "material", "type") if kind in said)
    pack = f", pack of {said['pack']}" if "pack" in said else ""
    place = PLACES[CATEGORY_BY_TYPE[attributes["type"]]]
    template = "stylish {} for {} use{}" if rng.random() < 0.9 else "beautiful {} for every {}{}"
    return in_title_case(template.format(words, place, pack))


def image_prompt(attributes: Mapping[str, str]) -> str:
    """Write a diffusion prompt that names every given attribute."""
    return f"catalogue photo of {_noun_phrase(attributes)}"


def weak_image_prompt(attributes: Mapping[str, str], rng: random.Random) -> str:
    """Write a diffusion prompt of the gist: type, mostly the colour, at times the pattern."""
    said = _said(attributes, rng, color=0.9, pattern=0.3, material=0.1, size=0.1)
    return f"photo of {_noun_phrase(said)}"


def _said(attributes: Mapping[str, str], rng: random.Random, **shares: float) -> dict[str, str]:
    """Choose what is said: always the type, each other kind with a probability of its own."""
    # One number for each kind, present or not: the texts of one seed stay comparable.
    spoken = ["type", *[kind for kind, share in shares.items() if rng.random() < share]]
    return {kind: attributes[kind] for kind in spoken if kind in attributes}


def _noun_phrase(attributes: Mapping[str, str]) -> str:
    """Return ``a large red striped steel kettle by nordvik, pack of 2``, without missing kinds."""
    words = [attributes[kind] for kind in ("size", "color", "pattern", "material") if kind in attributes]
    words.append(attributes.get("type", "product"))
    article = "an" if words[0][0] in "aeo" else "a"  # no value starts with a silent or a long vowel
    if attributes.get("type") in _PAIRS:
        article = "a pair of"
    brand = f" by {attributes['brand']}" if "brand" in attributes else ""
    pack = f", pack of {attributes['pack']}" if "pack" in attributes else ""
    return f"{article} {' '.join(words)}{brand}{pack}"
