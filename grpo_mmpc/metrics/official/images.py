"""The official benchmark's image metrics, quirks included, to compare with published numbers only.

``docs/evaluation.md`` ("Paper mode") lists them. They follow MMPCBench (arXiv 2601.19750) and its
public code; none of that code is used.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from grpo_mmpc.metrics import image, image_sets
from grpo_mmpc.metrics.image import OpenedImage
from grpo_mmpc.metrics.metric import Metric, MetricInputs, shielded, unscored
from grpo_mmpc.metrics.rendered_images import open_source, shared_column

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LPIPS_MIN_SIDE_PX = 64
FID_SIZE_PX = 299
FID_MIN_PAIRS = 10
"""Fewer pairs have no FID in the official script."""

_EXTENSIONS = {".png", ".jpg", ".jpeg"}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
"""First bytes of the files that are scored; WebP is not among them."""
_PAIRS_AT_ONCE = 16


def stretch(pixels: "NDArray[np.uint8]", *, height: int, width: int) -> "NDArray[np.uint8]":
    """Resize to any proportions, bilinear between pixel centres, without antialiasing, to bytes.

    Equals OpenCV's ``INTER_LINEAR`` but for its fixed-point arithmetic: at most one level apart.

    Pixels [H, W, 3] become [height, width, 3]; an input of that size is returned itself.
    """
    import torch  # heavy: imported on use

    if pixels.shape[:2] == (height, width):
        return pixels
    values = torch.tensor(pixels, dtype=torch.float64).permute(2, 0, 1)[None]  # [1, 3, H, W]
    resized = torch.nn.functional.interpolate(values, (height, width), mode="bilinear", align_corners=False)
    stretched: NDArray[np.uint8] = resized[0].permute(1, 2, 0).round().byte().contiguous().numpy()
    return stretched


def is_scored_file(path: str) -> bool:
    """True if the official script takes a file: named PNG or JPEG and not WebP inside."""
    file = Path(path)
    if file.suffix.lower() not in _EXTENSIONS:
        return False
    try:
        with file.open("rb") as stream:
            return stream.read(8).startswith(_SIGNATURES)
    except OSError:
        return False


def paper_ssim(*, prediction: "NDArray[np.uint8]", reference: "NDArray[np.uint8]") -> float:
    """Return SSIM with the official window: 7, or the largest odd number that fits a smaller image.

    Returns:
        Similarity in [-1, 1]; NaN for images less than 3 pixels high or wide, where the official
        script fails.
    """
    side = min(image.WINDOW_PX, *prediction.shape[:2])
    window = side if side % 2 else side - 1
    return math.nan if window < 3 else image.ssim(prediction=prediction, reference=reference, window_px=window)


def _scores(inputs: MetricInputs, *, name: str) -> list[float]:
    pieces = (_score_pairs(inputs, pairs) for pairs in _opened_pairs(inputs))
    column = shared_column(inputs, name, memo="paper_images", pieces=pieces)
    return [math.nan if score is None else score for score in column]


def _fid(inputs: MetricInputs) -> float:
    """Return the FID of the scored pairs; NaN with fewer than ten of them or without an encoder."""
    import numpy as np  # heavy: imported on use
    from PIL import Image

    encoder = inputs.inception
    if encoder is None:
        return math.nan
    rows: list[NDArray[np.float64]] = []
    for pairs in _opened_pairs(inputs):
        resized = (
            stretch(pixels, height=FID_SIZE_PX, width=FID_SIZE_PX) for p in pairs for pixels in (p.generated, p.real)
        )
        images = [Image.fromarray(pixels) for pixels in resized]
        found = shielded(inputs, "inception", partial(encoder.features, images))
        if found is None:
            return math.nan
        rows.append(found)
    if not rows or sum(map(len, rows)) < 2 * FID_MIN_PAIRS:
        return math.nan
    features = np.concatenate(rows)
    return image_sets.frechet_distance(generated=features[::2], real=features[1::2])


class _Pair(NamedTuple):
    position: int
    generated: "NDArray[np.uint8]"
    """Stretched to the real one's size, [H, W, 3]."""
    real: "NDArray[np.uint8]"
    source: OpenedImage
    """The real image's file."""


