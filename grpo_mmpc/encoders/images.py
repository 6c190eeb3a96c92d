"""Open images for encoders and metrics, and cache their vectors: each is encoded once."""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from grpo_mmpc.catalogue.images import read_image
from grpo_mmpc.encoders.cache import EncodingCache
from grpo_mmpc.encoders.loading import num_bytes, scoring
from grpo_mmpc.encoders.store import StoredEncodings
from grpo_mmpc.errors import ImageError, ScoringError
from grpo_mmpc.metrics.image import ImageSource, OpenedImage
from grpo_mmpc.utils.hashing import digest
from grpo_mmpc.utils.single_out import Failure, single_out

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_BATCH_SIZE = 64
_LONGEST = 16
"""Times its width that an image may be high, and the other way round, before ``middle`` cuts it."""


def open_image(path: str | Path) -> Image.Image:
    """Read an image as upright RGB with the catalogue's own safe reader.

    Raises:
        ImageError: The image is missing, damaged or too large.
    """
    absolute = Path(path).resolve()
    return read_image(absolute, folder=absolute.parent)


class ImageEncodings:
    """The most recently used image vectors of an encoder that the caller owns; thread-safe.

    Args:
        what: Name of the encoder for messages.
        device: Where ``encode`` computes.
        encode: Vectors [N, D] on the CPU of N RGB images, N at most 64; runs without gradients and
            autocast.
        stored: Where vectors of image files are kept on disk; images in memory, such as renders,
            never are.
        max_bytes: Memory for held vectors; the default holds about 40,000 of 768 numbers.
    """

    def __init__(
        self,
        *,
        what: str,
        device: str,
        encode: "Callable[[list[Image.Image]], torch.Tensor]",
        stored: StoredEncodings | None,
        max_bytes: int = 128 * 2**20,
    ) -> None:
        self._what = what
        self._device = device
        self._encode = encode
        self._stored = stored
        self._held: EncodingCache[Hashable, torch.Tensor] = EncodingCache(max_bytes=max_bytes)
        self._lock = threading.Lock()  # held for one batch at a time
        self._reported: set[str] = set()

    def of(self, sources: Sequence[ImageSource]) -> "list[torch.Tensor | None]":
        """Return a vector [D] for each source; None for unreadable ones (one log line each)."""
        keys = [image_key(source) for source in sources]
        by_key = dict(zip(keys, sources, strict=True))
        vectors: dict[Hashable, torch.Tensor] = {}
        missing = [key for key in by_key if not self._find(key, vectors)]
        for start in range(0, len(missing), _BATCH_SIZE):
            with self._lock:
                # Another thread may have encoded some of them while this one waited.
                batch = [key for key in missing[start : start + _BATCH_SIZE] if not self._find(key, vectors)]
                vectors |= self._encode_batch({key: by_key[key] for key in batch})
        return [vectors.get(key) for key in keys]

    def matrix(self, sources: Sequence[ImageSource], *, width: int) -> "torch.Tensor":
        """Return the vectors of N images, [N, width]; a row of NaN where one cannot be read."""
        import torch  # heavy: imported on use

        unread = torch.full((width,), float("nan"))
        rows = [unread if vector is None else vector for vector in self.of(sources)]
        return torch.stack(rows) if rows else torch.zeros(0, width)

    def _find(self, key: Hashable, vectors: "dict[Hashable, torch.Tensor]") -> bool:
        vector = self._held.get(key)
        if vector is not None:
            vectors[key] = vector
        return vector is not None

    def _encode_batch(self, sources: Mapping[Hashable, ImageSource]) -> "dict[Hashable, torch.Tensor]":
        """Return vectors from disk or from the encoder, without images that cannot be read."""
        contents = {key: content for key in sources if self._stored and (content := _file_bytes(sources[key]))}
        vectors: dict[Hashable, torch.Tensor] = {}
        if self._stored:
            rows = self._stored.read(list(contents.values()))
            vectors = {key: row for key, row in zip(contents, rows, strict=True) if row is not None}
        opened = {
            key: image for key in sources if key not in vectors and (image := self._open(sources[key])) is not None
        }
        if opened:
            encoded = single_out(
                self._rows,
                list(opened.values()),
                batch_size=lambda: _BATCH_SIZE,
                what=self._what,
                memory_advice="Give the encoder another device (device: cpu)",
                error=ScoringError,
                num_distinct=len(opened),
            )
            fresh = {}
            for key, row in zip(opened, encoded, strict=True):
                if isinstance(row, Failure):
                    self._report(sources[key], row.reason)
                else:
                    fresh[key] = row
            vectors |= fresh
            if self._stored:
                self._stored.write({contents[key]: row for key, row in fresh.items() if key in contents})
        for key, vector in vectors.items():
            self._held.put(key, vector, num_bytes=num_bytes(vector))
        return vectors

    def _rows(self, images: list[Image.Image]) -> "list[torch.Tensor]":
        with scoring(self._device):
            # clone: a view would keep the rows of the whole batch alive
            return [row.clone() for row in self._encode(images)]

    def cosines(self, sources: Sequence[ImageSource], others: Sequence[ImageSource]) -> list[float]:
        """Return the cosines of N pairs of images whose vectors have unit length.

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
            self._report(source, str(error))
            return None

    def _report(self, source: ImageSource, reason: str) -> None:
        name = str(source.path if isinstance(source, OpenedImage) else source)
        if name not in self._reported:
            self._reported.add(name)
            logger.warning("%s leaves an item unscored: %s", self._what, reason)


def middle(image: Image.Image) -> Image.Image:
    """Cut a very long image to its middle, all that a processor which crops its centre looks at.

    Such a processor first scales the short side up: a line of 20,000 pixels becomes gigabytes.
    """
    width, height = image.size
    across, down = min(width, _LONGEST * height), min(height, _LONGEST * width)
    left, top = (width - across) // 2, (height - down) // 2
    return image if (across, down) == image.size else image.crop((left, top, left + across, top + down))


def image_key(source: ImageSource) -> Hashable:
    """Identify an image: path, time and size of a file, or the pixels in memory."""
    if isinstance(source, Image.Image):
        return source.mode, source.size, digest(source.tobytes())
    path = Path(source.path if isinstance(source, OpenedImage) else source)
    try:
        status = path.stat()
    except (OSError, ValueError):  # reported when the image is opened
        return str(path)
    return str(path), status.st_mtime_ns, status.st_size


def _file_bytes(source: ImageSource) -> bytes | None:
    """Return the content of an image file; None for images in memory and unreadable files."""
    if isinstance(source, Image.Image):
        return None
    try:
        return Path(source.path if isinstance(source, OpenedImage) else source).read_bytes()
    except (OSError, ValueError):  # reported when the image is opened
        return None


def unit_cosine(first: "torch.Tensor | None", second: "torch.Tensor | None") -> float:
    """Return the cosine of two vectors of unit length; NaN where one is missing."""
    if first is None or second is None:
        return float("nan")
    return max(-1.0, min(1.0, float((first * second).sum())))


def unit_rows(features: "torch.Tensor") -> "torch.Tensor":
    """Scale vectors [N, D] to unit length, in fp32 on the CPU."""
    import torch  # heavy: imported on use

    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()
