"""Describe image files: readable or not, content hash, thumbnail; remember the results."""

import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from grpo_mmpc.utils.cache import cache_folder, drop_unused, mark_used
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
_DESCRIBED = {
    "problem": pa.string(),
    "digest": pa.binary(16),
    "aspect": pa.float64(),
    "thumbnail": pa.binary(THUMBNAIL_BYTES),
}
_SCHEMA = pa.schema({"path": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), **_DESCRIBED}).remove(3)


class ImageSignature(NamedTuple):
    """One image that was opened, or the reason why it could not be."""

    problem: str | None
    """The file's fault and its remedy; None for a good image."""
    digest: bytes | None = None
    """16-byte hash of the file's content."""
    aspect: float | None = None
    """Width over height, after rotation."""
    thumbnail: bytes | None = None
    """:data:`THUMBNAIL_BYTES` cell values in 0..255, see :func:`thumbnail`."""


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
) -> pa.Table:
    """Open every image once and describe it, see :func:`signature_table`.

    Files are decoded in parallel. Results are remembered, outside the catalogue, by path, size and
    modification time, so that the next call only looks at files that changed. Problems are never
    remembered. Thumbnails, nine tenths of the memory, may be left out where all is remembered.
    """
    column = images if isinstance(images, pa.ChunkedArray) else pa.chunked_array([pa.array(images, pa.string())])
    coded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    paths, files = coded.dictionary, ImageFolder(folder)
    sizes, times = _sizes_and_times(paths, files)
    store = _Store(cache_folder("images") / f"{_folder_key(folder, max_image_pixels)}.parquet")
    described, row = store.find(paths, sizes=sizes, times=times, with_thumbnails=with_thumbnails)
    unknown = np.flatnonzero(row < 0)
    if len(unknown):
        work = paths.take(pa.array(unknown))
        new = pa.concat_tables(_describe_all(work, files, max_image_pixels=max_image_pixels))
        store.write(work, sizes=sizes[unknown], times=times[unknown], described=new)
        row[unknown] = len(described) + np.arange(len(unknown))
        described = pa.concat_tables([described, new.select(described.column_names)])
    return described.take(pa.array(row).take(coded.indices))


def signature_table(signatures: Sequence[ImageSignature | None]) -> pa.Table:
    """Return one column for each field of N signatures, null where there is no image."""
    return pa.Table.from_pylist(
        [(one or ImageSignature(None))._asdict() for one in signatures], schema=pa.schema(_DESCRIBED)
    )


def _texts(column: pa.Array) -> Iterator[list[str]]:
    """Yield the texts of a column, a few hundred in memory at once."""
    for start in range(0, len(column), _CHUNK):
        yield column.slice(start, _CHUNK).to_pylist()


def _sizes_and_times(paths: pa.Array, files: ImageFolder) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return size and time of each file, -1 where it cannot be reached."""
    seen = array("q")
    for some in _texts(paths):
        for path in some:
            try:
                status = files.look_up(path)[1]
            except (ImageError, OSError):
                seen.extend((-1, -1))
            else:
                seen.extend((status.st_size, status.st_mtime_ns))
    sizes, times = np.array(seen, np.int64).reshape(-1, 2).T
    return sizes, times


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


def _describe_all(paths: pa.Array, files: ImageFolder, *, max_image_pixels: int) -> Iterator[pa.Table]:
    def describe(path: str) -> ImageSignature:
        try:
            file, _ = files.look_up(path)
        except (ImageError, OSError) as e:
            return ImageSignature(problem=str(e))
        return describe_image(Path(file), name=path, max_image_pixels=max_image_pixels)

    done = 0
    with ThreadPoolExecutor(max_workers=min(_MAX_THREADS, os.cpu_count() or 1)) as pool, Progress() as progress:
        # In chunks: one future per image of a large catalogue would itself fill the memory.
        for some in _texts(paths):
            yield signature_table(list(pool.map(describe, some)))
            done += len(some)
            progress("checking images", done, len(paths))


def _folder_key(folder: Path, max_image_pixels: int) -> str:
    return hex_digest(f"{_VERSION}\0{folder.resolve()}\0{max_image_pixels}")


class _Store:
    """Descriptions on disk, by path and by what the file was then."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stored: pq.ParquetFile | None = None
        self._in_use = np.empty(0, dtype=bool)
        """By stored row, whether its file is still as it was."""

    def find(
        self,
        paths: pa.Array,
        *,
        sizes: npt.NDArray[np.int64],
        times: npt.NDArray[np.int64],
        with_thumbnails: bool,
    ) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """Return what is stored, and each path's row of it, -1 where its file is none of these."""
        stored = self._read(with_thumbnails=with_thumbnails)
        row = (
            pc.fill_null(pc.index_in(paths, value_set=stored["path"].cast(paths.type)), -1).to_numpy().astype(np.int64)
        )
        if len(stored):
            same = (stored["size"].to_numpy()[row] == sizes) & (stored["mtime_ns"].to_numpy()[row] == times)
            row[~same] = -1
        self._in_use = np.zeros(len(stored), dtype=bool)
        self._in_use[row[row >= 0]] = True
        described = stored.drop_columns(["path", "size", "mtime_ns"])
        return described.add_column(0, "problem", pa.nulls(len(stored), pa.string())), row

    def write(
        self, paths: pa.Array, *, sizes: npt.NDArray[np.int64], times: npt.NDArray[np.int64], described: pa.Table
    ) -> None:
        """Write the descriptions that are in use, and those of further files without a problem."""
        cells = {name: described[name] for name in _DESCRIBED}
        files = pa.table({"path": paths, "size": sizes, "mtime_ns": times, **cells})
        new = files.filter(files["problem"].is_null()).drop_columns("problem").cast(_SCHEMA)
        try:
            drop_unused(self._file.parent)
            with (
                replace_atomically(self._file) as temporary,
                pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as file,
            ):
                start = 0
                for batch in self._stored.iter_batches(_STORED_ROWS) if self._stored else ():
                    kept = batch.filter(pa.array(self._in_use[start : start + len(batch)]))
                    file.write_batch(kept.cast(_SCHEMA))
                    start += len(batch)
                file.write_table(new, row_group_size=_STORED_ROWS)
        except OSError as e:
            _log.warning("cannot write the image cache %s (%s); images will be checked again next time", self._file, e)

    def _read(self, *, with_thumbnails: bool) -> pa.Table:
        schema = _SCHEMA if with_thumbnails else _SCHEMA.remove(_SCHEMA.get_field_index("thumbnail"))
        if self._file.exists():
            try:
                mark_used(self._file)
                self._stored = pq.ParquetFile(self._file)
                return self._stored.read(schema.names).cast(schema)
            except (OSError, pa.ArrowInvalid, KeyError) as e:
                self._stored = None
                _log.warning("ignoring the damaged image cache %s (%s); it will be rebuilt", self._file, e)
        return schema.empty_table()


def thumbnails(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Stack N thumbnails that are all there, ``[N, THUMBNAIL_BYTES]`` of uint8."""
    cells = column.combine_chunks()
    start = cells.offset * THUMBNAIL_BYTES
    flat = np.frombuffer(cells.buffers()[1], np.uint8)[start : start + len(cells) * THUMBNAIL_BYTES]
    return flat.reshape(-1, THUMBNAIL_BYTES)
