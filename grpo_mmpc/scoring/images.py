"""Opens images for encoders and metrics, and keeps what an encoder made of them: every image is encoded once."""

import hashlib
import logging
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from grpo_mmpc.catalogue.images import read_image
from grpo_mmpc.errors import ImageError
from grpo_mmpc.metrics.image import ImageSource, OpenedImage
from grpo_mmpc.scoring.cache import EncodingCache, encode_missing

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def open_image(path: str | Path) -> Image.Image:
    """An image as upright RGB, read with the catalogue's own safe reader.

    Raises:
        ImageError: The image is missing, damaged or too large.
    """
    absolute = Path(path).resolve()
    return read_image(absolute, folder=absolute.parent)


class ImageEncodings:
    """Vectors of images by an encoder that the caller owns; the most recently used ones are held.

    Args:
        what: Name of the encoder for messages.
        device: Where ``encode`` computes.
        encode: Vectors [N, D] on the CPU of N RGB images, N at most 64.
        max_bytes: Memory for held vectors.
    """

    def __init__(
        self, *, what: str, device: str, encode: "Callable[[list[Image.Image]], torch.Tensor]", max_bytes: int
    ) -> None:
        self._what = what
        self._device = device
        self._encode = encode
        self._held: EncodingCache[Hashable, torch.Tensor] = EncodingCache(max_bytes=max_bytes)
        self._reported: set[str] = set()

    def of(self, sources: Sequence[ImageSource]) -> "list[torch.Tensor | None]":
        """A vector [D] for each source; None where an image cannot be read (one log line for each)."""
        keys = [image_key(source) for source in sources]
        by_key = dict(zip(keys, sources, strict=True))

        def encode(batch: Sequence[Hashable]) -> "dict[Hashable, torch.Tensor]":
            opened = {key: image for key in batch if (image := self._open(by_key[key])) is not None}
            # clone: a view would keep the rows of the whole batch alive after most of them were let go
            return (
                {key: row.clone() for key, row in zip(opened, self._encode(list(opened.values())), strict=True)}
                if opened
                else {}
            )

        vectors = encode_missing(keys, held=self._held, encode=encode, device=self._device)
        return [vectors.get(key) for key in keys]

    def cosines(self, sources: Sequence[ImageSource], others: Sequence[ImageSource]) -> list[float]:
        """Cosines of N pairs of images whose vectors have unit length.

        Returns:
            N cosines in [-1, 1]; NaN where one of the two cannot be read.

        Raises:
            ValueError: The numbers of images differ.
        """
        if len(sources) != len(others):
            raise ValueError(f"{len(sources)} images for {len(others)} others")
        vectors = self.of([*sources, *others])
        half = len(sources)
        return [unit_cosine(a, b) for a, b in zip(vectors[:half], vectors[half:], strict=True)]

    def _open(self, source: ImageSource) -> Image.Image | None:
        if isinstance(source, OpenedImage):
            return source.image
        if isinstance(source, Image.Image):
            return source.convert("RGB")
        try:
            return open_image(source)
        except ImageError as error:
            if str(source) not in self._reported:
                self._reported.add(str(source))
                logger.warning("%s leaves an item unscored: %s", self._what, error)
            return None


def image_key(source: ImageSource) -> Hashable:
    """What identifies an image: path, time and size of a file (a render may be replaced), or the pixels in memory."""
    if isinstance(source, Image.Image):
        return source.mode, source.size, hashlib.blake2b(source.tobytes(), digest_size=16).digest()
    path = Path(source.path if isinstance(source, OpenedImage) else source)
    try:
        status = path.stat()
    except (OSError, ValueError):  # reported when the image is opened
        return str(path)
    return str(path), status.st_mtime_ns, status.st_size


def unit_cosine(first: "torch.Tensor | None", second: "torch.Tensor | None") -> float:
    """Cosine of two vectors of unit length; NaN where one is missing."""
    if first is None or second is None:
        return float("nan")
    return max(-1.0, min(1.0, float((first * second).sum())))


def unit_rows(features: "torch.Tensor") -> "torch.Tensor":
    """Vectors [N, D] scaled to unit length, in fp32 on the CPU."""
    import torch  # heavy: imported on use

    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()
