"""Bring the images of a source into a catalogue folder, or say where to fetch them."""

import io
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from grpo_mmpc.catalogue.images import decode_image, find_image
from grpo_mmpc.errors import ImageError
from grpo_mmpc.utils.files import place_file, replace_atomically
from grpo_mmpc.utils.hashing import hex_digest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""What a catalogue's images are called."""
PHOTOGRAPH_SUFFIXES = (*IMAGE_SUFFIXES, ".jpe", ".jfif")
"""What a source calls files that are read."""
_RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
PICTURE_SUFFIXES = (
    *(*PHOTOGRAPH_SUFFIXES, *_RAW_SUFFIXES, ".heic", ".heif", ".jp2", ".jxl"),
    *(".svg", ".pdf", ".eps", ".psd", ".ico"),
)
"""What a source calls pictures: those that are not read are said to be so, one by one."""
_ENOUGH_PX = 64
"""A side to which JPEG is decoded for finding out that it can be."""


class ImageFinder:
    """Places images given as addresses, as paths, or as bytes.

    Args:
        folder: The catalogue folder.
        images_in: Where an image is looked for by its file's name first.
    """

    def __init__(self, folder: Path, *, images_in: Path | None) -> None:
        self._folder, self._images_in = folder, images_in
        self._decoded: set[Path] = set()

    def place(self, image: object, *, owner: str, beside: Path) -> tuple[str, str | None]:
        """Return an image's path in the folder, and the address that it has to be fetched from.

        Args:
            image: An address, a path inside ``beside``, or the bytes of a file.
            owner: The item that it is of; of a variant its product, with which it shares images.
            beside: The folder that paths are relative to.

        Raises:
            ImageError: It does not exist, lies elsewhere, or is no image.
        """
        if isinstance(image, bytes):
            return self._write(image, owner=owner), None
        if not isinstance(image, str):
            raise ImageError(f"an image is {type(image).__name__}, expected an address, a path, or bytes")
        address = address_of(image)
        path = image.replace("\\", "/")
        file_name = unquote(Path(urlsplit(address).path).name) if address else Path(path).name
        if (found := self._find_here(file_name)) is not None:
            return self._copy(found, named=image, owner=owner), None
        if address:
            return image_name(owner, named=image, suffix=Path(file_name).suffix), address
        is_quoted = "%" in image and not (beside / path).exists()  # as in an address
        try:
            file = find_image(unquote(image) if is_quoted else image, folder=beside)
        except ImageError as error:
            what = str(error).rpartition(";")[0].replace("the catalogue folder", str(beside))
            raise ImageError(f"{what}; correct the path, or give the folder that it lies in as --images") from error
        return self._copy(file, named=image, owner=owner), None

    def _find_here(self, file_name: str) -> Path | None:
        """Return the file of a name in ``images_in``; None where there is none.

        Raises:
            ImageError: It is there, and no file of that folder.
        """
        if self._images_in is None:
            return None
        try:
            return find_image(file_name, folder=self._images_in)
        except ImageError:
            if file_name and (self._images_in / file_name).is_file():
                raise
            return None

    def _copy(self, file: Path, *, named: str, owner: str) -> str:
        if file.suffix.lower() in _RAW_SUFFIXES:  # of which the preview would be read
            raise ImageError(f"image {named} is a camera's raw file, which is not read; save it as JPEG or PNG")
        name = image_name(owner, named=named, suffix=file.suffix)
        if file not in self._decoded:
            with file.open("rb") as stream:
                decode_image(stream, name=named, shrink_to_px=_ENOUGH_PX)
            self._decoded.add(file)
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        place_file(file, self._folder / name)
        return name

    def _write(self, content: bytes, *, owner: str) -> str:
        decode_image(io.BytesIO(content), name=f"of {owner}", shrink_to_px=_ENOUGH_PX)
        suffix = ".png" if content.startswith(b"\x89PNG") else ".jpg"
        name = image_name(owner, named=hex_digest(content), suffix=suffix)
        if not (self._folder / name).is_file():
            with replace_atomically(self._folder / name) as temporary:
                temporary.write_bytes(content)
        return name


def address_of(image: object) -> str | None:
    """Return an image's address; None where it is a path, or bytes."""
    if not isinstance(image, str):
        return None
    if image.startswith("//"):  # as on a page, whose protocol it has
        return f"https:{image}"
    return image if "://" in image[:12] else None


def image_name(owner: str, *, named: str, suffix: str) -> str:
    """Return the path of an image; no identifier leads out of ``images/``, no two images share one.

    Args:
        owner: Whose image it is.
        named: What tells it from the owner's others, and from what it was before: its address.
        suffix: Of its file.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", owner)[:60]
    kind = suffix.lower() if suffix.lower() in IMAGE_SUFFIXES else ".jpg"
    return f"images/{safe}-{hex_digest(owner, chr(0), named, size=5)}{kind}"
