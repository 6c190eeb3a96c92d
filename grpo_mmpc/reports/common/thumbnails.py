"""Small copies of images, as data URIs."""

import base64
import io
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 50_000_000
"""Larger images are not decoded: a thumbnail is not worth a decompression bomb."""
_SIZES = (256, 192, 128, 96, 64)
_BACKGROUND = (255, 255, 255)


def thumbnails(paths: Iterable[Path], *, budget: int) -> Mapping[Path, str]:
    """Return data URIs of images, all at the largest size at which together they fit the budget.

    ``budget`` is in bytes of all of them together. Files that are no readable images are left out.
    """
    unique = list(dict.fromkeys(paths))
    encoded: dict[Path, str] = {}
    for size in _SIZES:
        encoded = {path: uri for path in unique if (uri := _thumbnail(path, size=size)) is not None}
        if sum(map(len, encoded.values())) <= budget:
            break
    return encoded


def _thumbnail(path: Path, *, size: int) -> str | None:
    from PIL import Image, ImageOps  # heavy: imported on use

    # PIL warns of big images before we can look at their size and refuse them.
    quiet = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
    try:
        with quiet, Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((size, size))
            return _data_uri(_flat(upright))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # PIL reports broken files with any of these. The page shows that there is no image.
        return None


def _flat(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode in ("I", "I;16", "I;16B", "F"):
        image = image.point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        flat = Image.new("RGB", layer.size, _BACKGROUND)
        flat.paste(layer, mask=layer.getchannel("A"))
        return flat
    return image.convert("RGB")


def _data_uri(image: "Image.Image") -> str:
    drawn, photo = io.BytesIO(), io.BytesIO()
    image.save(drawn, "PNG", optimize=True)
    image.save(photo, "JPEG", quality=80, optimize=True)
    content, kind = (drawn, "png") if drawn.tell() <= 1.2 * photo.tell() else (photo, "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
