"""Describe image files: readable or not, content hash, thumbnail; remember the results."""

import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from grpo_mmpc.catalogue.images import MAX_IMAGE_PIXELS, ImageFolder, decode_image
from grpo_mmpc.errors import ImageError
from grpo_mmpc.utils.cache import cache_folder, drop_unused, mark_used
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.files import remove_left, replace_atomically
from grpo_mmpc.utils.hashing import file_digest, hex_digest

_log = logging.getLogger(__name__)

LUMA_CELLS = 16
CHROMA_CELLS = 8
THUMBNAIL_BYTES = LUMA_CELLS**2 + 2 * CHROMA_CELLS**2
"""16 x 16 brightness cells, then 8 x 8 of each colour difference (coarser, as in JPEG)."""

_SMOOTH = Image.Resampling.HAMMING  # BOX would jump by a whole pixel row when the source is resized
_VERSION = 4
_MAX_THREADS = 8
_CHUNK = 256
_STORED_ROWS = 8192
_DESCRIBED = {
    "problem": pa.string(),
    "digest": pa.binary(16),
    "aspect": pa.float64(),
    "thumbnail": pa.binary(THUMBNAIL_BYTES),
}
_SCHEMA = pa.schema({"path": pa.large_string(), "size": pa.int64(), "mtime_ns": pa.int64(), **_DESCRIBED}).remove(3)


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


class Signatures(NamedTuple):
    """The images of N items, each file described once."""

    files: pa.Table
    """Of good files ``digest``, ``aspect`` and ``thumbnail``; memory-mapped from the cache."""
    row: npt.NDArray[np.int64]
    """Each item's row of ``files``, -1 without a good image, ``[N]``."""
    problems: Mapping[int, str]
    """By position, of the items whose image is broken."""


def image_signatures(
    images: pa.ChunkedArray | Sequence[str | None], *, folder: Path, max_image_pixels: int = MAX_IMAGE_PIXELS
) -> Signatures:
    """Open every image once and describe it.

    Files are decoded in parallel. Results are remembered, outside the catalogue, by path, size and
    modification time, so that the next call only looks at files that changed. Problems are never
    remembered.
    """
    column = images if isinstance(images, pa.ChunkedArray) else pa.chunked_array([pa.array(images, pa.string())])
    coded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    files = ImageFolder(folder)
    sizes, times = _sizes_and_times(coded.dictionary, files)
    seen = pa.table({"path": coded.dictionary, "size": sizes, "mtime_ns": times})
    file = cache_folder("images") / f"{_folder_key(folder, max_image_pixels)}.arrow"
    stored = _read_store(file)
    row = _find(seen, stored)
    problems: dict[str, str] = {}
    if (row < 0).any():
        unknown = seen.filter(pa.array(row < 0))

        def described() -> Iterator[pa.Table]:
            for some in _describe_all(unknown, files, max_image_pixels=max_image_pixels):
                bad = some.filter(some["problem"].is_valid())
                problems.update(zip(bad["path"].to_pylist(), bad["problem"].to_pylist(), strict=True))
                yield some.filter(some["problem"].is_null()).select(_SCHEMA.names)

        stored = _extend_store(file, stored, rows=row, by=described)
        row = _find(seen, stored)
    is_broken = pc.is_in(column, value_set=pa.array(problems, column.type)).to_numpy() if problems else []
    return Signatures(
        files=stored.select([*_DESCRIBED][1:]),
        row=np.append(row, -1)[coded.indices.fill_null(-1).to_numpy()],
        problems={int(i): problems[column[int(i)].as_py()] for i in np.flatnonzero(is_broken)},
    )


def signature_table(signatures: Sequence[ImageSignature | None]) -> pa.Table:
    """Return one column for each field of N signatures, null where there is no image."""
    return pa.Table.from_pylist(
        [(one or ImageSignature(None))._asdict() for one in signatures], schema=pa.schema(_DESCRIBED)
    )


