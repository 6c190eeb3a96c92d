"""Image files of known colours, and the pixels that come out of them."""

from pathlib import Path

import numpy as np
from PIL import Image

RED = (255, 0, 0)
WHITE = (255, 255, 255)


def save(folder: Path, image: Image.Image, name: str, **options) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)
    return name


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)
