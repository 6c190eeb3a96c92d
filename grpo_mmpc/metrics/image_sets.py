"""Distances of two sets of images: kernel and Fréchet distances of Inception features (KID, FID).

An item without a readable render enters the generated set as a white image: leaving it out would
reward a policy for failing on what is hard to draw. An item without a readable real image enters
neither set.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from grpo_mmpc.metrics.metric import shielded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grpo_mmpc.metrics.metric import MetricInputs

_ROWS_AT_ONCE = 1024
"""Rows of a kernel matrix held at once: memory stays flat in the number of items."""


class _PairedFeatures(NamedTuple):
    positions: list[int]
    """Items that have a real image, N."""
    real: "NDArray[np.float64]"
    """[N, D], as the next."""
    generated: "NDArray[np.float64]"


def kid(inputs: "MetricInputs") -> list[float]:
    """Return contributions of the items to the KID of their category, which is their mean.

    NaN for items without a real image, for categories with fewer than two of them, and everywhere
    without an encoder or renders.
    """
    scores = [math.nan] * len(inputs.predictions)
    by_category: dict[str, list[int]] = defaultdict(list)
    for position, category in enumerate(inputs.categories or [""] * len(scores)):
        by_category[category].append(position)
    for positions in by_category.values():
        features = shielded(inputs, "inception", partial(_paired_features, inputs, positions))
        if features is not None:
            values = kid_contributions(real=features.real, generated=features.generated)
            for position, value in zip(features.positions, values.tolist(), strict=True):
                scores[position] = value
    return scores


def fid(inputs: "MetricInputs") -> float:
    """Return the FID of all items; NaN without encoder, renders or two real images."""
    everything = range(len(inputs.predictions))
    features = shielded(inputs, "inception", partial(_paired_features, inputs, everything))
    return math.nan if features is None else frechet_distance(real=features.real, generated=features.generated)


def kid_contributions(*, real: "NDArray[np.float64]", generated: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Split the kernel Inception distance of two sets into one value per pair (x_i, y_i).

    With the kernel ``k(a, b) = (a.b / D + 1)^3`` and

        s_i =   sum_{j != i} (k(x_i, x_j) + k(y_i, y_j)) / (n - 1)
              - sum_{j != i} (k(x_i, y_j) + k(x_j, y_i)) / (n - 1)

    the mean of s is the KID, unbiased at any n also for sets that are paired: an image resembles
    its own counterpart more than others, which says nothing of the two distributions, so that pairs
    (i, i) are left out (Gretton et al. 2012, "A Kernel Two-Sample Test", eq. 4). Every pair of
    items enters it twice, so that the s_i vary half as much as removing an item would say; the
    value of an item is therefore ``2 s_i - mean(s)``: the same mean, and intervals as wide as they
    should be.

    Real and generated features have the shape [n, D], n at least 2.

    References:
        Binkowski et al. 2018, "Demystifying MMD GANs", section 4.
    """
    n = len(real)
    own = _kernel_sums(real, real) + _kernel_sums(generated, generated)
    s: NDArray[np.float64] = (own - _kernel_sums(real, generated) - _kernel_sums(generated, real)) / (n - 1)
    contributions: NDArray[np.float64] = 2.0 * s - s.mean()
    return contributions


def frechet_distance(*, real: "NDArray[np.float64]", generated: "NDArray[np.float64]") -> float:
    """Return the Fréchet distance of Gaussians fitted to two sets of features, [n, D] and [m, D].

    The trace of the root of the product of the covariances is the sum of the singular values of ``A
    B^T``, where A and B are the centred features: ten times as fast as the eigenvalues of a 2048 x
    2048 matrix that torchmetrics takes, and exact where covariances of few images are singular.
    Biased upwards, the more so the fewer images.

    References:
        Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", eq. 6.
    """
    import numpy as np  # heavy: imported on use

    shift = real.mean(axis=0) - generated.mean(axis=0)
    first, second = _root_of_covariance(real), _root_of_covariance(generated)
    overlap = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return max(0.0, float(shift @ shift + (first**2).sum() + (second**2).sum() - 2.0 * overlap))


def _root_of_covariance(features: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return R with ``R^T R`` the sample covariance, shape [min(n, D), D]."""
    import numpy as np

    root: NDArray[np.float64] = (features - features.mean(axis=0)) / math.sqrt(len(features) - 1)
    if len(root) > root.shape[1]:
        root = np.linalg.qr(root).R
    return root


def _kernel_sums(first: "NDArray[np.float64]", second: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the sum over j != i of k(first_i, second_j) for each i."""
    import numpy as np

    sums = np.empty(len(first))
    for start in range(0, len(first), _ROWS_AT_ONCE):
        rows = first[start : start + _ROWS_AT_ONCE]
        kernel = (rows @ second.T / first.shape[1] + 1.0) ** 3  # [rows, n]
        np.fill_diagonal(kernel[:, start:], 0.0)
        sums[start : start + len(rows)] = kernel.sum(axis=1)
    return sums


def _paired_features(inputs: "MetricInputs", positions: Sequence[int]) -> _PairedFeatures | None:
    """Return features of the items with a readable real image; None with fewer than two of them.

    Also None without an encoder or without renders.
    """
    import numpy as np
    from PIL import Image  # heavy: imported on use

    encoder = inputs.inception
    if encoder is None or not inputs.rendered_images or not inputs.real_images:
        return None
    known = [(i, path) for i in positions if (path := inputs.real_images[i]) is not None]
    if len(known) < 2:
        return None
    real = encoder.features([path for _, path in known])
    readable = np.flatnonzero(~np.isnan(real[:, 0]))
    kept = [known[row][0] for row in readable]
    if len(kept) < 2:
        return None
    generated = np.full((len(kept), real.shape[1]), np.nan)
    rendered = [(row, path) for row, i in enumerate(kept) if (path := inputs.rendered_images[i]) is not None]
    if rendered:
        rows, paths = zip(*rendered, strict=True)
        generated[list(rows)] = encoder.features(paths)
    failed = np.isnan(generated[:, 0])
    if failed.any():
        generated[failed] = encoder.features([Image.new("RGB", (8, 8), "white")])[0]
    return _PairedFeatures(kept, real[readable], generated)
