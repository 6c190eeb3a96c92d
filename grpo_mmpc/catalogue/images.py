"""Read product images safely: common formats in, plain RGB out, no file outside the folder."""

import os
import re
import stat
import struct
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from ntpath import splitdrive
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from grpo_mmpc.catalogue.colours import to_srgb
from grpo_mmpc.errors import ImageError
from grpo_mmpc.utils.files import place_file

MAX_IMAGE_PIXELS = 50_000_000
"""Default pixel limit: above any camera's photo, below what exhausts memory (150 MB as RGB)."""
MIN_SIDE_PX = 4
"""Anything smaller is a tracking pixel or a placeholder."""
MAX_ASPECT = 100
"""Longer side over shorter one: Qwen's processor refuses 200, and CLIP's makes gigabytes of 1 x
20,000 pixels."""

# Formats of product photos. Others are refused: some of Pillow's readers start programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# Formats that shops deliver and Pillow does not read, or must not: what a person calls them.
_OTHER_FORMATS = {
    "HEIC (a photo of an iPhone)": re.compile(rb"....ftyp(?:hei|hev|mif1|msf1)", re.DOTALL),
    "JPEG 2000": re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    "JPEG XL": re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    "a PDF document": re.compile(rb"%PDF"),
    "PostScript (EPS)": re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"),
    "a Photoshop document": re.compile(rb"8BPS"),
    "a compressed archive": re.compile(rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!"),
    "an icon (ICO)": re.compile(rb"\x00\x00\x01\x00"),
    "a video": re.compile(rb"....ftyp(?:isom|mp4|M4V|qt  )|\x1aE\xdf\xa3", re.DOTALL),
}

# Errors of Pillow's readers on damaged files: each leaks whatever tripped over the bad bytes.
_DAMAGED = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, OverflowError)
_DAMAGED_TOO = (struct.error, zlib.error, ArithmeticError, RuntimeError, Image.DecompressionBombError)

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path | str, *, folder: Path | str, max_image_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Read an image as 8-bit RGB, upright, on white where it was transparent.

    Takes JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF in any mode (grey, palette, alpha, CMYK, 16 bits
    per channel, which is scaled and not clipped) and any colour space that its embedded profile
    names, as sRGB. Of an animation, the first frame.

    Args:
        path: Path relative to the folder, or an absolute path inside it.
        folder: The catalogue folder; nothing outside it is opened, not even through a symbolic
            link.
        max_image_pixels: Width times height above which the image is refused, judged from the
            header, before any pixel is decoded.

    Raises:
        ImageError: The image is missing, empty, damaged, not an image, too large, too small, too
            long for its width, or outside the folder.
    """
    file = find_image(path, folder=folder)
    try:
        with file.open("rb") as stream:
            return decode_image(stream, name=str(path), max_image_pixels=max_image_pixels)
    except PermissionError as e:
        raise ImageError(f"image {path}: no permission to read it ({e.strerror}); try: chmod u+r '{file}'") from e


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image file as its header states them.

    Raises:
        ImageError: It is no usable image.
    """
    with path.open("rb") as stream:
        try:
            width, height = _open_header(stream, name=str(path)).size
        except (*_DAMAGED, *_DAMAGED_TOO) as e:
            raise ImageError(f"image {path} is damaged ({_short(str(e)) or type(e).__name__})") from e
    return height, width


def relative_image_path(image: str) -> str:
    """Return an image cell as a relative path with forward slashes, judged by its text alone.

    Raises:
        ImageError: The path is absolute, a web address, or climbs out of the folder.
    """
    if "://" in image[:12] or image.startswith("data:"):
        raise ImageError(
            f"image {_short(image)} is a web address, not a file; download it into images/ and name that file"
        )
    posix = image.replace("\\", "/")
    if posix.startswith("/") or splitdrive(image)[0]:
        raise ImageError(
            f"image {image} is an absolute path; copy the file into images/ and give the path from the folder"
        )
    parts: list[str] = []
    for part in posix.split("/"):
        if part == "..":
            if not parts:
                raise ImageError(f"image {image} lies outside the catalogue folder; copy the file into images/")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise ImageError(f"image {image!r} names no file; give a path such as images/{{item_id}}.jpg")
    return "/".join(parts)


