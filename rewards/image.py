"""Rewards that look at the product's real image."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from grpo_mmpc.encoders.clip import clip_encoder
from grpo_mmpc.encoders.dinov2 import dinov2_encoder
from grpo_mmpc.encoders.loading import pick_dtype
from grpo_mmpc.errors import RewardError

from .declaration import Reward
from .rendered import find_renderer, rendered_cosines, shared_renders

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
    """CLIP cosine of the product's real image and what the policy wrote, or what its prompt draws.

    In image_to_text the real image is compared with the predicted title. In text_to_image it is
    compared with the prompt text, or with the image that a renderer draws from it. An item without
    a readable image is unscored.

    Range: [floor, 1], as CLIPScore (Hessel et al. 2021) cuts negative cosines at 0. Scales differ
        by model and by pairing:
    OpenAI's CLIP gives about 0.15 to 0.35 for image and text, 0.5 to 1.0 for two product images.
    Normalise rewards one by one when mixing it with others.

    Needs: the real image; the encoder, loaded on the first call and shared with the CLIP metrics; a
        renderer if asked.
    Cost: 40 ms for 64 new texts and 110 ms for 64 new images with the nano CLIP; 32 ms for 64
        renders with the nano renderer,
    which are 64 new images.

    Gamed by: strings of visible nouns and adjectives, and text that CLIP likes whatever the image;
    only the first 77 tokens of a text are read, so whatever follows is free. It cannot count and
    reads no brand.

    Args:
        model: Hub name, local folder or ``nano:clip``.
        against: ``text`` or ``rendered_image`` (text_to_image only; image_to_text keeps ``text``).
        renderer: ``nano``, ``diffusers`` or ``module:factory``, for ``rendered_image``. All
            completions of an item are rendered with the same seed; rewards that name the same
            renderer share it and its pictures.
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
    _check_floor(floor)
    pick_dtype(dtype)
    if (against == "rendered_image") != (renderer is not None) or (renderer_kwargs and renderer is None):
        raise RewardError(
            "against: rendered_image and renderer: NAME (with its renderer_kwargs) belong together; "
            f"found against={against!r}, renderer={renderer!r}, renderer_kwargs={renderer_kwargs!r}"
        )
    options = renderer_kwargs or {}
    if renderer is not None:
        find_renderer(renderer, options)

    def score(
        *,
        predictions: list[str],
        image_paths: list[str | None],
        tasks: list[str],
        item_ids: list[str],
        **_columns: list[Any],
    ) -> list[float | None]:
        encoder = clip_encoder(model=model, device=device, dtype=dtype)
        cosines = [math.nan] * len(predictions)
        rows = [(i, path) for i, path in enumerate(image_paths) if path is not None]
        if renderer is not None:
            drawn = [(i, path) for i, path in rows if tasks[i] == "text_to_image"]
            rows = [(i, path) for i, path in rows if tasks[i] != "text_to_image"]
            scores = rendered_cosines(
                encoder,
                shared_renders(renderer, options),
                prompts=[predictions[i] for i, _ in drawn],
                real_paths=[path for _, path in drawn],
                item_ids=[item_ids[i] for i, _ in drawn],
            )
            for (i, _), cosine in zip(drawn, scores, strict=True):
                cosines[i] = cosine
        texts = [predictions[i] for i, _ in rows]
        for (i, _), cosine in zip(
            rows, encoder.image_text(image_paths=[path for _, path in rows], texts=texts), strict=True
        ):
            cosines[i] = cosine
        return _above_floor(cosines, floor=floor, what=model)

    def prepare(*, image_paths: list[str | None], **_columns: list[Any]) -> None:
        if paths := _distinct(image_paths):
            clip_encoder(model=model, device=device, dtype=dtype).embed_images(paths)

    return Reward(
        score=score,
        value_range=(floor, 1.0),
        worst_score=floor,
        needs=("image", "encoder") if renderer is None else ("image", "encoder", "renderer"),
        prepare=prepare,
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
    """DINOv2 cosine of the product's real image and the image that its prompt draws.

    Trained on images alone, DINOv2 sees the shape, material and arrangement that CLIP's captions do
    not tell apart. An item without a readable image is unscored.

    Range: [floor, 1]. Needs: the real image; the encoder, shared with the DINOv2 metric; a
        renderer. Cost: 35 s for 64 new
    images with dinov2-base on the CPU, so use a GPU; 32 ms for 64 renders with the nano renderer.
    Real images are encoded once.

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
    _check_floor(floor)
    pick_dtype(dtype)
    options = renderer_kwargs or {}
    find_renderer(renderer, options)

    def score(
        *, predictions: list[str], image_paths: list[str | None], item_ids: list[str], **_columns: list[Any]
    ) -> list[float | None]:
        rows = [(i, path) for i, path in enumerate(image_paths) if path is not None]
        cosines = [math.nan] * len(predictions)
        if rows:
            scores = rendered_cosines(
                dinov2_encoder(model=model, device=device, dtype=dtype),
                shared_renders(renderer, options),
                prompts=[predictions[i] for i, _ in rows],
                real_paths=[path for _, path in rows],
                item_ids=[item_ids[i] for i, _ in rows],
            )
            for (i, _), cosine in zip(rows, scores, strict=True):
                cosines[i] = cosine
        return _above_floor(cosines, floor=floor, what=model)

    def prepare(*, image_paths: list[str | None], **_columns: list[Any]) -> None:
        if paths := _distinct(image_paths):
            dinov2_encoder(model=model, device=device, dtype=dtype).image_image(image_paths=paths, other_paths=paths)

    return Reward(
        score=score,
        value_range=(floor, 1.0),
        tasks=("text_to_image",),
        worst_score=floor,
        needs=("image", "encoder", "renderer"),
        prepare=prepare,
    )


def _check_floor(floor: float) -> None:
    if not -1.0 <= floor < 1.0:
        raise RewardError(f"floor must lie in [-1, 1), found {floor}")


def _distinct(paths: Sequence[str | None]) -> list[str]:
    return list(dict.fromkeys(path for path in paths if path is not None))


def _above_floor(cosines: Sequence[float], *, floor: float, what: str) -> list[float | None]:
    """Rewards from cosines; NaN becomes None.

    Says once per model that the floor hides most of what the encoder sees: such a reward looks
    alive and teaches nothing.
    """
    scored = [cosine for cosine in cosines if not math.isnan(cosine)]
    cut = sum(cosine < floor for cosine in scored)
    if 2 * cut > len(scored) and (what, floor) not in _warned:
        _warned.add((what, floor))
        logger.warning(
            "%d of %d cosines of %s lie below floor=%g and give no signal; set floor: -1 for this encoder",
            cut,
            len(scored),
            what,
            floor,
        )
    return [None if math.isnan(cosine) else max(floor, cosine) for cosine in cosines]
