"""The encoding of titles and images for recommenders; encodings are kept on disk by content."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from grpo_mmpc.errors import RecBenchError, ScoringError
from grpo_mmpc.recbench.records import Flags, Floats, Modality, Mode
from grpo_mmpc.recbench.settings import ImageEncoderSection, RecBenchSection, TextEncoderSection
from grpo_mmpc.utils.console import Progress

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED_IMAGE_MODEL = "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
"""The one that timm means by ``vit_base_patch16_224`` alone, the name in MMPCBench's code."""
OFFLINE_IMAGE_MODEL = "nano:clip"
"""The encoder of images that comes with the toolkit."""

# A killed job loses one piece at most.
_TEXTS_PER_PIECE, _IMAGES_PER_PIECE = 1024, 256


def text_features(
    texts: Sequence[str | None], encoder: TextEncoderSection, *, progress: Progress | None = None
) -> Floats:
    """Encode N texts as unit vectors.

    Returns:
        ``[N, D]``, D = 384 for all-MiniLM-L6-v2; NaN for None and blank texts (see
        ``rows_without_vector``).

    Raises:
        ScoringError: Unknown device or precision, or the encoder cannot be loaded.
    """
    encode = _text_encoder(encoder)
    given = [None if text is None or not text.strip() else text for text in texts]
    return _in_pieces(given, encode, size=_TEXTS_PER_PIECE, what="encoding texts", progress=progress)


def image_features(
    paths: Sequence[str | Path | None],
    encoder: ImageEncoderSection,
    *,
    mode: Mode = "corrected",
    progress: Progress | None = None,
) -> Floats:
    """Encode N images: class tokens of a vision transformer, or unit embeddings of nano CLIP.

    Args:
        paths: Image files; None has no vector.
        encoder: Model, device and precision.
        mode: ``corrected`` prepares images as the checkpoint expects them. ``paper`` squashes them
            to its input size and takes ImageNet's mean and standard deviation, which the published
            checkpoint does not expect; ``nano:clip``, which is no part of the paper, takes its own
            in both modes.
        progress: Told of every piece.

    Returns:
        ``[N, D]``, D = 768 for ViT-B; NaN for None and for images that cannot be read, each of
        which a log line names.

    Raises:
        RecBenchError: The encoder is an embedded model that sees no images.
        ScoringError: timm is not installed, unknown device or precision, or the encoder cannot be
            loaded.
    """
    encode = _image_encoder(encoder, mode=mode)
    given = [None if path is None else str(path) for path in paths]
    return _in_pieces(given, encode, size=_IMAGES_PER_PIECE, what="encoding images", progress=progress)


def encoder_problems(settings: RecBenchSection) -> list[str]:
    """Load the encoders that a benchmark needs, and say what is wrong with each."""
    loaders: dict[Modality, Callable[[], object]] = {
        "text": lambda: _text_encoder(settings.encoders.text),
        "image": lambda: _image_encoder(settings.encoders.image, mode=settings.mode),
    }
    problems = []
    for modality, load in loaders.items():
        if modality in settings.encoded:
            try:
                load()
            except (ScoringError, RecBenchError) as error:
                problems.append(f"encoders.{modality}: {error}")
    return problems


def _text_encoder(encoder: TextEncoderSection) -> "Callable[[list[str]], Tensor]":
    from grpo_mmpc.encoders.sentence import sentence_encoder  # heavy: imported on use

    return partial(sentence_encoder(**encoder.model_dump()).encode, keep=True)


def _image_encoder(encoder: ImageEncoderSection, *, mode: Mode) -> "Callable[[list[str]], Tensor]":
    from grpo_mmpc.encoders.clip import clip_encoder  # heavy: imported on use
    from grpo_mmpc.encoders.vit import vit_encoder

    if encoder.model == OFFLINE_IMAGE_MODEL:
        return clip_encoder(**encoder.model_dump()).embed_images
    if encoder.model.startswith("nano:"):
        raise RecBenchError(
            f"{encoder.model} is no encoder of images; give {OFFLINE_IMAGE_MODEL}, or a hub name or folder of a timm "
            f"checkpoint such as {PUBLISHED_IMAGE_MODEL}"
        )
    preprocessing: Literal["checkpoint", "squashed"] = "squashed" if mode == "paper" else "checkpoint"
    return vit_encoder(preprocessing=preprocessing, **encoder.model_dump()).embed_images


def _in_pieces(
    given: Sequence[str | None],
    encode: "Callable[[list[str]], Tensor]",
    *,
    size: int,
    what: str,
    progress: Progress | None,
) -> Floats:
    """Encode what is not None, ``[N, D]``, in pieces that reach the disk one by one."""
    there = [position for position, one in enumerate(given) if one is not None]
    values = np.full((len(given), encode([]).shape[1]), np.nan, dtype=np.float32)
    for start in range(0, len(there), size):
        piece = there[start : start + size]
        values[piece] = encode([str(given[position]) for position in piece]).numpy()
        if progress is not None:
            progress(what, start + len(piece), len(there))
    return values


def rows_without_vector(values: Floats) -> Flags:
    """Return the items that the encoder gave no vector, ``[N]``: rows of NaN."""
    return np.asarray(np.isnan(values).all(axis=1))
