"""Score rendered images against real ones and titles, opening each file once for all metrics."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from grpo_mmpc.errors import ImageError
from grpo_mmpc.metrics import image
from grpo_mmpc.metrics.image import ImageSource, OpenedImage
from grpo_mmpc.metrics.metric import shielded, unscored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grpo_mmpc.metrics.metric import MetricInputs

logger = logging.getLogger(__name__)

LPIPS_CAP = 1.0
"""LPIPS has no greatest value (unrelated photos: 0.7); cut here, a failed render has a score."""
_PIXEL_METRICS = ("psnr", "ssim", "mse", "lpips")
_PAIRS_AT_ONCE = 16
"""Decoded at a time: photos of 2 megapixels then take 200 MB."""

_METRICS_OF = {
    "clip": ("clip_image_image", "clip_text_image"),
    "dinov2": ("dino_image_image",),
    "lpips": ("lpips",),
}
"""Metrics that are unscored where an encoder raises."""

Column = list[float | None]
"""One score per item; NaN = unscored, None = the render failed."""


def render_scores(inputs: "MetricInputs", *, name: str, worst: float) -> list[float]:
    """Return the scores of one metric; the first call for a set computes all possible metrics.

    ``worst`` is the score of an item without a readable render. NaN where there is no readable real
    image (title, for ``clip_text_image``), and everywhere without encoder or renders.
    """
    if not inputs.rendered_images:
        return unscored(inputs)
    if inputs.read_image is None and name in _PIXEL_METRICS:
        raise ValueError(f"{name} needs MetricInputs.read_image; pass grpo_mmpc.encoders.images.open_image")
    total = len(inputs.predictions)
    starts = range(0, total, _PAIRS_AT_ONCE)
    pieces = (_score_some(inputs, range(start, min(total, start + _PAIRS_AT_ONCE))) for start in starts)
    return [worst if score is None else score for score in shared_column(inputs, name, memo="renders", pieces=pieces)]


def shared_column(
    inputs: "MetricInputs", name: str, *, memo: str, pieces: "Iterable[dict[str, dict[int, float | None]]]"
) -> Column:
    """Return the scores of one metric out of those that all metrics of a kind compute in one pass.

    The set keeps all columns under ``memo``; ``pieces`` are scores by metric and position.
    """
    if memo not in inputs.memo:
        columns: dict[str, Column] = {}
        for piece in pieces:
            for metric, scores in piece.items():
                column = columns.setdefault(metric, [*unscored(inputs)])
                for position, score in scores.items():
                    column[position] = score
        for encoder in inputs.failures:
            for metric in _METRICS_OF.get(encoder, ()):
                columns.pop(metric, None)
        inputs.memo[memo] = columns
    shared: Column = inputs.memo[memo].get(name, unscored(inputs))
    return shared


def open_source(inputs: "MetricInputs", path: str | None, *, failing: str) -> "ImageSource | None":
    """Open an image, or return its path where the set has no reader; None for no readable image."""
    if path is None or inputs.read_image is None:
        return path
    try:
        return OpenedImage(path, inputs.read_image(path))
    except ImageError as error:
        logger.warning("%s: %s", failing, error)
        return None


def _score_some(inputs: "MetricInputs", positions: Sequence[int]) -> dict[str, dict[int, float | None]]:
    renders = _open_all(inputs, inputs.rendered_images, positions, failing="a render cannot be read and scores worst")
    reals = _open_all(inputs, inputs.real_images, positions, failing="image metrics leave an item unscored")
    titles = {i: title for i in positions if (title := inputs.references[i]) is not None and title.strip()}
    scores: dict[str, dict[int, float | None]] = {}

    pairs = [i for i in reals if i in renders]
    first, second = [renders[i] for i in pairs], [reals[i] for i in pairs]
    if inputs.read_image is not None:
        for name, column in _pixel_scores(inputs, first, second).items():
            scores[name] = _place(reals, pairs, column)
    titled = [i for i in titles if i in renders]
    shown, texts = [renders[i] for i in titled], [titles[i] for i in titled]
    clip, dino, inception = inputs.clip, inputs.dino, inputs.inception
    both = {"image_paths": first, "other_paths": second}

    def add(
        name: str, encoder: str, score: Callable[[], list[float]], targets: Mapping[int, object], of: Sequence[int]
    ) -> None:
        cosines = shielded(inputs, encoder, score) if of else []
        if cosines is not None:
            scores[name] = _place(targets, of, cosines)

    if clip is not None:
        add("clip_image_image", "clip", lambda: clip.image_image(**both), reals, pairs)
        add("clip_text_image", "clip", lambda: clip.image_text(image_paths=shown, texts=texts), titles, titled)
    if dino is not None:
        add("dino_image_image", "dinov2", lambda: dino.image_image(**both), reals, pairs)
    if inception is not None and pairs:
        # held by the encoder until FID and KID ask for whole sets
        shielded(inputs, "inception", lambda: inception.features([*first, *second]))
    return scores


def _open_all(
    inputs: "MetricInputs", paths: Sequence[str | None], positions: Sequence[int], *, failing: str
) -> dict[int, ImageSource]:
    if not paths:
        return {}
    opened = {i: open_source(inputs, paths[i], failing=failing) for i in positions}
    return {i: source for i, source in opened.items() if source is not None}


def _place(targets: Mapping[int, object], positions: Sequence[int], scores: Sequence[float]) -> dict[int, float | None]:
    return dict.fromkeys(targets) | dict(zip(positions, scores, strict=True))


def _pixel_scores(
    inputs: "MetricInputs", renders: Sequence[ImageSource], reals: Sequence[ImageSource]
) -> dict[str, list[float]]:
    predictions, references = _squares(renders), _squares(reals)  # [N, S, S, 3]
    errors = image.mse(predictions=predictions, references=references).tolist()
    scores = {
        "psnr": [image.psnr(error) for error in errors],
        # A negative of the truth is no better than a failed render.
        "ssim": [max(0.0, image.ssim(prediction=p, reference=r)) for p, r in zip(predictions, references, strict=True)],
        "mse": errors,
    }
    network = inputs.lpips
    if network is not None:
        pairs = {"predictions": predictions, "references": references}
        distances = shielded(inputs, "lpips", lambda: network.distances(**pairs))
        if distances is not None:
            scores["lpips"] = [min(LPIPS_CAP, distance) for distance in distances]
    return scores


def _squares(sources: Sequence[ImageSource]) -> "NDArray[np.uint8]":
    import numpy as np  # heavy: imported on use

    size = image.COMPARED_SIZE_PX
    squares = np.empty((len(sources), size, size, 3), dtype=np.uint8)
    for square, source in zip(squares, sources, strict=True):
        assert isinstance(source, OpenedImage)
        square[:] = np.asarray(image.letterbox(source.image))
    return squares
