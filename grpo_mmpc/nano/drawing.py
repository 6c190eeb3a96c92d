"""Draw a nano product: a simple catalogue image in which every attribute can be seen.

The product stands in the middle: its silhouette is the type, its fill the colour and pattern, its
texture the material, its scale the size. The four corners repeat what is small or hard to see, each
inside a fixed cell of 28 x 28 of the 84 x 84 image, the area of one token of the nano vision
towers: the brand's mark (top left), the pieces of a pack (top right), a material swatch (bottom
left), and one, two or three bars for the size (bottom right).
"""

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from grpo_mmpc.nano.shapes import SHAPES, UNKNOWN_SHAPE
from grpo_mmpc.nano.vocabulary import BRAND_POSITIONS, BRANDS, check_attributes

Rgb = tuple[int, int, int]

GRID_PX = 84
"""Side of the image that the layout is written for; other sizes scale it."""

_OVERSAMPLING = 2  # smooth edges; 3 looks the same and takes twice the time

_FILLS: Mapping[str, Rgb] = {
    "red": (214, 38, 38),
    "orange": (244, 132, 20),
    "yellow": (250, 216, 40),
    "green": (40, 152, 70),
    "blue": (38, 92, 214),
    "purple": (128, 56, 172),
    "pink": (248, 150, 190),
    "brown": (122, 74, 42),
    "black": (38, 38, 42),
    "gray": (150, 152, 156),
}
_NO_FILL: Rgb = (226, 222, 214)
_SWATCHES: Mapping[str, Rgb] = {
    "wood": (196, 140, 84),
    "steel": (150, 164, 180),
    "plastic": (255, 96, 150),
    "glass": (176, 232, 244),
    "cotton": (250, 240, 212),
    "leather": (96, 54, 34),
}
_SCALES = {"small": 42.0, "medium": 50.0, "large": 58.0}
_MARK_INKS: tuple[Rgb, ...] = ((206, 24, 60), (24, 60, 168), (16, 130, 72))  # by position in BRANDS_BY_CATEGORY
_MARKS = (
    "a 20 8 8 92 92 0 360",
    "p 50 4 98 92 2 92",
    "p 50 0 100 50 50 100 0 50",
    "p 50 0 62 36 100 38 70 62 80 100 50 78 20 100 30 62 0 38 38 36",
    "r 34 2 66 98; r 2 34 98 66",
    "e 4 4 96 96; -e 34 -6 110 84",
    "p 4 4 96 4 4 96 96 96",
    "r 8 8 92 92",
    "r 2 6 98 26; r 2 40 98 60; r 2 74 98 94",
)
_PIECES = {
    "1": (),
    "2": ((62, 8), (72, 8)),
    "3": ((67, 2), (62, 12), (72, 12)),
    "6": ((60, 3), (67, 3), (74, 3), (60, 12), (67, 12), (74, 12)),
}


class _Silhouette(NamedTuple):
    """Masks of one type at one size, mode L, all of the same side."""

    product: Image.Image
    outline: Image.Image
    dark: Image.Image
    light: Image.Image


def draw(attributes: Mapping[str, str], *, jitter: int, size: int = GRID_PX) -> Image.Image:
    """Draw a product.

    Args:
        attributes: Kind -> value; a missing kind is drawn neutrally (no type: a blob, no colour:
            unpainted, no size: medium without bars, no pack, material or brand: an empty corner).
        jitter: Seed of the small differences between two photos of one product: position, light,
            phase of the pattern.
        size: Side of the square image in pixels.

    Returns:
        An RGB image of ``size x size``.

    Raises:
        ValueError: An attribute is unknown to the nano catalogue.
    """
    check_attributes(attributes)
    rng = random.Random(jitter)
    scale = size * _OVERSAMPLING / GRID_PX
    paper = 246 + int(rng.random() * 9)
    canvas = Image.new("RGB", (size * _OVERSAMPLING, size * _OVERSAMPLING), (paper, paper, paper))
    _paste_product(canvas, attributes, rng=rng, scale=scale)
    for mark in (_brand_mark, _pieces, _swatch, _size_bars):
        offset = (rng.random() * 2 - 1, rng.random() * 2 - 1)
        mark(canvas, attributes, offset, scale)
    return canvas.reduce(_OVERSAMPLING)


