"""Describe image files: readable or not, content hash, thumbnail; remember the results."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from grpo_mmpc.catalogue.images import MAX_IMAGE_PIXELS, decode_image, find_image
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
_VERSION = 2
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


_Remembered = tuple[tuple[int, int], ImageSignature]
"""Size and modification time of a file, and its description."""


def thumbnail(image: Image.Image) -> bytes:
    """Reduce an image to 16 x 16 cells of brightness and 8 x 8 of colour, stretched to a square.

    Re-encoding or resizing a photo moves each cell by a few of 256 levels; another photo, or a
    drawing with one more mark, differs by far more in some cell
    (:data:`~grpo_mmpc.catalogue.duplicates.CELL_TOLERANCE`).
    """
    luma, *chroma = image.resize((LUMA_CELLS, LUMA_CELLS), _SMOOTH).convert("YCbCr").split()
    return luma.tobytes() + b"".join(c.resize((CHROMA_CELLS, CHROMA_CELLS), _SMOOTH).tobytes() for c in chroma)


def image_signatures(
    images: Sequence[str | None],
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
    wanted = sorted({image for image in images if image is not None})
    if not wanted:
        return [None] * len(images)
    store = cache_folder("images") / f"{_folder_key(folder, max_image_pixels)}.parquet"
    known = _read_store(store, with_thumbnails=with_thumbnails)
    described: dict[str, ImageSignature] = {}
    stamps: dict[str, tuple[int, int]] = {}
    work: list[tuple[str, Path]] = []
    real_folders: dict[str, str] = {}
    for image in wanted:
        try:
            file = find_image(image, folder=folder, real_folders=real_folders)
            stat = file.stat()
        except (ImageError, OSError) as e:
            described[image] = ImageSignature(problem=str(e))
            continue
        stamps[image] = (stat.st_size, stat.st_mtime_ns)
        remembered = known.get(image)
        if remembered is not None and remembered[0] == stamps[image]:
            described[image] = remembered[1]
        else:
            work.append((image, file))
    if work and not with_thumbnails:  # which the store is written with
        known = _read_store(store)
        described |= {image: known[image][1] for image in stamps if image in described and image in known}
    for image, signature in _describe_all(work, max_image_pixels=max_image_pixels):
        described[image] = signature
    if work:
        _write_store(store, {i: (stamps[i], described[i]) for i in stamps if described[i].problem is None})
    return [None if image is None else described[image] for image in images]


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


def _read_store(store: Path, *, with_thumbnails: bool = True) -> dict[str, _Remembered]:
    if not store.exists():
        return {}
    columns = [name for name in _SCHEMA.names if with_thumbnails or name != "thumbnail"]
    known: dict[str, _Remembered] = {}
    try:
        with suppress(OSError):  # a cache shared with another user
            os.utime(store)  # in use: drop_unused must not take it
        for batch in pq.ParquetFile(store).iter_batches(batch_size=_CHUNK, columns=columns):
            for row in batch.to_pylist():
                path, size, mtime_ns = row.pop("path"), row.pop("size"), row.pop("mtime_ns")
                known[path] = ((size, mtime_ns), ImageSignature(problem=None, **row))
    except (OSError, pa.ArrowInvalid, KeyError) as e:
        _log.warning("ignoring the damaged image cache %s (%s); it will be rebuilt", store, e)
        return {}
    return known


def _write_store(store: Path, images: Mapping[str, _Remembered]) -> None:
    rows = (
        {"path": path, "size": size, "mtime_ns": mtime_ns, **{name: getattr(signature, name) for name in _STORED}}
        for path, ((size, mtime_ns), signature) in images.items()
    )
    try:
        drop_unused(store.parent)
        with replace_atomically(store) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as file:
            while batch := list(islice(rows, _STORED_ROWS)):
                file.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
    except OSError as e:
        _log.warning("cannot write the image cache %s (%s); images will be checked again next time", store, e)


def thumbnails(signatures: Sequence[ImageSignature]) -> npt.NDArray[np.uint8]:
    """Stack the thumbnails of N good images, ``[N, THUMBNAIL_BYTES]`` of uint8."""
    return np.frombuffer(b"".join(s.thumbnail for s in signatures), dtype=np.uint8).reshape(-1, THUMBNAIL_BYTES)