def find_image(path: Path | str, *, folder: Path | str) -> Path:
    """Return the regular file that an image cell means, absolute and without symbolic links.

    A name that differs only in how its accents are composed is accepted: macOS and Linux write the
    same visible name in two ways.

    Raises:
        ImageError: No such file, not a regular file, or outside the folder.
    """
    root = os.path.realpath(folder)
    wanted = str(path) if str(path).startswith("/") else f"{root}/{relative_image_path(str(path))}"
    try:
        file = _resolve(wanted)
    except (OSError, ValueError) as e:  # a name too long for the file system, a loop of links
        raise ImageError(f"image {_short(str(path))} cannot be opened: {e}; correct the path") from e
    if not file.startswith(root.rstrip("/") + "/") and file != root:
        how = "is a symbolic link to a file" if Path(wanted).is_symlink() else "lies"
        raise ImageError(f"image {path} {how} outside the catalogue folder; copy the file into images/")
    if Path(file).is_file():
        return Path(file)
    if Path(file).exists():
        raise ImageError(f"image {path} is not a file; give the path of an image file")
    raise ImageError(f"image {path} does not exist{_nearest_name(Path(wanted))}; add the file or correct the path")


def place_images(image: str, further: Sequence[str], *, folder: Path, into: Path) -> None:
    """Bring an item's images into another folder, under the same names.

    A further image that is not there is left out, as where the item is shown.

    Raises:
        ImageError: The first one is not there.
    """
    place_file(find_image(image, folder=folder), into / relative_image_path(image))
    for name in further:
        with suppress(ImageError):
            place_file(find_image(name, folder=folder), into / name)


def find_moved_image(path: Path, *, folder: Path) -> Path:
    """Return the file in a folder that a path means which was recorded where the folder lay before.

    It is the one with the longest end of the path, as ``images/kettle.jpg``. A path inside the
    folder is returned as it is, and so is one of which the folder has no end.
    """
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        return path
    ends = (folder.joinpath(*path.parts[start:]) for start in range(1, len(path.parts)))
    return next((end for end in ends if end.is_file()), path)


def _resolve(wanted: str) -> str:
    """Resolve a path, existing or not."""
    try:
        return os.path.realpath(wanted, strict=True)  # a loop of links must be an error
    except FileNotFoundError:
        return os.path.realpath(_same_visible_name(Path(wanted)) or wanted)


