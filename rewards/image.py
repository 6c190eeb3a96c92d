"""Rewards that look at the product's real image."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpo_mmpc.encoders.clip import clip_encoder
from grpo_mmpc.encoders.dinov2 import dinov2_encoder
from grpo_mmpc.encoders.loading import pick_dtype
from grpo_mmpc.errors import EvaluationError, RewardError
from grpo_mmpc.rendering.registry import check_renderer
from grpo_mmpc.rendering.shared import shared_renders
from grpo_mmpc.rendering.store import render_seed
from grpo_mmpc.rewards.declaration import Reward
from grpo_mmpc.types import TargetKind

logger = logging.getLogger(__name__)

AGAINST = ("text", "rendered_image")
_warned: set[tuple[str, float]] = set()


def clip_similarity(
    *,
    model: str = "openai/clip-vit-base-patch32",
    against: str = "text",
    renderer: str | None = None,
    renderer_kwargs: dict[str, Any] | None = None,
    floor: float = 0.0,
    device: str | None = None,
    dtype: str = "float32",
) -> Reward:
    """The CLIP cosine of the real image and the policy's text, or the image rendered from it.

    In image_to_text the real image is compared with the predicted title. In text_to_image it is
    compared with the prompt text, or with the image that a renderer makes of it. An item without a
    readable image is unscored.

    Range: [floor, 1], as CLIPScore (Hessel et al. 2021) cuts negative cosines at 0. Scales differ
    by model and by pairing: OpenAI's CLIP gives about 0.15 to 0.35 for image and text, 0.5 to 1.0
    for two product images. Normalise rewards one by one when mixing it with others.

    Needs: the real image; the encoder, loaded on the first call and shared with the CLIP metrics; a
    renderer if asked. Cost: 40 ms for 64 new texts and 110 ms for 64 new images with the nano CLIP;
    32 ms for 64 renders with the nano renderer, which are 64 new images.

    Gamed by: strings of visible nouns and adjectives, and text that CLIP likes whatever the image;
    only the first 77 tokens of a text are read, so whatever follows is free. It cannot count and
    reads no brand.

    Args:
        model: Hub name, local folder or ``nano:clip``.
        against: ``text`` or ``rendered_image`` (text_to_image only; image_to_text keeps ``text``).
        renderer: ``nano``, ``diffusers``, ``images_api`` or ``module:factory``, for
            ``rendered_image``. All
            completions of an item are rendered with the same seed; rewards that name the same
            renderer share it and its images.
        renderer_kwargs: Arguments of the renderer's factory, for instance ``{"device": "cuda:1"}``.
        floor: Least reward, for lower cosines, failed renders and malformed completions. OpenAI's
            CLIP gives no negative cosines, so 0 cuts nothing; set -1 for an encoder that does, such
            as ``nano:clip``, or low cosines are lost (a log line says so once most of a batch is
            cut).
        device: Where the encoder lives; None takes this process's GPU if there is one.
        dtype: Its precision: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        RewardError: Unknown ``against``, a renderer missing, not needed or not found, or a floor
            outside [-1, 1).
    """
    if against not in AGAINST:
        raise RewardError(f"against must be one of {', '.join(AGAINST)}, found {against!r}")
    if (against == "rendered_image") != (renderer is not None) or (renderer_kwargs and renderer is None):
        raise RewardError(
            "against: rendered_image and renderer: NAME (with its renderer_kwargs) belong together; "
            f"found against={against!r}, renderer={renderer!r}, renderer_kwargs={renderer_kwargs!r}"
        )
    pick_dtype(dtype)
    encoder = partial(clip_encoder, model=model, device=device, dtype=dtype)
    return _image_reward(
        _ImageCosine(
            encoder, model, reads_text=True, renderer=renderer, renderer_kwargs=renderer_kwargs or {}, floor=floor
        ),
        targets=("text", "image"),
    )


def dinov2_similarity(
    *,
    model: str = "facebook/dinov2-base",
    renderer: str = "diffusers",
    renderer_kwargs: dict[str, Any] | None = None,
    floor: float = 0.0,
    device: str | None = None,
    dtype: str = "float32",
) -> Reward:
    """The DINOv2 cosine of the product's real image and the image rendered from its prompt.

    Trained on images alone, DINOv2 sees the shape, material and arrangement that CLIP's captions do
    not tell apart. An item without a readable image is unscored.

    Range: [floor, 1]. Needs: the real image; the encoder, shared with the DINOv2 metric; a
    renderer. Cost: 35 s for 64 new images with dinov2-base on the CPU, so use a GPU; 32 ms for 64
    renders with the nano renderer. Real images are encoded once.

    Gamed by: a background, a light and a pose like those of the other photos, whatever the product;
    it reads no text, so a wrong brand is free.

    Args:
        model: Hub name or local folder of a DINOv2.
        renderer: ``diffusers`` (the paper's protocol), ``nano`` or ``module:factory``; see
            ``clip_similarity``.
        renderer_kwargs: Arguments of the renderer's factory, for instance ``{"device": "cuda:1"}``.
        floor: Least reward, for lower cosines, failed renders and malformed completions.
        device: Where the encoder lives; None takes this process's GPU if there is one.
        dtype: Its precision: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        RewardError: The renderer is not found or refuses its arguments, or the floor lies outside
            [-1, 1).
    """
    pick_dtype(dtype)
    encoder = partial(dinov2_encoder, model=model, device=device, dtype=dtype)
    cosine = _ImageCosine(
        encoder, model, reads_text=False, renderer=renderer, renderer_kwargs=renderer_kwargs or {}, floor=floor
    )
    return _image_reward(cosine, targets=("image",))


@dataclass(frozen=True, slots=True)
class _ImageCosine:
    """The cosines of real images with texts, or with the images rendered from them."""

    encoder: Callable[[], Any]
    """The process's encoder, loaded on the first call."""
    model: str
    reads_text: bool
    """True if the encoder compares images with texts, too."""
    renderer: str | None
    renderer_kwargs: dict[str, Any]
    floor: float

    def __call__(
        self,
        *,
        predictions: list[str],
        image_paths: list[str | None],
        item_ids: list[str],
        targets: list[str] | None = None,
        **_columns: list[Any],
    ) -> list[float | None]:
        paths = {i: path for i, path in enumerate(image_paths) if path is not None}
        if not paths:
            return [None] * len(predictions)
        rendered = [] if self.renderer is None else list(paths)
        if self.reads_text and targets is not None:
            rendered = [i for i in rendered if targets[i] == "image"]
        written = [i for i in paths if i not in set(rendered)]
        cosines = [math.nan] * len(predictions)
        for i, cosine in zip(rendered, self._rendered(rendered, paths, predictions, item_ids), strict=True):
            cosines[i] = cosine
        if written:
            texts = [predictions[i] for i in written]
            scores = self.encoder().image_text(image_paths=[paths[i] for i in written], texts=texts)
            for i, cosine in zip(written, scores, strict=True):
                cosines[i] = cosine
        return _above_floor(cosines, floor=self.floor, model=self.model)

    def prepare(self, *, image_paths: list[str | None], **_columns: list[Any]) -> None:
        """Encode the real images."""
        if paths := list(dict.fromkeys(path for path in image_paths if path is not None)):
            self.encoder().image_image(image_paths=paths, other_paths=paths)

    def _rendered(
        self, rows: list[int], paths: dict[int, str], predictions: list[str], item_ids: list[str]
    ) -> list[float]:
        """Return cosines with renders: -1 without a render, NaN without a readable real image."""
        if not rows or self.renderer is None:
            return []
        images = shared_renders(self.renderer, self.renderer_kwargs).images(
            [predictions[i] for i in rows], seeds=[render_seed(item_ids[i]) for i in rows]
        )
        real = [paths[i] for i in rows]
        # Where nothing was rendered the real image is compared with itself, which tells whether it
        # can be read at all.
        others = [path if image is None else image for image, path in zip(images, real, strict=True)]
        cosines = self.encoder().image_image(image_paths=real, other_paths=others)
        return [
            -1.0 if image is None and not math.isnan(cosine) else cosine
            for image, cosine in zip(images, cosines, strict=True)
        ]


def _image_reward(cosine: _ImageCosine, *, targets: tuple[TargetKind, ...]) -> Reward:
    if not -1.0 <= cosine.floor < 1.0:
        raise RewardError(f"floor must lie in [-1, 1), found {cosine.floor}")
    needs = ["image", "encoder"]
    if cosine.renderer is None and not cosine.reads_text:
        raise RewardError("a renderer is needed: nano, diffusers, images_api or module:factory; found none")
    if cosine.renderer is not None:
        needs.append("renderer")
        refuse_renderer(cosine.renderer, cosine.renderer_kwargs)
    return Reward(
        score=cosine,
        value_range=(cosine.floor, 1.0),
        targets=targets,
        worst_score=cosine.floor,
        needs=tuple(needs),
        prepare=cosine.prepare,
    )


def refuse_renderer(renderer: str, renderer_kwargs: Mapping[str, Any]) -> None:
    """Refuse a renderer that is not found or refuses its arguments.

    Raises:
        RewardError: It cannot be used.
    """
    try:
        check_renderer(renderer, renderer_kwargs)
    except EvaluationError as error:
        raise RewardError(str(error)) from error


def _above_floor(cosines: Sequence[float], *, floor: float, model: str) -> list[float | None]:
    """Return rewards from cosines; NaN becomes None.

    Says once per model that the floor hides most of what the encoder sees: such a reward looks
    alive and teaches nothing.
    """
    scored = [cosine for cosine in cosines if not math.isnan(cosine)]
    cut = sum(cosine < floor for cosine in scored)
    if 2 * cut > len(scored) and (model, floor) not in _warned:
        _warned.add((model, floor))
        logger.warning(
            "%d of %d cosines of %s lie below floor=%g and give no signal; set floor: -1 for this encoder",
            *(cut, len(scored), model, floor),
        )
    return [None if math.isnan(cosine) else max(floor, cosine) for cosine in cosines]
