"""Pure functions of pixels: letterboxing, MSE, PSNR, SSIM."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from grpo_mmpc.metrics.image import PSNR_CAP_DB, letterbox, mse, psnr, ssim
from grpo_mmpc.utils.cpu_compat import ensure_importable

PICTURES = arrays(np.uint8, (9, 8, 3))


def test_two_flat_images_differ_by_their_luminance_term() -> None:
    # no variance: structure is c2/c2 = 1; luminance (2 * .2 * .6 + .0001) / (.04 + .36 + .0001) =
    # .2401 / .4001
    first, second = np.full((9, 9, 3), 0.2), np.full((9, 9, 3), 0.6)
    assert ssim(prediction=first, reference=second) == pytest.approx(0.2401 / 0.4001)


def test_equal_images_score_one() -> None:
    image = np.random.default_rng(0).random((20, 30, 3))
    assert ssim(prediction=image, reference=image) == pytest.approx(1.0)


def test_a_negative_scores_below_zero() -> None:
    image = (np.indices((32, 32)).sum(axis=0) % 2).astype(float)[..., None].repeat(3, axis=2)
    assert ssim(prediction=1 - image, reference=image) < -0.9


def test_equals_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(1)
    for shape in [(7, 7, 3), (16, 40, 3), (84, 84, 3), (33, 20, 1)]:
        reference = rng.random(shape)
        for prediction in (
            rng.random(shape),
            np.clip(reference + 0.1 * rng.standard_normal(shape), 0, 1),
            0 * reference,
        ):
            expected = metrics.structural_similarity(prediction, reference, channel_axis=2, data_range=1.0)
            assert ssim(prediction=prediction, reference=reference) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("window", [3, 5, 7])
def test_bytes_and_other_windows_equal_scikit_image(window: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(2)
    reference = rng.integers(0, 256, (40, 31, 3), dtype=np.uint8)
    for prediction in (rng.integers(0, 256, reference.shape, dtype=np.uint8), 255 - reference, reference // 3 * 2):
        expected = metrics.structural_similarity(prediction, reference, channel_axis=2, win_size=window)
        found = ssim(prediction=prediction, reference=reference, window_px=window)
        assert found == pytest.approx(expected, abs=1e-6)


def test_sums_of_the_brightest_bytes_do_not_overflow() -> None:
    white = np.full((2000, 10, 3), 255, dtype=np.uint8)
    assert ssim(prediction=white, reference=white) == pytest.approx(1.0)
    assert mse(predictions=white[None], references=0 * white[None]).tolist() == [1.0]


def test_errors_of_bytes_are_measured_in_units_of_the_full_range() -> None:
    # two channels of four differ: by 51 = 255 / 5 and by 255; ((1/5)^2 + 1^2) / 4 = .26
    first = np.array([[[[0, 51], [255, 7]]]], dtype=np.uint8)
    second = np.array([[[[0, 0], [0, 7]]]], dtype=np.uint8)
    assert mse(predictions=first, references=second).tolist() == pytest.approx([0.26])
    assert mse(predictions=second, references=first).tolist() == pytest.approx([0.26])


@pytest.mark.parametrize(("error", "decibels"), [(1.0, 0.0), (0.1, 10.0), (1e-4, 40.0), (0.0, 100.0), (1e-12, 100.0)])
def test_psnr_is_ten_decibels_per_factor_of_ten_and_finite(error: float, decibels: float) -> None:
    assert psnr(error) == pytest.approx(decibels)


def test_the_least_difference_of_two_compared_squares_lies_below_the_cap() -> None:
    first = np.zeros((1, 128, 128, 3), dtype=np.uint8)
    second = first.copy()
    second[0, 5, 5, 1] = 1
    assert 95.0 < psnr(float(mse(predictions=first, references=second)[0])) < PSNR_CAP_DB


def test_mse_and_psnr_equal_scikit_image_and_torchmetrics() -> None:
    ensure_importable()
    from torchmetrics.functional import mean_squared_error
    from torchmetrics.functional.image import peak_signal_noise_ratio

    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(3)
    predictions, references = rng.integers(0, 256, (2, 5, 20, 30, 3), dtype=np.uint8)
    errors = mse(predictions=predictions, references=references)
    for error, prediction, reference in zip(errors.tolist(), predictions, references, strict=True):
        x, y = torch.from_numpy(prediction / 255.0), torch.from_numpy(reference / 255.0)
        assert error == pytest.approx(metrics.mean_squared_error(prediction / 255.0, reference / 255.0), abs=1e-12)
        assert error == pytest.approx(mean_squared_error(x, y).item(), abs=1e-9)
        assert psnr(error) == pytest.approx(
            metrics.peak_signal_noise_ratio(reference, prediction, data_range=255), abs=1e-9
        )
        assert psnr(error) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1.0).item(), abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(first=PICTURES, second=PICTURES, level=st.integers(0, 255))
def test_pixel_metrics_are_symmetric_bounded_and_best_for_equal_images(
    first: np.ndarray, second: np.ndarray, level: int
) -> None:
    forth = ssim(prediction=first, reference=second)
    assert forth == pytest.approx(ssim(prediction=second, reference=first), abs=1e-6)
    assert -1.0 - 1e-6 <= forth <= 1.0 + 1e-6
    assert ssim(prediction=first, reference=first) == pytest.approx(1.0, abs=1e-6)
    error, other = (
        float(mse(predictions=a[None], references=b[None])[0]) for a, b in [(first, second), (second, first)]
    )
    assert 0.0 <= error == other <= 1.0
    assert (error == 0.0) == (psnr(error) == PSNR_CAP_DB) == bool((first == second).all())
    flat = np.full_like(first, level)
    assert float(mse(predictions=flat[None], references=flat[None])[0]) == 0.0


def test_different_or_tiny_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="letterbox"):
        ssim(prediction=np.zeros((9, 9, 3)), reference=np.zeros((9, 8, 3)))
    with pytest.raises(ValueError, match="7 x 7"):
        ssim(prediction=np.zeros((6, 9, 3)), reference=np.zeros((6, 9, 3)))


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_letterboxing_leaves_a_line_of_an_image_that_is_next_to_one(size: tuple[int, int]) -> None:
    square = np.asarray(letterbox(Image.new("RGB", size, "black"), size_px=64))
    assert square.shape == (64, 64, 3)
    assert (square < 255).any(axis=2).sum() == 64


def test_letterboxing_keeps_proportions_on_white() -> None:
    # 100 x 50 into 128: the image takes 128 x 64, with 32 white rows above and below
    square = np.asarray(letterbox(Image.new("RGB", (100, 50), "red")))
    assert square.shape == (128, 128, 3)
    assert (square[:32] == 255).all()
    assert (square[-32:] == 255).all()
    assert (square[32:96, :, 0] == 255).all()
    assert (square[32:96, :, 1] == 0).all()


def test_shrinking_is_antialiased() -> None:
    # one-pixel checks at 4 times the size average to grey; picking single pixels would keep black
    # and white
    checks = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    square = np.asarray(letterbox(Image.fromarray(checks).convert("RGB")), dtype=float)
    assert abs(square[8:-8, 8:-8] - 127.5).max() < 0.05 * 255