def _paste_product(canvas: Image.Image, attributes: Mapping[str, str], *, rng: random.Random, scale: float) -> None:
    side = round(_SCALES[attributes.get("size", "medium")] * scale)
    left = round(((GRID_PX + 4 * rng.random() - 2) * scale - side) / 2)
    top = round(((GRID_PX + 4 * rng.random() - 2) * scale - side) / 2)
    light = 0.93 + 0.14 * rng.random()
    fill = _lit(_FILLS.get(attributes.get("color", ""), _NO_FILL), light)
    silhouette = _silhouette(attributes.get("type", ""), side)
    body = Image.new("RGB", (side, side), fill)
    phase = rng.random(), rng.random()  # sampled for plain products too, so that the marks stay where they are
    pattern = attributes.get("pattern", "plain")
    if pattern != "plain":
        tile = _pattern(pattern, side, scale)
        x, y = (int(part * (tile.width - side)) for part in phase)
        second = _lit((252, 250, 246), min(light, 1.0))
        body.paste(second, mask=tile.crop((x, y, x + side, y + side)))
    if "material" in attributes:
        _add_texture(body, attributes["material"], scale, strength=0.45)
    dark: Rgb = (206, 208, 214) if attributes.get("color") == "black" else (44, 40, 46)
    body.paste(dark, mask=silhouette.dark)
    body.paste((250, 250, 250), mask=silhouette.light)
    canvas.paste((52, 48, 54), (left, top), silhouette.outline)
    canvas.paste(body, (left, top), silhouette.product)


def _lit(color: Rgb, light: float) -> Rgb:
    red, green, blue = (min(255, round(channel * light)) for channel in color)
    return red, green, blue


# ---------------------------------------------------------------- corners