class ImageFolder:
    """A catalogue folder in which many images are looked up, each by one call of the system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = os.path.realpath(folder)
        self._inside: dict[str, str | None] = {}
        """Real folder by relative one; None outside the root."""

    def look_up(self, image: str) -> tuple[str, os.stat_result]:
        """Return the file of an image cell, and its status.

        Raises:
            ImageError, OSError: See :func:`find_image`.
        """
        parent, _, name = image.rpartition("/")
        if parent not in self._inside:
            place = os.path.realpath(f"{self._root}/{parent}")
            self._inside[parent] = place if f"{place}/".startswith(f"{self._root.rstrip('/')}/") else None
        real = self._inside[parent]
        if real is not None and "\\" not in image and name not in ("", ".", ".."):
            with suppress(OSError, ValueError):
                status = os.lstat(f"{real}/{name}")
                if stat.S_ISREG(status.st_mode):
                    return f"{real}/{name}", status
        file = find_image(image, folder=self._folder)
        return str(file), file.stat()


def decode_image(
    stream: BinaryIO, *, name: str, max_image_pixels: int = MAX_IMAGE_PIXELS, shrink_to_px: int | None = None
) -> Image.Image:
    """Decode an open image file as :func:`read_image` does.

    Args:
        stream: Seekable binary file.
        name: What messages call the image.
        max_image_pixels: Width times height above which the image is refused.
        shrink_to_px: Allow the decoder to shrink while decoding, to no less than this many pixels a
            side (JPEG only; several times faster, and it still reads the whole file).

    Raises:
        ImageError: The bytes are no usable image.
    """
    try:
        image = _open_header(stream, name=name)
        _check_size(*image.size, name=name, max_image_pixels=max_image_pixels)
        if shrink_to_px is not None:
            image.draft("", (shrink_to_px, shrink_to_px))
        image.load()
        return _to_rgb(to_srgb(_to_8_bit(_upright(image))))
    except (*_DAMAGED, *_DAMAGED_TOO) as e:
        raise ImageError(f"image {name} is damaged ({_short(str(e)) or type(e).__name__}); replace the file") from e


def _check_size(width: int, height: int, *, name: str, max_image_pixels: int) -> None:
    if width * height > max_image_pixels:
        raise ImageError(
            f"image {name} has {width} x {height} = {width * height:,} pixels, the limit is {max_image_pixels:,}; "
            "shrink it, 2000 x 2000 is plenty"
        )
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(
            f"image {name} has {width} x {height} pixels, a placeholder that shows nothing; replace it, or leave the "
            "image empty"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"image {name} has {width} x {height} pixels, more than {MAX_ASPECT} times as long as wide, which no model "
            "takes; crop or replace it"
        )


def _open_header(stream: BinaryIO, *, name: str) -> Image.Image:
    """Parse the header only.

    This asks the format readers directly because Image.open raises its own error above a
    process-wide pixel limit before telling the size; ours is per call, and safe to use from several
    threads.
    """
    Image.init()
    prefix = stream.read(1024)
    if not prefix:
        raise ImageError(f"image {name} is empty (0 bytes); download or copy the file again")
    for kind in _FORMATS:
        if kind not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[kind]
        accepted = accept(prefix[:16]) if accept else True
        if isinstance(accepted, str):
            raise ImageError(
                f"image {name} is {kind}, which this Pillow cannot read ({accepted}); save it as PNG or JPEG"
            )
        if accepted:
            stream.seek(0)
            return factory(stream, name)
    for kind, mark in _OTHER_FORMATS.items():
        if mark.match(prefix):
            raise ImageError(f"image {name} is {kind}, which is not read; save it as JPEG or PNG")
    text = prefix.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        kind = "a drawing in SVG" if b"<svg" in text else "a web page (a failed download, most likely)"
        raise ImageError(f"image {name} is {kind}, not a photo; download it again or save it as PNG or JPEG")
    raise ImageError(f"image {name} is not an image: it starts with {prefix[:8]!r}; save it as {', '.join(_FORMATS)}")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the rotation that a camera wrote into the EXIF block instead of turning the pixels."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except (*_DAMAGED, *_DAMAGED_TOO):
        return image  # unreadable metadata does not make the pixels wrong
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = image.convert("RGB")
    # Without the file's metadata, or a later reader would apply rotation or palette once more.
    rgb.info = {}
    return rgb


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale wide grey pixels to 0..255; Pillow's conversion clips, and 16-bit photos turn white.

    Images of other modes stay as they are.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16"):
        full = 65535.0
    elif image.mode == "F" and values.max() <= 1.0:
        full = 1.0
    else:  # 32-bit integers and floats do not say their range: take the smallest usual one that holds the values
        full = next((top for top in (255.0, 65535.0) if values.max() <= top), float(values.max()))
    grey = Image.fromarray(np.rint(np.clip(values / full, 0.0, 1.0) * 255.0).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    return grey


@lru_cache(maxsize=8)
def _names(folder: str, mtime_ns: int) -> dict[str, list[str]]:
    """List file names by their stem; the modification time is part of the cache key."""
    names = defaultdict(list)
    for name in sorted(entry.name for entry in Path(folder).iterdir()):
        names[_stem(name)].append(name)
    return names


def _stem(name: str) -> str:
    return Path(unicodedata.normalize("NFC", name).casefold()).stem


def _alike(wanted: Path) -> list[str]:
    """List the names in a file's folder that differ in case, extension or composed accents only."""
    return _names(str(wanted.parent), wanted.parent.stat().st_mtime_ns).get(_stem(wanted.name), [])


def _same_visible_name(wanted: Path) -> Path | None:
    if wanted.name.isascii() or not wanted.parent.is_dir():
        return None
    composed = unicodedata.normalize("NFC", wanted.name)
    return next(
        (wanted.parent / name for name in _alike(wanted) if unicodedata.normalize("NFC", name) == composed), None
    )


def _nearest_name(wanted: Path) -> str:
    """Name the file that differs only in case or extension, the two usual slips."""
    if not wanted.parent.is_dir():
        return f" (nor does the folder {wanted.parent.name})"
    return next((f" (but {name} does)" for name in _alike(wanted)), "")


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
