"""Describe image files: readable or not, content hash, thumbnail; remember the results."""

import heapq
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from grpo_mmpc.catalogue.images import MAX_IMAGE_PIXELS, ImageFolder, decode_image
from grpo_mmpc.errors import ImageError
from grpo_mmpc.utils.cache import cache_folder, drop_unused
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.files import replace_atomically
from grpo_mmpc.utils.hashing import file_digest, hex_digest

_log = logging.getLogger(__name__)

LUMA_CELLS = 16
CHROMA_CELLS = 8
THUMBNAIL_BYTES = LUMA_CELLS**2 + 2 * CHROMA_CELLS**2
"""16 x 16 brightness cells, then 8 x 8 of each colour difference (coarser, as in JPEG)."""

_SMOOTH = Image.Resampling.HAMMING  # BOX would jump by a whole pixel row when the source is resized
_VERSION = 3
_MAX_THREADS = 8
_CHUNK = 256
_STORED_ROWS = 4096
_STORED = ("digest", "aspect", "thumbnail")
_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "digest": pa.binary(),
        "aspect": pa.float64(),
        "thumbnail": pa.binary(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSignature:
    """One image that was opened, or the reason why it could not be."""

    problem: str | None
    """The file's fault and its remedy; None for a good image."""
    digest: bytes = b""
    """16-byte hash of the file's content."""
    aspect: float = 0.0
    """Width over height, after rotation."""
    thumbnail: bytes = b""
    """:data:`THUMBNAIL_BYTES` cell values in 0..255, see :func:`thumbnail`."""


class _Stored(NamedTuple):
    """A description of an earlier call, and what its file was then."""

    path: str
    size: int
    mtime_ns: int
    signature: ImageSignature


def thumbnail(image: Image.Image) -> bytes:
    """Reduce an image to 16 x 16 cells of brightness and 8 x 8 of colour, stretched to a square.

    Re-encoding or resizing a photo moves each cell by a few of 256 levels; another photo, or a
    drawing with one more mark, differs by far more in some cell
    (:data:`~grpo_mmpc.catalogue.duplicates.CELL_TOLERANCE`).
    """
    luma, *chroma = image.resize((LUMA_CELLS, LUMA_CELLS), _SMOOTH).convert("YCbCr").split()
    return luma.tobytes() + b"".join(c.resize((CHROMA_CELLS, CHROMA_CELLS), _SMOOTH).tobytes() for c in chroma)


def image_signatures(
    images: pa.ChunkedArray | Sequence[str | None],
    *,
    folder: Path,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    with_thumbnails: bool = True,
) -> list[ImageSignature | None]:
    """Open every image once and describe it; None where a record names no image.

    Files are decoded in parallel. Results are remembered, outside the catalogue, by path, size and
    modification time, so that the next call only looks at files that changed. Problems are never
    remembered. Thumbnails, two thirds of the memory, may be left out where all is remembered.
    """
    signatures: list[ImageSignature | None] = [None] * len(images)
    store = _Store(cache_folder("images") / f"{_folder_key(folder, max_image_pixels)}.parquet")
    files = ImageFolder(folder)
    known = store.finder(with_thumbnails=with_thumbnails)
    work: dict[str, tuple[Path, int, int]] = {}
    open_ones: list[tuple[int, str]] = []
    before = ""
    signature: ImageSignature | None = None
    for position, image in _sorted(images):
        if image != before:
            before, signature = image, None
            try:
                file, status = files.look_up(image)
            except (ImageError, OSError) as e:
                signature = ImageSignature(problem=str(e))
            else:
                signature = known(image, status.st_size, status.st_mtime_ns)
                if signature is None:
                    work[image] = (Path(file), status.st_size, status.st_mtime_ns)
        signatures[position] = signature
        if signature is None:
            open_ones.append((position, image))
    if work:
        files_of_work = [(image, file) for image, (file, _, _) in work.items()]
        described = dict(_describe_all(files_of_work, max_image_pixels=max_image_pixels))
        for position, image in open_ones:
            signatures[position] = described[image]
        store.write(_Stored(i, *work[i][1:], s) for i, s in described.items() if s.problem is None)
    return signatures


def _sorted(images: pa.ChunkedArray | Sequence[str | None]) -> Iterator[tuple[int, str]]:
    """Yield positions and images in the order of the images, a few thousand in memory at once."""
    column = images if isinstance(images, pa.ChunkedArray) else pa.chunked_array([pa.array(images, pa.string())])
    joined = pa.concat_arrays(
        [chunk.cast(pa.large_string()) for chunk in column.chunks] or [pa.array([], "large_utf8")]
    )
    order = pc.sort_indices(joined)[: len(joined) - joined.null_count]
    for start in range(0, len(order), _STORED_ROWS):
        some = order[start : start + _STORED_ROWS]
        yield from zip(some.to_pylist(), joined.take(some).to_pylist(), strict=True)


def describe_image(file: Path, *, name: str, max_image_pixels: int) -> ImageSignature:
    """Decode one file; a damaged one gives a signature with its problem."""
    try:
        with file.open("rb") as stream:
            # Four pixels a cell are plenty, and JPEG decodes several times faster when reduced.
            image = decode_image(stream, name=name, max_image_pixels=max_image_pixels, shrink_to_px=4 * LUMA_CELLS)
        digest = bytes.fromhex(file_digest(file))
    except ImageError as e:
        return ImageSignature(problem=str(e))
    except OSError as e:
        return ImageSignature(problem=f"image {name} cannot be read ({e.strerror or e}); check the file's permissions")
    return ImageSignature(
        problem=None,
        digest=digest,
        aspect=image.width / image.height,
        thumbnail=thumbnail(image),
    )


def _describe_all(work: list[tuple[str, Path]], *, max_image_pixels: int) -> Iterator[tuple[str, ImageSignature]]:
    def describe(item: tuple[str, Path]) -> tuple[str, ImageSignature]:
        return item[0], describe_image(item[1], name=item[0], max_image_pixels=max_image_pixels)

    queue, done = iter(work), 0
    with ThreadPoolExecutor(max_workers=min(_MAX_THREADS, os.cpu_count() or 1)) as pool, Progress() as progress:
        # In chunks: one future per image of a large catalogue would itself fill the memory.
        while chunk := list(islice(queue, _CHUNK)):
            yield from pool.map(describe, chunk)
            done += len(chunk)
            progress("checking images", done, len(work))


def _folder_key(folder: Path, max_image_pixels: int) -> str:
    return hex_digest(f"{_VERSION}\0{folder.resolve()}\0{max_image_pixels}")


class _Store:
    """Descriptions on disk, in the order of the paths."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._in_use = bytearray()
        """By row, whether a file is still as it was."""

    def finder(self, *, with_thumbnails: bool) -> Callable[[str, int, int], ImageSignature | None]:
        """Return a function that finds a description by path, size and time; paths ascend."""
        rows = self._read(with_thumbnails=with_thumbnails)
        row = next(rows, None)

        def find(path: str, size: int, mtime_ns: int) -> ImageSignature | None:
            nonlocal row
            while row is not None and row.path <= path:
                here, row = row, next(rows, None)
                self._in_use.append(here[:3] == (path, size, mtime_ns))
                if self._in_use[-1]:
                    return here.signature
            return None

        return find

    def write(self, new: Iterable[_Stored]) -> None:
        """Write the descriptions that were found, and new ones in the order of paths."""
        kept = compress(self._read(with_thumbnails=True), self._in_use)
        rows = heapq.merge(kept, new, key=lambda one: one.path)
        try:
            drop_unused(self._file.parent)
            with (
                replace_atomically(self._file) as temporary,
                pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as file,
            ):
                while batch := list(islice(rows, _STORED_ROWS)):
                    cells = [{name: getattr(one.signature, name) for name in _STORED} for one in batch]
                    table = [one._asdict() | known for one, known in zip(batch, cells, strict=True)]
                    file.write_table(pa.Table.from_pylist(table, schema=_SCHEMA))
        except OSError as e:
            _log.warning("cannot write the image cache %s (%s); images will be checked again next time", self._file, e)

    def _read(self, *, with_thumbnails: bool) -> Iterator[_Stored]:
        columns = [name for name in _SCHEMA.names if with_thumbnails or name != "thumbnail"]
        if not self._file.exists():
            return
        try:
            with suppress(OSError):  # a cache shared with another user
                os.utime(self._file)  # in use: drop_unused must not take it
            for batch in pq.ParquetFile(self._file).iter_batches(batch_size=_CHUNK, columns=columns):
                for row in batch.to_pylist():
                    path, size, mtime_ns = row.pop("path"), row.pop("size"), row.pop("mtime_ns")
                    yield _Stored(path, size, mtime_ns, ImageSignature(problem=None, **row))
        except (OSError, pa.ArrowInvalid, KeyError) as e:
            _log.warning("ignoring the damaged image cache %s (%s); it will be rebuilt", self._file, e)


def thumbnails(signatures: Sequence[ImageSignature]) -> npt.NDArray[np.uint8]:
    """Stack the thumbnails of N good images, ``[N, THUMBNAIL_BYTES]`` of uint8."""
    return np.frombuffer(b"".join(s.thumbnail for s in signatures), dtype=np.uint8).reshape(-1, THUMBNAIL_BYTES)