def _brand_mark(canvas: Image.Image, attributes: Mapping[str, str], offset: tuple[float, float], scale: float) -> None:
    brand = attributes.get("brand")
    if brand is None:
        return
    position = BRAND_POSITIONS[brand]
    # Each (shape, ink) pair once: the brands of a category differ in both.
    shape = (BRANDS.index(brand) // 3 + 3 * position) % len(_MARKS)
    glyph = _strokes(_MARKS[shape], round(17 * scale))[0]
    x, y = (round((3 + shift) * scale) for shift in offset)
    canvas.paste(_MARK_INKS[position], (x, y), glyph)


def _pieces(canvas: Image.Image, attributes: Mapping[str, str], offset: tuple[float, float], scale: float) -> None:
    pencil = ImageDraw.Draw(canvas)
    wide = 6 if attributes.get("pack") == "6" else 8
    for column, row in _PIECES[attributes.get("pack", "1")]:
        x, y = column + offset[0], row + offset[1]
        box = (x * scale, y * scale, (x + wide) * scale, (y + wide) * scale)
        pencil.rectangle(box, fill=(168, 116, 66), outline=(70, 44, 24), width=max(1, round(scale)))


def _swatch(canvas: Image.Image, attributes: Mapping[str, str], offset: tuple[float, float], scale: float) -> None:
    material = attributes.get("material")
    if material is None:
        return
    side = round(17 * scale)
    patch = Image.new("RGB", (side, side), _SWATCHES[material])
    _add_texture(patch, material, scale, strength=1.0)
    ImageDraw.Draw(patch).rectangle((0, 0, side - 1, side - 1), outline=(60, 60, 64), width=max(1, round(scale)))
    canvas.paste(patch, (round((3 + offset[0]) * scale), round((64 + offset[1]) * scale)))


def _size_bars(canvas: Image.Image, attributes: Mapping[str, str], offset: tuple[float, float], scale: float) -> None:
    if "size" not in attributes:
        return
    pencil = ImageDraw.Draw(canvas)
    filled = list(_SCALES).index(attributes["size"]) + 1
    for bar in range(3):
        x, y, bottom = 63 + 6 * bar + offset[0], 75 - 5 * bar + offset[1], 81 + offset[1]
        fill = (30, 30, 36) if bar < filled else (226, 226, 228)
        pencil.rectangle((x * scale, y * scale, (x + 5) * scale, bottom * scale), fill=fill)


# ---------------------------------------------------------------- masks, drawn once per process


@lru_cache(maxsize=192)
def _silhouette(product_type: str, side: int) -> _Silhouette:
    body, dark, light = _strokes(SHAPES.get(product_type, UNKNOWN_SHAPE), side)
    thickness = max(3, 2 * round(side / 100) + 1)
    outline = body.filter(ImageFilter.MaxFilter(thickness))
    return _Silhouette(ImageChops.lighter(body, ImageChops.lighter(dark, light)), outline, dark, light)


def _strokes(shape: str, side: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Return body, dark details and light details of a shape, as masks of mode L."""
    masks = [Image.new("L", (side, side)) for _ in range(3)]
    body, dark, light = (ImageDraw.Draw(mask) for mask in masks)
    inks = {"*": ((light, 0), (dark, 255)), "+": ((dark, 0), (light, 255)), "-": ((body, 0),)}
    for stroke in map(str.strip, shape.split(";")):
        for pencil, ink in inks.get(stroke[0], ((body, 255),)):
            _stroke(pencil, stroke.lstrip("*+-"), side, ink)
    return masks[0], masks[1], masks[2]


def _stroke(pencil: ImageDraw.ImageDraw, stroke: str, side: int, ink: int) -> None:
    tool, *rest = stroke.split()
    numbers = [float(number) * (side - 1) / 100 for number in rest]
    points = list(zip(numbers[::2], numbers[1::2], strict=False))
    if tool == "e":
        pencil.ellipse(numbers, fill=ink)
    elif tool == "r" and len(numbers) == 5:
        pencil.rounded_rectangle(numbers[:4], radius=numbers[4], fill=ink)
    elif tool == "r":
        pencil.rectangle(numbers, fill=ink)
    elif tool == "p":
        pencil.polygon(points, fill=ink)
    elif tool == "a":
        pencil.arc(numbers[1:5], float(rest[5]), float(rest[6]), fill=ink, width=max(1, round(numbers[0])))
    elif tool == "l":
        width = max(1, round(numbers[0]))
        corners = list(zip(numbers[1::2], numbers[2::2], strict=True))
        pencil.line(corners, fill=ink, width=width, joint="curve")
        for x, y in (corners[0], corners[-1]):
            pencil.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    else:
        raise ValueError(f"unknown stroke {stroke!r}; see the table in grpo_mmpc.nano.shapes")


@lru_cache(maxsize=64)
def _pattern(pattern: str, side: int, scale: float) -> Image.Image:
    """Mask the pattern's second colour, one period larger so that its phase can vary."""
    period = 10 * scale
    wide = side + round(period)
    mask = Image.new("L", (wide, wide))
    pencil = ImageDraw.Draw(mask)
    steps = range(-1, int(wide / period) + 2)
    if pattern == "striped":
        for i in steps:
            pencil.rectangle((i * period, 0, i * period + 0.45 * period, wide), fill=255)
    elif pattern == "dotted":
        for i in steps:
            for j in steps:
                x, y = (i + 0.5 * (j % 2)) * period, j * 0.8 * period
                pencil.ellipse((x, y, x + 0.55 * period, y + 0.55 * period), fill=255)
    elif pattern == "checkered":
        half = period / 2
        for i in range(2 * len(steps)):
            for j in range(2 * len(steps)):
                if (i + j) % 2:
                    pencil.rectangle((i * half, j * half, (i + 1) * half - 1, (j + 1) * half - 1), fill=255)
    elif pattern == "zigzag":
        for j in steps:
            points = [(i * 0.6 * period, (j + 0.6 * (i % 2)) * period) for i in range(-1, 2 * len(steps) + 2)]
            pencil.line(points, fill=255, width=round(0.35 * period), joint="curve")
    return mask


@lru_cache(maxsize=64)
def _texture(material: str, side: int, scale: float, strength: float) -> tuple[Image.Image, Image.Image]:
    """Return shadow and shine of a material as masks of mode L, at ``strength`` of full ink."""
    shadow, shine = Image.new("L", (side, side)), Image.new("L", (side, side))
    dark, light = ImageDraw.Draw(shadow), ImageDraw.Draw(shine)
    ink = round(255 * strength)
    thin = max(1, round(scale))
    if material == "wood":
        for i, y in enumerate(range(3 * thin, side, 5 * thin)):
            dark.arc((-side, y - 6 * thin * (i % 2 + 1), 2 * side, y + 6 * thin), 20, 160, fill=ink, width=thin)
    elif material == "steel":
        light.polygon([(side * 0.2, 0), (side * 0.42, 0), (side * 0.42, side), (side * 0.2, side)], fill=ink)
        dark.rectangle((side * 0.78, 0, side, side), fill=ink // 2)
    elif material == "plastic":
        light.ellipse((side * 0.18, side * 0.12, side * 0.44, side * 0.38), fill=ink)
    elif material == "glass":
        for shift in (0.1, 0.4):
            top, bottom = (side * (shift + 0.3), side * (shift + 0.5)), (side * (shift + 0.1), side * (shift - 0.1))
            light.polygon([(top[0], 0), (top[1], 0), (bottom[0], side), (bottom[1], side)], fill=ink)
    elif material == "cotton":
        for i in range(0, side, 4 * thin):
            dark.line((i, 0, i, side), fill=ink // 2, width=thin)
            dark.line((0, i, side, i), fill=ink // 2, width=thin)
    elif material == "leather":
        for i, y in enumerate(range(0, side, 4 * thin)):
            for x in range(2 * thin * (i % 2), side, 4 * thin):
                light.ellipse((x, y, x + thin, y + thin), fill=ink)
    return shadow, shine


def _add_texture(image: Image.Image, material: str, scale: float, *, strength: float) -> None:
    shadow, shine = _texture(material, image.width, scale, strength)
    image.paste((40, 26, 16), mask=shadow)
    image.paste((255, 255, 255), mask=shine)
