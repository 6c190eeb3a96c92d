"""SSIM and letterboxing."""

import numpy as np
import pytest
from PIL import Image

from grpo_mmpc.metrics.image import letterbox, ssim


def test_two_flat_images_differ_by_their_luminance_term() -> None:
    # no variance: structure is c2/c2 = 1; luminance (2 * .2 * .6 + .0001) / (.04 + .36 + .0001) = .2401 / .4001
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


def test_different_or_tiny_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="letterbox"):
        ssim(prediction=np.zeros((9, 9, 3)), reference=np.zeros((9, 8, 3)))
    with pytest.raises(ValueError, match="7 x 7"):
        ssim(prediction=np.zeros((6, 9, 3)), reference=np.zeros((6, 9, 3)))


def test_letterboxing_keeps_proportions_on_white() -> None:
    # 100 x 50 into 128: the picture takes 128 x 64, with 32 white rows above and below
    square = letterbox(Image.new("RGB", (100, 50), "red"))
    assert square.shape == (128, 128, 3)
    assert (square[:32] == 1.0).all()
    assert (square[-32:] == 1.0).all()
    assert (square[32:96, :, 0] == 1.0).all()
    assert (square[32:96, :, 1] == 0.0).all()


def test_shrinking_is_antialiased() -> None:
    # one-pixel checks at 4 times the size average to grey; picking single pixels would keep black and white
    checks = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    square = letterbox(Image.fromarray(checks).convert("RGB"))
    assert abs(square[8:-8, 8:-8] - 0.5).max() < 0.05
