"""Paper-mode image metrics against a transcription of the published formulas, quirk by quirk."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.metrics.image import OpenedImage
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.official.images import PAPER_IMAGE_METRICS, is_scored_file, stretch
from grpo_mmpc.metrics.table import METRICS


def bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sample between the four nearest pixel centres, axis by axis; round to bytes."""

    def sample(values: np.ndarray, size: int) -> np.ndarray:
        places = np.clip((np.arange(size) + 0.5) * len(values) / size - 0.5, 0, len(values) - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, len(values) - 1)
        share = (places - low)[:, None, None]
        return values[low] * (1 - share) + values[high] * share

    rows = sample(pixels.astype(float), height)
    return np.rint(sample(rows.transpose(1, 0, 2), width).transpose(1, 0, 2)).astype(np.uint8)


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """Smooth noise: random colours every few pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


class FakeLpips:
    """Weighs the three channels differently, and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[np.ndarray, np.ndarray]] = []

    def distances(self, *, predictions: np.ndarray, references: np.ndarray) -> list[float]:
        self.shown += zip(predictions, references, strict=True)
        weights = np.array([0.6, 0.3, 0.1]) / 255
        return [
            float((abs(p.astype(float) - r) @ weights).mean()) for p, r in zip(predictions, references, strict=True)
        ]


class FakeClip:
    def __init__(self) -> None:
        self.shown: list[tuple[Any, Any]] = []

    def image_image(self, *, image_paths: Sequence[Any], other_paths: Sequence[Any]) -> list[float]:
        self.shown += zip(image_paths, other_paths, strict=True)
        return [0.75] * len(image_paths)


