"""read_image: an embedded profile says which colours a file's numbers mean."""

import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image, ImageCms

from grpo_mmpc.catalogue import read_image
from tests.catalogue.image_files import RED, WHITE, pixels, save


def fixed(*values: float) -> bytes:
    """Write numbers as ICC.1 does, 16 bits before the point and 16 behind it."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


D50 = (0.9642, 1.0, 0.8249)


def icc(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Build a profile of version 2 as ICC.1 says from its own tags; white is that of D50."""
    tags = tags | {
        b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50),
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + b"\0" * 79,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s12s4s", offset + len(body), b"\0" * 4, 0x02100000, kind, space, connection, b"", b"acsp"
    )
    header = (header + b"\0" * 28 + fixed(*D50)).ljust(128, b"\0")
    return header + struct.pack(">I", len(tags)) + table + body


def curve(values: Sequence[float]) -> bytes:
    """Return a tone curve: from 0 to 1 in equal steps."""
    numbers = [round(value * 65535) for value in values]
    return b"curv\0\0\0\0" + struct.pack(f">I{len(numbers)}H", len(numbers), *numbers)


SRGB_CURVE = curve([v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.linspace(0, 1, 1024)])


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def profile(gamma: float | bytes, primaries: tuple[tuple[float, float], ...]) -> bytes:
    """Build a matrix profile without chromatic adaptation, from a gamma or a whole curve."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    matrix = columns * np.linalg.solve(columns, D50)
    tags = {}
    for name, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*column)
        tags[name + b"TRC"] = gamma if isinstance(gamma, bytes) else gamma_curve(gamma)
    return icc(b"RGB ", b"mntr", b"XYZ ", tags)


def press_profile(lightness: Callable[[tuple[int, ...]], float]) -> bytes:
    """Build a profile of inks whose prints are grey, as light (0 to 100) as their 16 solids say."""
    inks = [tuple(number >> 3 - ink & 1 for ink in range(4)) for number in range(16)]
    grid = [value for ink in inks for value in (round(lightness(ink) * 652.8), 32768, 32768)]  # L a b, 65280 = 100
    line = [0, 65535]
    lut = struct.pack(">BBBB9iHH", 4, 3, 2, 0, *(65536 if i % 4 == 0 else 0 for i in range(9)), 2, 2)
    lut += struct.pack(f">{8 + 48 + 6}H", *line * 4, *grid, *line * 3)
    return icc(b"CMYK", b"prtr", b"Lab ", {b"A2B0": b"mft2\0\0\0\0" + lut})


SRGB_D50 = ((0.6485, 0.3309), (0.3212, 0.5979), (0.1559, 0.0660))
"""Primaries of sRGB as seen under D50."""
WIDE = ((0.7347, 0.2653), (0.1152, 0.8264), (0.1566, 0.0177))
"""Those of Wide Gamut RGB, under D50."""


def test_colours_of_an_embedded_profile_become_srgb(tmp_path):
    # The same primaries with a linear scale: 55 of 255 is .216 of the light, and sRGB writes
    # 1.055 x .216^(1/2.4) - .055 = .502, 128 of 255.
    linear = save(tmp_path, Image.new("RGB", (8, 8), (55, 55, 55)), "linear.png", icc_profile=profile(1.0, SRGB_D50))
    assert np.abs(pixels(read_image(linear, folder=tmp_path)).astype(int) - 128).max() <= 2
    # A green within a wider space is a stronger one in sRGB; grey stays grey.
    wide = profile(2.2, WIDE)
    name = save(tmp_path, Image.new("RGB", (8, 8), (120, 160, 120)), "wide.png", icc_profile=wide)
    red, green, _ = pixels(read_image(name, folder=tmp_path))[0, 0].astype(int)
    assert green > 160 and red < 110
    grey = save(tmp_path, Image.new("RGB", (8, 8), (128, 128, 128)), "grey.png", icc_profile=wide)
    assert np.ptp(pixels(read_image(grey, folder=tmp_path))) <= 2


ADOBE = ((0.64844, 0.33086), (0.23018, 0.70157), (0.15590, 0.06606))
P3 = ((0.68204, 0.31936), (0.28455, 0.67463), (0.15589, 0.06606))
"""Primaries of Adobe RGB and Display P3 as their profiles write them, under D50."""


@pytest.mark.parametrize(
    ("tones", "primaries", "expected"),
    [
        # Light of (128, 160, 128): .2195 .3588 .2195. Adobe's green alone differs from sRGB's, so
        # r = 1.3984 r - .3984 g = .1640, g = .3588, b = 1.0429 b - .0429 g = .2135: 113, 162, 127.
        (563 / 256, ADOBE, (113, 162, 127)),
        # Light .2159 .3515 .2159; r = 1.2249 r - .2247 g = .1855, g = 1.0419 g - .0420 r = .3572,
        # b = 1.0979 b - .0197 r - .0786 g = .2052: 119, 161, 125.
        (SRGB_CURVE, P3, (119, 161, 125)),
    ],
    ids=["Adobe RGB", "Display P3"],
)
@pytest.mark.parametrize("kind", ["png", "tiff", "jpg"])
def test_wide_gamut_photos_show_the_colours_that_their_profile_means(tmp_path, tones, primaries, expected, kind):
    image = Image.new("RGB", (8, 8), (128, 160, 128))
    name = save(tmp_path, image, f"a.{kind}", icc_profile=profile(tones, primaries))
    assert np.abs(pixels(read_image(name, folder=tmp_path)).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["jpg", "tiff"])
def test_press_inks_are_read_as_their_profile_prints_them(tmp_path, kind):
    # Cyan alone prints as grey of lightness 50, which is 119 of 255 in sRGB; without the profile it
    # would be bright cyan. Bare paper is white, and all inks together are black.
    inks = press_profile(lambda ink: {(0, 0, 0, 0): 100.0, (1, 0, 0, 0): 50.0}.get(ink, 0.0))
    for colour, expected in (((255, 0, 0, 0), 119), ((0, 0, 0, 0), 255), ((255, 255, 255, 255), 0)):
        name = save(tmp_path, Image.new("CMYK", (8, 8), colour), f"a.{kind}", icc_profile=inks)
        assert np.abs(pixels(read_image(name, folder=tmp_path)).astype(int) - expected).max() <= 3


def test_wide_grey_follows_its_profile_too(tmp_path):
    # Half of the light in 16 bits, on a linear scale: 188 in sRGB, not 128.
    grey = icc(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": gamma_curve(1.0)})
    name = save(tmp_path, Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)), "a.png", icc_profile=grey)
    assert np.abs(pixels(read_image(name, folder=tmp_path)).astype(int) - 188).max() <= 2


def test_a_palette_with_a_transparent_colour_keeps_both(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 128, 160, 128])
    image.putpixel((0, 0), 0)
    name = save(tmp_path, image, "a.png", transparency=0, icc_profile=profile(563 / 256, ADOBE))
    found = pixels(read_image(name, folder=tmp_path)).astype(int)
    assert found[0, 0].tolist() == list(WHITE)
    assert np.abs(found[1, 1] - (113, 162, 127)).max() <= 2


@pytest.mark.parametrize("kind", ["png", "tiff", "jpg"])
def test_a_photo_with_a_profile_is_turned_upright_all_the_same(tmp_path, kind):
    exif = Image.Exif()
    exif[274] = 6
    name = save(tmp_path, Image.new("RGB", (16, 8), RED), f"a.{kind}", exif=exif, icc_profile=profile(563 / 256, ADOBE))
    assert read_image(name, folder=tmp_path).size == (8, 16)


def test_transparency_survives_the_change_of_colours(tmp_path):
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    name = save(tmp_path, image, "a.png", icc_profile=profile(2.2, WIDE))
    assert pixels(read_image(name, folder=tmp_path))[0, 0].tolist() == list(WHITE)


@pytest.mark.parametrize("damage", [b"no profile at all", profile(2.2, WIDE)[:200]], ids=["text", "cut short"])
def test_an_unusable_profile_changes_nothing(tmp_path, damage):
    name = save(tmp_path, Image.new("RGB", (8, 8), RED), "a.png", icc_profile=damage)
    assert pixels(read_image(name, folder=tmp_path))[0, 0].tolist() == list(RED)


def test_a_profile_of_srgb_itself_leaves_every_pixel_as_it_is(tmp_path):

    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    name = save(tmp_path, Image.new("RGB", (8, 8), (12, 200, 77)), "a.png", icc_profile=own)
    assert pixels(read_image(name, folder=tmp_path))[0, 0].tolist() == [12, 200, 77]
