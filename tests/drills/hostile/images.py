"""Images of a catalogue: what stands under a name that ends in .jpg."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms

from tests.drills.hostile.case import GOES_ON, SET_ASIDE, Case, Group, both, json_lines, write
from tests.drills.hostile.catalogue_rows import GOOD, validated


def shop(content: bytes | None = None, *, name: str = "images/x.jpg") -> Callable[[Path], object]:
    """A catalogue of a good row and one whose image holds these bytes."""
    items = write("shop/items.jsonl", json_lines(GOOD, GOOD | {"item_id": "odd", "title": None, "image": name}))
    return items if content is None else both(items, write(f"shop/{name}", content))


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def colours(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few hundred bytes whose header promises this many pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """A catalogue in which something else than a file stands under the image's name."""

    def put(folder: Path) -> None:
        (folder / "shop/images").mkdir(parents=True)
        make(folder / "shop/images/x.jpg")

    return both(put, shop())


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(colours(), exif=exif)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FRAMES = [colours(size=(20, 20)), colours("RGB", (20, 20)).rotate(90)]

IMAGES = Group(
    title="Images of a catalogue",
    command="data validate shop --json report.json",
    outcome=SET_ASIDE,
    count=validated,
    rows=2,
    cases=[
        Case("no file", shop(), "row 2 (odd): image images/x.jpg does not exist"),
        Case("0 bytes", shop(b""), "images/x.jpg is empty (0 bytes)"),
        Case("half a JPEG", shop(saved(colours(size=(600, 600)))[:900]), "images/x.jpg is damaged"),
        Case("half a PNG", shop(saved(colours(size=(600, 600)), "PNG")[:300]), "images/x.jpg is damaged"),
        Case("a JPEG with bytes overwritten", shop(saved(colours())[:30] + b"\0" * 400), "images/x.jpg is damaged"),
        Case("HEIC", shop(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)), "images/x.jpg is HEIC"),
        Case("a PDF", shop(b"%PDF-1.7\n" + bytes(99)), "images/x.jpg is a PDF document ... save it as JPEG or PNG"),
        Case(
            "PostScript, for which Pillow starts gs",
            shop(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
            "images/x.jpg is",
        ),
        Case("SVG", shop(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "is a drawing in SVG"),
        Case("a web page", shop(b"<!DOCTYPE html><title>404</title>"), "is a web page (a failed download"),
        Case("a ZIP archive", shop(b"PK\x03\x04" + bytes(99)), "images/x.jpg is"),
        Case("text", shop(b"not found\n"), "images/x.jpg is not an image"),
        Case("one pixel", shop(saved(colours(size=(1, 1)), "PNG")), "1 x 1 pixels, a placeholder"),
        Case("2000 x 8 pixels", shop(saved(colours(size=(2000, 8)))), "times as long as wide"),
        Case("8 x 20,000 pixels", shop(saved(colours(size=(8, 20_000)))), "times as long as wide"),
        Case("a PNG of 60,000 x 60,000 pixels in 150 bytes", shop(bomb()), "3,600,000,000 pixels, the limit is"),
        Case("a folder", instead(lambda path: path.mkdir()), "images/x.jpg is not a file"),
        Case("a FIFO, which blocks who opens it", instead(os.mkfifo), "images/x.jpg is not a file"),
        Case("a link to /dev/zero", instead(lambda path: path.symlink_to("/dev/zero")), "outside the catalogue folder"),
        Case(
            "a link to /etc/passwd",
            instead(lambda path: path.symlink_to("/etc/passwd")),
            "outside the catalogue folder",
        ),
        Case("a link to itself", instead(lambda path: path.symlink_to("x.jpg")), "images/x.jpg cannot be opened"),
        Case("../../secret.jpg", shop(name="../../secret.jpg"), "lies outside the catalogue folder"),
        Case("/etc/passwd", shop(name="/etc/passwd"), "is an absolute path"),
        Case("C:\\\\photos\\\\x.jpg", shop(name="C:\\photos\\x.jpg"), "is an absolute path"),
        Case("a web address", shop(name="https://example.com/x.jpg"), "is a web address, not a file"),
        Case("a name of 5,000 characters", shop(name="x" * 5000), "cannot be opened"),
        Case("a name with NUL", shop(name="images/\0x.jpg"), "row 2 (odd)"),
        Case(
            "the name in capitals",
            both(shop(name="images/X.JPG"), write("shop/images/x.jpg", saved(colours()))),
            "but x.jpg does",
        ),
        Case("CMYK", shop(saved(colours("CMYK"))), "2 usable", GOES_ON),
        Case("CMYK with a profile of RGB", shop(saved(colours("CMYK"), icc_profile=SRGB)), "2 usable", GOES_ON),
        Case(
            "a colour profile that is rubbish", shop(saved(colours(), icc_profile=b"\xff" * 400)), "2 usable", GOES_ON
        ),
        Case("16 bits a channel", shop(saved(colours("I;16"), "PNG")), "2 usable", GOES_ON),
        Case("32-bit floats with NaN", shop(saved(Image.new("F", (9, 9), float("nan")), "TIFF")), "2 usable", GOES_ON),
        Case("a palette with transparency", shop(saved(colours("P"), "PNG", transparency=3)), "2 usable", GOES_ON),
        Case("black and white in one bit", shop(saved(colours("1"), "PNG")), "2 usable", GOES_ON),
        Case(
            "an animated GIF", shop(saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES)), "2 usable", GOES_ON
        ),
        Case("a camera's rotation", shop(turned(6)), "2 usable", GOES_ON),
        Case("a rotation that does not exist", shop(turned(77)), "2 usable", GOES_ON),
        Case("WebP named .jpg", shop(saved(colours(), "WEBP")), "2 usable", GOES_ON),
        Case(
            "a name with spaces, an emoji and accents",
            shop(saved(colours()), name="images/caf\u00e9 \U0001f680 .jpg"),
            "2 usable",
            GOES_ON,
        ),
    ],
)

GROUPS = [IMAGES]
