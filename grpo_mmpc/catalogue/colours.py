"""Colours of embedded profiles (Adobe RGB, Display P3, press CMYK) as sRGB, which models expect."""

import io
from functools import lru_cache
from typing import Any

from PIL import Image

_SPACES = {b"RGB ": "RGB", b"CMYK": "CMYK", b"GRAY": "L"}
"""Colour space in a profile's header, and the mode of the pixels it describes."""


def to_srgb(image: Image.Image) -> Image.Image:
    """Return a loaded image in sRGB if it embeds the profile of another colour space.

    An image without a profile, with one of sRGB itself, or with an unusable one stays as it is.
    """
    profile = image.info.get("icc_profile")
    mode = _SPACES.get(profile[16:20]) if isinstance(profile, bytes) else None
    if mode is None:
        return image
    transform = _transform(profile, mode)
    if transform is None:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    pixels = image if image.mode == mode else image.convert(mode)
    converted: Image.Image = transform.apply(pixels)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> Any:
    """Return Pillow's transform to sRGB; None where there is nothing to do or to be done."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return None
        srgb = ImageCms.createProfile("sRGB")
        # Relative colorimetric with black point compensation: what photo programs do.
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        return ImageCms.buildTransform(source, srgb, mode, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