def _sizes_and_times(paths: pa.Array, files: ImageFolder) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return size and time of each file, -1 where it cannot be reached."""
    seen = array("q")
    for path in chain.from_iterable(paths.slice(start, _CHUNK).to_pylist() for start in range(0, len(paths), _CHUNK)):
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


def _describe_all(seen: pa.Table, files: ImageFolder, *, max_image_pixels: int) -> Iterator[pa.Table]:
    def describe(path: str) -> ImageSignature:
        try:
            file, _ = files.look_up(path)
        except (ImageError, OSError) as e:
            return ImageSignature(problem=str(e))
        return describe_image(Path(file), name=path, max_image_pixels=max_image_pixels)

    with ThreadPoolExecutor(max_workers=min(_MAX_THREADS, os.cpu_count() or 1)) as pool, Progress() as progress:
        # In chunks: one future per image of a large catalogue would itself fill the memory.
        for start in range(0, len(seen), _CHUNK):
            some = seen.slice(start, _CHUNK)
            described = signature_table(list(pool.map(describe, some["path"].to_pylist())))
            yield pa.table([*some.columns, *described.columns], [*some.column_names, *described.column_names])
            progress("checking images", start + len(some), len(seen))


def _folder_key(folder: Path, max_image_pixels: int) -> str:
    return hex_digest(f"{_VERSION}\0{folder.resolve()}\0{max_image_pixels}")


def _find(seen: pa.Table, stored: pa.Table) -> npt.NDArray[np.int64]:
    """Return the stored row of each path, -1 where its file is not as it was then."""
    places = pc.index_in(seen["path"], value_set=stored["path"])
    row: npt.NDArray[np.int64] = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    for name in ("size", "mtime_ns") if len(stored) else ():
        row[stored[name].to_numpy()[row] != seen[name].to_numpy()] = -1
    return row


def _read_store(file: Path) -> pa.Table:
    """Return the descriptions on disk, by path and by what the file was then."""
    if file.exists():
        try:
            mark_used(file)
            return pa.ipc.open_file(pa.memory_map(str(file))).read_all().cast(_SCHEMA)
        except (OSError, ValueError) as e:
            _log.warning("ignoring the damaged image cache %s (%s); it will be rebuilt", file, e)
    return _SCHEMA.empty_table()


def _extend_store(
    file: Path, stored: pa.Table, *, rows: npt.NDArray[np.int64], by: Callable[[], Iterator[pa.Table]]
) -> pa.Table:
    """Write some of the stored rows, and further ones as they come; return all of them."""
    in_use = np.zeros(len(stored), dtype=bool)
    in_use[rows[rows >= 0]] = True
    kept = (
        stored.slice(start, _STORED_ROWS).filter(pa.array(in_use[start : start + _STORED_ROWS]))
        for start in range(0, len(stored), _STORED_ROWS)
    )
    try:
        drop_unused(file.parent)
        remove_left(file)
        with replace_atomically(file) as temporary:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
                for table in _regrouped(chain(kept, by())):
                    writer.write_table(table)
            return _read_store(temporary)
    except OSError as e:
        _log.warning("cannot write the image cache %s (%s); images will be checked again next time", file, e)
    return pa.concat_tables([stored, *by()])


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= _STORED_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


class Thumbnails:
    """Rows of a column of thumbnails, wherever it lies, as arrays of numbers."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        """Take a column of D thumbnails that are all there."""
        self._chunks = [
            np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, THUMBNAIL_BYTES)[chunk.offset :][: len(chunk)]
            for chunk in column.chunks
        ]
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copy R rows, ``[R, THUMBNAIL_BYTES]``."""
        cells = np.empty((len(rows), THUMBNAIL_BYTES), np.uint8)
        where = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(where):
            chunk = self._chunks[number]
            cells[where == number] = chunk[rows[where == number] - (self._ends[number] - len(chunk))]
        return cells
