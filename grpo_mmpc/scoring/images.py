"""Opens the images that encoders and image metrics compare."""

from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.catalogue.images import read_image

if TYPE_CHECKING:
    from PIL import Image


def open_image(path: str | Path) -> "Image.Image":
    """An image as upright RGB, read with the catalogue's own safe reader.

    Raises:
        ImageError: The image is missing, damaged or too large.
    """
    absolute = Path(path).resolve()
    return read_image(absolute, folder=absolute.parent)