def _opened_pairs(inputs: MetricInputs) -> Iterator[list[_Pair]]:
    """Open the scored pairs, a few at a time."""
    if not inputs.rendered_images or not inputs.real_images:
        return
    if inputs.read_image is None:
        raise ValueError("paper mode needs MetricInputs.read_image; pass grpo_mmpc.encoders.images.open_image")
    import numpy as np  # heavy: imported on use

    wanted = [
        (i, rendered, real)
        for i, (rendered, real) in enumerate(zip(inputs.rendered_images, inputs.real_images, strict=True))
        if rendered is not None and real is not None and is_scored_file(rendered) and is_scored_file(real)
    ]
    for start in range(0, len(wanted), _PAIRS_AT_ONCE):
        pairs = []
        for position, rendered_path, real_path in wanted[start : start + _PAIRS_AT_ONCE]:
            rendered = open_source(inputs, rendered_path, failing="paper mode leaves an item out")
            real = open_source(inputs, real_path, failing="paper mode leaves an item out")
            if isinstance(rendered, OpenedImage) and isinstance(real, OpenedImage):
                pixels = np.asarray(real.image)
                height, width = pixels.shape[:2]
                generated = stretch(np.asarray(rendered.image), height=height, width=width)
                pairs.append(_Pair(position, generated, pixels, real))
        if pairs:
            yield pairs


def _score_pairs(inputs: MetricInputs, pairs: Sequence[_Pair]) -> dict[str, dict[int, float | None]]:
    """Return scores by metric and position; NaN for pairs that the official script leaves out."""
    from PIL import Image  # heavy: imported on use

    errors = [float(image.mse(predictions=p.generated[None], references=p.real[None])[0]) for p in pairs]
    scores = {
        "psnr": [-10.0 * math.log10(error) if error else math.nan for error in errors],
        "ssim": [paper_ssim(prediction=p.generated, reference=p.real) for p in pairs],
        "mse": errors,
    }
    lpips, clip = inputs.lpips, inputs.clip
    if lpips is not None:
        distances = shielded(inputs, "lpips", lambda: [_swapped_lpips(lpips, p) for p in pairs])
        scores |= {} if distances is None else {"lpips": distances}
    if clip is not None:
        images = {
            "image_paths": [Image.fromarray(p.generated) for p in pairs],
            "other_paths": [p.source for p in pairs],
        }
        cosines = shielded(inputs, "clip", lambda: clip.image_image(**images))
        scores |= {} if cosines is None else {"clip_image_image": cosines}
    positions = [p.position for p in pairs]
    return {name: dict(zip(positions, column, strict=True)) for name, column in scores.items()}


def _swapped_lpips(network: Any, pair: _Pair) -> float:
    """Return LPIPS of one pair with its channels in reverse order; NaN for small photos."""
    if min(pair.real.shape[:2]) < LPIPS_MIN_SIDE_PX:
        return math.nan
    reversed_channels = (pixels[None, ..., ::-1].copy() for pixels in (pair.generated, pair.real))
    predictions, references = reversed_channels
    return float(network.distances(predictions=predictions, references=references)[0])


def _metric(name: str, description: str, *, worst: float, best: float = 1.0) -> Metric:
    return Metric(
        name=name,
        targets=("image",),
        description=description,
        score=partial(_scores, name=name),
        worst=worst,
        best=best,
    )


_METRICS = (
    _metric("psnr", "PSNR in dB of the stretched render; failures left out", worst=0.0, best=image.PSNR_CAP_DB),
    _metric("ssim", "SSIM, 7 x 7 window, of the stretched render; failures left out", worst=-1.0),
    _metric("mse", "mean squared error of the stretched render; failures left out", worst=1.0, best=0.0),
    _metric(
        "lpips", "LPIPS (AlexNet) with red and blue exchanged; failures and small photos left out", worst=1.0, best=0.0
    ),
    _metric(
        "clip_image_image", "CLIP cosine of the stretched render and the real image; failures left out", worst=-1.0
    ),
    Metric(
        name="fid",
        targets=("image",),
        description="FID of images resized twice without antialiasing; failures left out",
        score=unscored,
        worst=math.inf,
        best=0.0,
        of_set=_fid,
    ),
)

PAPER_IMAGE_METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
"""The official image metrics by name. Their ``worst`` is a bound only: no item is ever given it."""
