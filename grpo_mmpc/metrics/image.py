"""Likeness of two images: pure functions, and the shape of the encoder that compares what they show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

COMPARED_SIZE_PX = 128
"""Side of the square that both images are letterboxed to: SSIM is comparable at one size only, and at this one its window
covers a twentieth of the picture, so that it judges layout and shape rather than grain."""
_WINDOW_PX = 7


class ClipScorer(Protocol):
    """What ``grpo_mmpc.scoring.clip.ClipEncoder`` offers; NaN where an image cannot be read."""

    def image_text(self, *, image_paths: Sequence[str], texts: Sequence[str]) -> list[float]:
        """Cosines of N images and N texts."""

    def image_image(self, *, image_paths: Sequence[str], other_paths: Sequence[str]) -> list[float]:
        """Cosines of N pairs of images."""


def letterbox(image: "Image.Image", *, size_px: int = COMPARED_SIZE_PX) -> "NDArray[np.float64]":
    """Fit an image into a white square, keeping its proportions, with antialiasing.

    Stretching a generated image to the real one's shape, as the official script does, bends every edge that the score
    is about to compare.

    Returns:
        RGB values in [0, 1], shape [size_px, size_px, 3].
    """
    import numpy as np  # heavy: imported on use
    from PIL import Image, ImageOps

    square = ImageOps.pad(image.convert("RGB"), (size_px, size_px), method=Image.Resampling.LANCZOS, color="white")
    return np.asarray(square, dtype=np.float64) / 255.0


def ssim(*, prediction: "NDArray[np.float64]", reference: "NDArray[np.float64]") -> float:
    """Mean structural similarity with a uniform 7 x 7 window, over channels.

    Equals ``skimage.metrics.structural_similarity(..., channel_axis=2, data_range=1.0)`` with its defaults: sample
    covariance, K1 = 0.01, K2 = 0.03, and only windows that lie inside the image.

    Args:
        prediction: Values in [0, 1], shape [H, W, C], H and W at least 7.
        reference: The same shape.

    Returns:
        Similarity in [-1, 1]; 1 for equal images.

    Raises:
        ValueError: The shapes differ or are smaller than the window.

    References:
        Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", eq. 13.
    """
    if prediction.shape != reference.shape or min(prediction.shape[:2]) < _WINDOW_PX:
        raise ValueError(
            f"ssim needs two equal shapes of at least {_WINDOW_PX} x {_WINDOW_PX}, "
            f"found {prediction.shape} and {reference.shape}; letterbox both first"
        )
    mean_p, mean_r = _window_means(prediction), _window_means(reference)
    unbiased = _WINDOW_PX**2 / (_WINDOW_PX**2 - 1)
    variance_p = unbiased * (_window_means(prediction * prediction) - mean_p * mean_p)
    variance_r = unbiased * (_window_means(reference * reference) - mean_r * mean_r)
    covariance = unbiased * (_window_means(prediction * reference) - mean_p * mean_r)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_p * mean_r + c1) / (mean_p * mean_p + mean_r * mean_r + c1)
    structure = (2 * covariance + c2) / (variance_p + variance_r + c2)
    return float((luminance * structure).mean())


def _window_means(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Mean of every full window, [H, W, C] -> [H-6, W-6, C], by running sums along each axis."""
    import numpy as np

    rows = np.cumsum(values, axis=0)
    rows[_WINDOW_PX:] -= rows[:-_WINDOW_PX].copy()
    columns = np.cumsum(rows[_WINDOW_PX - 1 :], axis=1)
    columns[:, _WINDOW_PX:] -= columns[:, :-_WINDOW_PX].copy()
    return columns[:, _WINDOW_PX - 1 :] / _WINDOW_PX**2