class FakeInception:
    """Mean colours of four bands of a 299-pixel image."""

    @staticmethod
    def one(pixels: np.ndarray) -> np.ndarray:
        assert pixels.shape == (299, 299, 3)
        return np.concatenate([band.mean(axis=(0, 1)) for band in np.array_split(pixels.astype(float), 4)])

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.array([self.one(np.asarray(image)) for image in images])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write twelve pairs of PNG files: generated squares, real photos, one under 64 pixels high."""
    for i in range(12):
        Image.fromarray(picture(i, 48, 48)).save(tmp_path / f"made{i}.png")
        width, height = [(97, 71), (71, 127), (83, 41)][i % 3]  # primes: few values fall exactly between two levels
        Image.fromarray(picture(100 + i, width, height)).save(tmp_path / f"true{i}.png")
    return tmp_path


def inputs(folder: Path, **changes: Any) -> MetricInputs:
    made = MetricInputs(
        task="text_to_image",
        predictions=["p"] * 12,
        references=["t"] * 12,
        rendered_images=[str(folder / f"made{i}.png") for i in range(12)],
        real_images=[str(folder / f"true{i}.png") for i in range(12)],
        clip=FakeClip(),
        lpips=FakeLpips(),
        inception=FakeInception(),
        read_image=open_image,
    )
    return replace(made, **changes)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def stretched_pair(folder: Path, i: int) -> tuple[np.ndarray, np.ndarray]:
    real = read(folder / f"true{i}.png")
    return bilinear(read(folder / f"made{i}.png"), *real.shape[:2]), real


def test_the_generated_image_is_stretched_to_the_real_ones_size(folder: Path) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    chosen = inputs(folder)
    found = {name: PAPER_IMAGE_METRICS[name].score(chosen) for name in ("psnr", "ssim", "mse")}
    for i in range(12):
        made, real = (pixels / 255.0 for pixels in stretched_pair(folder, i))
        assert found["psnr"][i] == pytest.approx(metrics.peak_signal_noise_ratio(real, made, data_range=1.0), abs=1e-4)
        assert found["mse"][i] == pytest.approx(float(np.mean((made - real) ** 2)), abs=1e-6)
        expected = metrics.structural_similarity(made, real, data_range=1.0, channel_axis=-1, win_size=7)
        assert found["ssim"][i] == pytest.approx(expected, abs=1e-5)


def test_an_image_twice_too_wide_is_nothing_wrong_here_and_is_in_corrected_mode(tmp_path: Path) -> None:
    Image.fromarray(picture(1, 80, 80)).save(tmp_path / "made.png")
    Image.fromarray(stretch(picture(1, 80, 80), height=80, width=160)).save(tmp_path / "true.png")
    pair = MetricInputs(
        task="text_to_image",
        predictions=["p"],
        references=["t"],
        rendered_images=[str(tmp_path / "made.png")],
        real_images=[str(tmp_path / "true.png")],
        read_image=open_image,
    )
    assert PAPER_IMAGE_METRICS["ssim"].score(pair) == pytest.approx([1.0])
    assert METRICS["ssim"].score(pair)[0] < 0.6


def test_stretching_picks_single_pixels_instead_of_averaging() -> None:
    # checks of one pixel, shrunk by 4: samples fall between two pixels, 1.5 and 5.5, of which both
    # are one check apart; shrunk by 3 they fall on pixels 1, 4, 7, ...: the checks stay, in full
    # contrast
    checks = (np.indices((30, 30)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    shrunk = stretch(checks, height=10, width=10)
    assert set(shrunk.ravel().tolist()) == {0, 255}
    np.testing.assert_array_equal(shrunk, checks[1::3, 1::3])


@pytest.mark.parametrize(("height", "width"), [(70, 90), (120, 33), (7, 200), (1, 1), (48, 48)])
def test_stretching_equals_the_transcription_and_opencv_within_one_level(height: int, width: int) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(height).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    found = stretch(pixels, height=height, width=width).astype(int)
    assert abs(found - bilinear(pixels, height, width)).max() <= 1  # where a half is a little less
    assert abs(found - cv2.resize(pixels, (width, height))).max() <= 1


def test_the_window_of_ssim_shrinks_with_a_tiny_photo(tmp_path: Path) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    expected = []
    for i, height in enumerate([6, 4, 2]):
        made, real = picture(i, 20, height), picture(9 + i, 20, height)
        Image.fromarray(made).save(tmp_path / f"made{i}.png")
        Image.fromarray(real).save(tmp_path / f"true{i}.png")
        if height > 2:  # windows of 5 and 3; the official script cannot score the last
            expected.append(metrics.structural_similarity(made, real, channel_axis=-1, win_size=height - 1))
    chosen = MetricInputs(
        task="text_to_image",
        predictions=["p"] * 3,
        references=["t"] * 3,
        rendered_images=[str(tmp_path / f"made{i}.png") for i in range(3)],
        real_images=[str(tmp_path / f"true{i}.png") for i in range(3)],
        read_image=open_image,
    )
    found = PAPER_IMAGE_METRICS["ssim"].score(chosen)
    assert found[:2] == pytest.approx(expected, abs=1e-5)
    assert math.isnan(found[2])


def test_lpips_sees_red_and_blue_exchanged(folder: Path) -> None:
    chosen = inputs(folder)
    found = PAPER_IMAGE_METRICS["lpips"].score(chosen)
    made, real = stretched_pair(folder, 0)
    weights_of_rgb = np.array([0.1, 0.3, 0.6]) / 255  # the fake gives its first channel, here blue, 0.6
    assert found[0] == pytest.approx((abs(made.astype(float) - real) @ weights_of_rgb).mean(), abs=1e-3)
    np.testing.assert_array_equal(chosen.lpips.shown[0][1], real[:, :, ::-1])


def test_lpips_alone_leaves_out_photos_under_64_pixels(folder: Path) -> None:
    chosen = inputs(folder)
    found = PAPER_IMAGE_METRICS["lpips"].score(chosen)
    assert [math.isnan(score) for score in found] == [False, False, True] * 4  # every third is 41 pixels high
    assert not any(math.isnan(score) for score in PAPER_IMAGE_METRICS["mse"].score(chosen))


def test_clip_sees_the_stretched_image(folder: Path) -> None:
    chosen = inputs(folder)
    assert PAPER_IMAGE_METRICS["clip_image_image"].score(chosen) == [0.75] * 12
    made, real = chosen.clip.shown[0]
    assert abs(np.asarray(made).astype(int) - stretched_pair(folder, 0)[0]).max() <= 1
    assert isinstance(real, OpenedImage)
    assert real.path == chosen.real_images[0]


def test_fid_resizes_the_generated_image_twice_and_the_real_one_once(folder: Path) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    made, real = [], []
    for i in range(12):
        first, second = stretched_pair(folder, i)
        made.append(FakeInception.one(bilinear(first, 299, 299)))
        real.append(FakeInception.one(bilinear(second, 299, 299)))
    covariances = np.cov(made, rowvar=False), np.cov(real, rowvar=False)
    shift = np.mean(made, axis=0) - np.mean(real, axis=0)
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))
    fid = PAPER_IMAGE_METRICS["fid"]
    assert fid.of_set(inputs(folder)) == pytest.approx(expected, rel=1e-3)
    assert all(math.isnan(score) for score in fid.score(inputs(folder)))


def test_fewer_than_ten_pairs_have_no_fid(folder: Path) -> None:
    renders = [str(folder / f"made{i}.png") for i in range(12)]
    fid = PAPER_IMAGE_METRICS["fid"]
    assert math.isfinite(fid.of_set(inputs(folder, rendered_images=[*renders[:10], None, None])))
    assert math.isnan(fid.of_set(inputs(folder, rendered_images=[*renders[:9], None, None, None])))


def test_failures_are_left_out_instead_of_scoring_worst(folder: Path) -> None:
    broken = folder / "broken.png"
    broken.write_bytes((folder / "made0.png").read_bytes()[:200])
    renders = [None, str(broken), str(folder / "absent.png"), *[str(folder / f"made{i}.png") for i in range(3, 12)]]
    for metric in PAPER_IMAGE_METRICS.values():
        if metric.of_set is None:
            assert all(math.isnan(s) for s in metric.score(inputs(folder, rendered_images=renders))[:3]), metric.name
    corrected = METRICS["mse"].score(inputs(folder, rendered_images=renders, clip=None, lpips=None, inception=None))
    assert corrected[:3] == [1.0] * 3


@pytest.mark.parametrize(
    ("name", "kind", "scored"),
    [
        ("a.png", "PNG", True),
        ("a.JPEG", "JPEG", True),
        ("a.jpg", "PNG", True),
        ("a.jpg", "BMP", True),
        ("a.jpg", "GIF", True),
        ("a.gif", "GIF", False),
        ("a.webp", "WEBP", False),
        ("a.jpg", "WEBP", False),
        ("a.png", "TIFF", False),
    ],
)
def test_webp_and_the_like_are_left_out_whatever_their_names_say(
    tmp_path: Path, name: str, kind: str, scored: bool
) -> None:
    Image.new("RGB", (80, 80), "red").save(tmp_path / name, format=kind)
    Image.new("RGB", (80, 80), "blue").save(tmp_path / "other.png")
    assert is_scored_file(str(tmp_path / name)) == scored
    for pair in [(name, "other.png"), ("other.png", name)]:
        rendered, real = (str(tmp_path / file) for file in pair)
        chosen = MetricInputs(
            task="text_to_image",
            predictions=["p"],
            references=["t"],
            rendered_images=[rendered],
            real_images=[real],
            read_image=open_image,
        )
        assert math.isnan(PAPER_IMAGE_METRICS["mse"].score(chosen)[0]) != scored


def test_the_infinite_psnr_of_equal_images_is_unscored(folder: Path) -> None:
    paths = [str(folder / f"true{i}.png") for i in range(12)]
    chosen = inputs(folder, rendered_images=paths)
    assert all(math.isnan(score) for score in PAPER_IMAGE_METRICS["psnr"].score(chosen))
    assert PAPER_IMAGE_METRICS["mse"].score(chosen) == [0.0] * 12


def test_without_encoders_or_images_everything_is_unscored(folder: Path) -> None:
    bare = inputs(folder, clip=None, lpips=None, inception=None)
    for name in ("clip_image_image", "lpips"):
        assert all(math.isnan(score) for score in PAPER_IMAGE_METRICS[name].score(bare)), name
    assert math.isnan(PAPER_IMAGE_METRICS["fid"].of_set(bare))
    for changes in ({"rendered_images": ()}, {"real_images": ()}, {"real_images": [None] * 12}):
        for metric in PAPER_IMAGE_METRICS.values():
            assert all(math.isnan(score) for score in metric.score(inputs(folder, **changes))), metric.name


def test_a_set_without_a_reader_says_what_to_pass(folder: Path) -> None:
    with pytest.raises(ValueError, match="open_image"):
        PAPER_IMAGE_METRICS["mse"].score(inputs(folder, read_image=None))


def test_names_directions_and_bounds_agree() -> None:
    assert list(PAPER_IMAGE_METRICS) == ["psnr", "ssim", "mse", "lpips", "clip_image_image", "fid"]
    for name, metric in PAPER_IMAGE_METRICS.items():
        assert metric.name == name
        assert metric.targets == ("image",)
        assert metric.higher_is_better == (name in {"psnr", "ssim", "clip_image_image"})
