"""Similarity of two images as pure functions."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

COMPARED_SIZE_PX = 128
"""Side of the square that both images are letterboxed to: SSIM is comparable at one size only, and
at this one its window covers a twentieth of the image, so that it judges layout and shape rather
than grain. LPIPS was calibrated on 64-pixel patches and has no answer below that."""
WINDOW_PX = 7
PSNR_CAP_DB = 100.0
"""PSNR of equal images, which has no finite value. Every other pair lies below: the least
possible difference, one level in one channel of one pixel of the compared square, has 10
log10(255^2 * 3 * 128^2) = 95.05 dB."""


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image file with its decoded pixels, so that encoders share one decoding."""

    path: str
    image: "Image.Image"
    """Upright RGB."""


ImageSource: TypeAlias = "str | Path | Image.Image | OpenedImage"
"""A file, its decoded pixels, or an image in memory such as one just rendered."""


def letterbox(image: "Image.Image", *, size_px: int = COMPARED_SIZE_PX) -> "Image.Image":
    """Fit an image into a white square, keeping its proportions, with antialiasing.

    Stretching a generated image to the real one's shape, as the official script does, bends every
    edge that the score is about to compare.

    Returns:
        RGB, ``size_px`` by ``size_px``; an RGB square of that size comes back as it is.
    """
    from PIL import Image, ImageOps  # heavy: imported on use

    image = image.convert("RGB")
    longest = max(image.size)
    if min(image.size) * size_px < longest:  # no less than a line remains of it; Pillow would resize it to nothing
        image = image.resize([max(1, round(side * size_px / longest)) for side in image.size])
    return ImageOps.pad(image, (size_px, size_px), method=Image.Resampling.LANCZOS, color="white")


def mse(*, predictions: "NDArray[np.uint8]", references: "NDArray[np.uint8]") -> "NDArray[np.float64]":
    """Return N mean squared errors in [0, 1] of pairs of 8-bit images, both [N, H, W, C]."""
    import numpy as np  # heavy: imported on use

    # int16 holds a difference of two bytes; the sum is taken in exact integers.
    difference = predictions.astype(np.int16) - references
    squares = np.einsum("nhwc,nhwc->n", difference, difference, dtype=np.int64)
    errors: NDArray[np.float64] = squares / (255.0**2 * math.prod(predictions.shape[1:]))
    return errors


def psnr(mean_squared_error: float) -> float:
    """Return the peak signal-to-noise ratio in dB, ``-10 log10(mse)``, of an error in [0, 1].

    ``PSNR_CAP_DB`` at most, also for equal images.
    """
    if mean_squared_error <= 0.0:
        return PSNR_CAP_DB
    return min(PSNR_CAP_DB, -10.0 * math.log10(mean_squared_error) + 0.0)  # + 0.0: no "-0.0" for an error of 1


def ssim(*, prediction: "NDArray[Any]", reference: "NDArray[Any]", window_px: int = WINDOW_PX) -> float:
    """Return the mean structural similarity with a uniform window, over channels.

    Equals ``skimage.metrics.structural_similarity(..., channel_axis=2, win_size=window_px)`` with
    its defaults and the data range of the values (bytes, or floats in [0, 1]), several times as
    fast. Both images have the shape [H, W, C]; the window is odd, at least 3.

    Raises:
        ValueError: The shapes differ or are smaller than the window.

    References:
        Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
        Similarity", eq. 13.
    """
    import numpy as np

    if prediction.shape != reference.shape or min(prediction.shape[:2]) < window_px:
        raise ValueError(
            f"ssim needs two equal shapes of at least {window_px} x {window_px}, "
            f"found {prediction.shape} and {reference.shape}; letterbox both first"
        )
    # Sums of bytes are exact in 32 bits: 49 * 49 * 255^2 is a thirteenth of what they hold.
    is_bytes = prediction.dtype == np.uint8
    peak, exact, real = (255.0, np.int32, np.float32) if is_bytes else (1.0, np.float64, np.float64)
    x: NDArray[Any] = prediction.astype(exact)
    y: NDArray[Any] = reference.astype(exact)
    n = window_px**2
    sum_x, sum_y = _window_sums(x, window_px), _window_sums(y, window_px)
    product = sum_x * sum_y
    squares = sum_x * sum_x + sum_y * sum_y
    # n * (sum of products) - (product of sums) is n (n - 1) times the sample covariance.
    covariance = n * _window_sums(x * y, window_px) - product
    variances = n * _window_sums(x * x + y * y, window_px) - squares
    c1, c2 = real((0.01 * peak * n) ** 2), real((0.03 * peak) ** 2 * n * (n - 1))
    luminance = ((2 * product).astype(real) + c1) / (squares.astype(real) + c1)
    structure = ((2 * covariance).astype(real) + c2) / (variances.astype(real) + c2)
    return float((luminance * structure).mean(dtype=np.float64))


def _window_sums(values: "NDArray[Any]", window: int) -> "NDArray[Any]":
    for axis in (0, 1):
        length = values.shape[axis] - window + 1
        shifted = [values[(slice(None),) * axis + (slice(start, start + length),)] for start in range(window)]
        values = shifted[0].copy()
        for neighbours in shifted[1:]:
            values += neighbours
    return values
