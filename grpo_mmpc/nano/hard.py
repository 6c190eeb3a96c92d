"""The hard variant of the nano catalogue: spoiled images, and products that no policy has seen.

On clean images a nano policy states hardly anything wrong, so that nothing can be shown of a gate.
"""

import random
from collections.abc import Mapping
from dataclasses import replace

from PIL import Image, ImageDraw, ImageFilter

from grpo_mmpc.nano.items import NanoItem
from grpo_mmpc.nano.texts import in_title_case

UNSEEN: Mapping[str, tuple[str, ...]] = {
    "brand": ("quorvex", "mirandol", "brelto"),
    "type": ("samovar", "hammock", "birdhouse"),
}
"""Values that the vocabulary does not have."""

_UNSEEN_SHARE = 1 / 6
"""Share of the items with an unseen brand, and with an unseen type."""
_MOST_PATCHES = 3
_PATCH = (244, 244, 244)
"""Nearly the paper: a colour of its own would be taken for that of the product."""
_MOST_BLUR_PX = 1.0


def harden(item: NanoItem) -> NanoItem:
    """Return the item, under a brand or a type that no policy has seen if its jitter says so."""
    rng = random.Random(f"hard {item.jitter}")
    for kind, values in UNSEEN.items():
        new = values[int(rng.random() * len(values))]
        if rng.random() >= _UNSEEN_SHARE:
            continue
        old = item.attributes[kind]
        item = replace(
            item,
            attributes={**item.attributes, kind: new},
            title=_renamed(item.title, old, new),
            description=_renamed(item.description, old, new),
        )
    return item


def drawn_attributes(item: NanoItem) -> dict[str, str]:
    """Return what of an item can be drawn: all but what was never seen."""
    return {kind: value for kind, value in item.attributes.items() if value not in UNSEEN.get(kind, ())}


def spoil(image: Image.Image, item: NanoItem) -> Image.Image:
    """Return the image blurred and with up to three patches of half its width over it."""
    rng = random.Random(f"spoil {item.jitter}")
    spoiled = image.filter(ImageFilter.GaussianBlur(rng.random() * _MOST_BLUR_PX))
    side = image.width // 2
    for _ in range(int(rng.random() * (_MOST_PATCHES + 1))):
        x, y = (int(rng.random() * (image.width - side + 1)) for _ in range(2))
        ImageDraw.Draw(spoiled).rectangle((x, y, x + side - 1, y + side - 1), fill=_PATCH)
    return spoiled


def _renamed(text: str, old: str, new: str) -> str:
    return text.replace(old, new).replace(in_title_case(old), in_title_case(new)).replace(old.title(), new.title())
