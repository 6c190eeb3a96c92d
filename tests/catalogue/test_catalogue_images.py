"""read_image: every usual kind of image comes out as upright 8-bit RGB, nothing else does."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from grpo_mmpc.catalogue import read_image
from grpo_mmpc.catalogue.images import decode_image
from grpo_mmpc.errors import ImageError
from tests.catalogue.image_files import RED, WHITE, pixels, save


@pytest.fixture(autouse=True)
def _pixels_that_can_be_checked_by_eye(request, monkeypatch):
    if "_longest" not in request.node.name:
        monkeypatch.setattr("grpo_mmpc.catalogue.images.MIN_SIDE_PX", 1)


def photo(size: tuple[int, int] = (32, 24)) -> Image.Image:
    """A smooth image that lossy formats keep nearly unchanged."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, rows: bytes | None = None) -> bytes:
    """A PNG written by hand: Pillow cannot write every kind that it must read."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows or b"")) + chunk(b"IEND", b"")


# --- what comes out


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", RED, RED),
        ("L", 128, (128, 128, 128)),
        ("1", 1, WHITE),
        ("P", 7, None),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), WHITE),
        # Half red over white: 255, and (0 * 128 + 255 * 127) / 255 = 127 for the others.
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 255), (0, 0, 0)),
        ("LA", (0, 0), WHITE),
    ],
)
def test_every_png_mode_becomes_rgb_on_white(tmp_path, mode, colour, expected):
    image = Image.new(mode, (4, 3), colour)
    if mode == "P":
        image.putpalette([0] * 21 + [1, 2, 3] + [0] * 744)
        expected = (1, 2, 3)
    result = read_image(save(tmp_path, image, "a.png"), folder=tmp_path)
    assert result.size == (4, 3)
    assert {tuple(p) for p in pixels(result).reshape(-1, 3).tolist()} == {expected}


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"], ids=["one index", "alpha per index"])
def test_a_transparent_palette_entry_becomes_white(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.putpixel((1, 0), 1)
    name = save(tmp_path, image, "a.png", transparency=transparency)
    assert pixels(read_image(name, folder=tmp_path)).tolist() == [[list(WHITE), [200, 100, 50]]]


def test_a_transparent_colour_of_an_rgb_png_becomes_white(tmp_path):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), (0, 0, 9))
    name = save(tmp_path, image, "a.png", transparency=RED)
    assert pixels(read_image(name, folder=tmp_path)).tolist() == [[list(WHITE), [0, 0, 9]]]


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    # 0, a quarter, half and the whole of 65535: 0, 64, 128, 255 of 255. Pillow's own convert gives
    # 255 for all but the first.
    values = np.array([[0, 16448, 32896, 65535]], dtype=np.uint16)
    name = save(tmp_path, Image.fromarray(values), "a.png")
    assert pixels(read_image(name, folder=tmp_path))[0, :, 0].tolist() == [0, 64, 128, 255]


def test_sixteen_bit_colour_keeps_its_range(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1, 1, depth=16, colour=2, rows=b"\0" + struct.pack(">HHH", 65535, 32896, 0)))
    assert pixels(read_image("a.png", folder=tmp_path)).tolist() == [[[255, 128, 0]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0, 32896, 65535]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, np.nan, 255.0]], dtype=np.float32), [0, 0, 255]),
    ],
    ids=["8 bits in 32", "16 bits in 32", "unit floats", "not a number"],
)
def test_wide_grey_tiffs_use_the_smallest_usual_range(tmp_path, values, expected):
    name = save(tmp_path, Image.fromarray(values), "a.tiff")
    assert pixels(read_image(name, folder=tmp_path))[0, :, 0].tolist() == expected


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    name = save(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=95)
    assert np.abs(pixels(read_image(name, folder=tmp_path)).astype(int) - RED).max() <= 3


def lab(image: Image.Image) -> Image.Image:
    return ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )


RUST = Image.new("RGB", (16, 16), (200, 60, 30))
OTHER = [Image.new("RGB", (16, 16), (0, 0, 255))]


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        (lab(RUST), "TIFF", {}, (200, 60, 30)),
        (RUST.convert("YCbCr"), "TIFF", {}, (200, 60, 30)),
        (RUST, "TIFF", {"compression": "jpeg"}, (200, 60, 30)),
        (RUST.convert("RGBX"), "TIFF", {}, (200, 60, 30)),
        (RUST.convert("CMYK"), "TIFF", {}, (200, 60, 30)),
        (Image.new("LA", (16, 16), (0, 0)), "TIFF", {}, WHITE),
        (Image.frombytes("I;16B", (16, 16), b"\x80\x80" * 256), "TIFF", {}, (128, 128, 128)),  # 32896 of 65535
        (Image.fromarray(np.full((16, 16), -5, np.int32)), "TIFF", {}, (0, 0, 0)),
        (Image.fromarray(np.full((16, 16), 1e30, np.float32)), "TIFF", {}, WHITE),
        (Image.new("1", (16, 16), 1), "TIFF", {}, WHITE),
        (Image.new("1", (16, 16), 1), "TIFF", {"tiffinfo": {262: 0}}, (0, 0, 0)),  # white is zero
        (RUST, "TIFF", {"save_all": True, "append_images": OTHER}, (200, 60, 30)),  # the first page
        (RUST, "MPO", {"save_all": True, "append_images": OTHER}, (200, 60, 30)),  # the first of a stereo camera's
        (RUST, "PNG", {"save_all": True, "append_images": OTHER, "default_image": True}, (200, 60, 30)),
        (Image.new("P", (16, 16), 0), "GIF", {"transparency": 0}, WHITE),
    ],
    ids=lambda value: getattr(value, "mode", value) if isinstance(value, Image.Image | str) else "",
)
def test_rare_modes_pages_and_frames_have_the_colour_that_they_show(tmp_path, image, kind, options, expected):
    name = save(tmp_path, image, "a.img", format=kind, **options)
    result = pixels(read_image(name, folder=tmp_path)).astype(int)
    assert result.shape == (16, 16, 3)
    assert np.abs(result - expected).max() <= 2


@pytest.mark.parametrize("start", [b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51"])
def test_jpeg_2000_is_named(tmp_path, start):
    (tmp_path / "a.jp2").write_bytes(start + bytes(99))
    with pytest.raises(ImageError, match=r"image a\.jp2 is JPEG 2000, which is not read; save it as JPEG or PNG"):
        read_image("a.jp2", folder=tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff"])
def test_each_format_shows_the_same_image(tmp_path, suffix):
    name = save(tmp_path, photo(), f"a.{suffix}")
    assert np.abs(pixels(read_image(name, folder=tmp_path)).astype(int) - np.asarray(photo())).mean() < 6


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_animation_shows_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (6, 6), c) for c in (RED, (0, 0, 255))]
    name = save(tmp_path, frames[0], f"a.{suffix}", save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(pixels(read_image(name, folder=tmp_path)).astype(int) - RED).max() <= 4


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_rotation_is_applied_once(tmp_path, suffix, orientation):
    upright = np.asarray(photo((32, 16)))
    # What a camera stores for a scene seen upright, by orientation (TIFF 6.0, tag 274): the inverse
    # of what shows it.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    name = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), f"a.{suffix}", exif=exif)
    result = read_image(name, folder=tmp_path)
    assert result.size == (32, 16)
    assert np.abs(pixels(result).astype(int) - upright).mean() < 6
    assert 274 not in result.getexif()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_unreadable_metadata_does_not_cost_the_image(tmp_path):
    name = save(tmp_path, Image.new("RGB", (4, 4), RED), "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    assert pixels(read_image(name, folder=tmp_path))[0, 0].tolist() == list(RED)


def test_the_name_s_ending_does_not_matter(tmp_path):
    save(tmp_path, Image.new("RGB", (4, 4), RED), "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert pixels(read_image("a.jpg", folder=tmp_path))[0, 0].tolist() == list(RED)


# --- the pixel limit


def test_a_bomb_is_refused_from_its_header_with_the_numbers(tmp_path):
    (tmp_path / "a.png").write_bytes(png(20000, 20000, rows=b"\0"))  # decoding it would fail for lack of pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"a\.png has 20000 x 20000 = 400,000,000 pixels, the limit is 50,000,000"):
            read_image("a.png", folder=tmp_path)


def test_the_limit_is_inclusive_and_its_own(tmp_path):
    name = save(tmp_path, Image.new("RGB", (10, 10)), "a.png")
    assert read_image(name, folder=tmp_path, max_image_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="limit is 99"):
        read_image(name, folder=tmp_path, max_image_pixels=99)


def test_pillow_s_process_wide_limit_is_neither_used_nor_changed(tmp_path, monkeypatch):
    name = save(tmp_path, Image.new("RGB", (10, 10)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(name, folder=tmp_path).size == (10, 10)
    assert Image.MAX_IMAGE_PIXELS == 10


# --- files that are no usable image


def jpeg_bytes() -> bytes:
    out = io.BytesIO()
    photo((64, 64)).save(out, "JPEG")
    return out.getvalue()


def png_bytes() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("whole", [jpeg_bytes(), png_bytes()], ids=["jpeg", "png"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_image_is_damaged(tmp_path, whole, kept):
    (tmp_path / "a.img").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ImageError, match=r"a\.img is damaged .*replace the file"):
        read_image("a.img", folder=tmp_path)


def test_flipped_bytes_never_raise_anything_but_an_image_error():
    generator = np.random.default_rng(0)
    for whole in (jpeg_bytes(), png_bytes()):
        for _ in range(60):
            damaged = bytearray(whole)
            for position in generator.integers(0, len(whole), 8):
                damaged[position] = generator.integers(0, 256)
            try:
                image = decode_image(io.BytesIO(damaged), name="x", max_image_pixels=10_000)
            except ImageError:
                continue
            assert image.mode == "RGB"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.jpg is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html>404 not found", r"a\.jpg is a web page .*not a photo; download it again"),
        (b"\n <html><body>", "web page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "drawing in SVG"),
        (b"just some text", r"a\.jpg is not an image: it starts with b'just som'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", r"is PostScript \(EPS\), which is not read; save it as JPEG or PNG"),
        (b"<?xml version='1.0' encoding='UTF-8' standalone='no'?>\n<!-- a --><svg/>", "drawing in SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", r"is HEIC \(a photo of an iPhone\), which is not read; save it as JPEG or PNG"),
        (b"%PDF-1.7", "a PDF document"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
    ],
    ids=[
        *("empty", "html", "html after blanks", "svg", "text", "postscript, which Pillow would run"),
        *("svg after xml", "heic", "pdf", "photoshop", "jpeg xl"),
    ],
)
def test_what_is_no_photo_is_named_for_what_it_is(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image("a.jpg", folder=tmp_path)


# --- where the file may be


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1, 1), "has 1 x 1 pixels, a placeholder that shows nothing"),
        ((300, 3), "a placeholder that shows nothing"),
        ((2000, 4), "has 2000 x 4 pixels, more than 100 times as long as wide, which no model takes; crop"),
        ((4, 401), "more than 100 times as long as wide"),
    ],
)
def test_the_smallest_and_the_longest_images_are_refused(tmp_path, size, message):
    name = save(tmp_path, Image.new("RGB", size, RED), "a.png")
    with pytest.raises(ImageError, match=message):
        read_image(name, folder=tmp_path)


def test_the_smallest_image_that_is_taken_and_the_longest(tmp_path):
    name = save(tmp_path, Image.new("RGB", (4, 400), RED), "a.png")
    assert read_image(name, folder=tmp_path).size == (4, 400)
