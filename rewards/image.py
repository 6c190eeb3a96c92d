"""Rewards that look at the product's real image with CLIP."""

import hashlib
import importlib
import importlib.util
import logging
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from grpo_mmpc.errors import RewardError
from grpo_mmpc.scoring.clip import ClipEncoder, clip_encoder
from rewards.declaration import Reward

logger = logging.getLogger(__name__)

AGAINST = ("text", "rendered_image")
_warned: set[tuple[str, float]] = set()


def clip_similarity(
    *,
    model: str = "openai/clip-vit-base-patch32",
    against: str = "text",
    renderer: str | None = None,
    floor: float = 0.0,
    device: str | None = None,
) -> Reward:
    """CLIP cosine of the product's real image and what the policy wrote, or what its prompt draws.

    In image_to_text the real image is compared with the predicted title. In text_to_image it is compared with the prompt
    text, or with the image that a renderer draws from it. An item without a readable image is unscored.

    Range [floor, 1], as CLIPScore (Hessel et al. 2021) cuts negative cosines at 0. Scales differ by model and by pairing:
    OpenAI's CLIP gives about 0.15 to 0.35 for image and text, 0.5 to 1.0 for two product images. Normalise rewards one by
    one when mixing it with others.

    Needs the encoder, loaded on the first call and shared with the CLIP metrics. Cost: one image pass an item (cached),
    one text pass for each new text; with a renderer, one drawing and one image pass for each new prompt. Gamed by:
    strings of visible nouns and adjectives, and text that CLIP likes whatever the image; only the first 77 tokens of a text
    are read, so whatever follows is free. It cannot count and reads no brand.

    Args:
        model: Hub name, local folder or ``nano:clip``.
        against: ``text`` or ``rendered_image`` (text_to_image only; image_to_text keeps ``text``).
        renderer: ``module:factory`` of a renderer, for ``rendered_image``; the factory is called without arguments. All
            completions of an item are rendered with the same seed.
        floor: Least reward, for lower cosines, failed renders and malformed completions. OpenAI's CLIP gives no negative
            cosines, so 0 cuts nothing; set -1 for an encoder that does, such as ``nano:clip``, or low cosines are lost (a
            log line says so once most of a batch is cut).
        device: Where the encoder lives; None takes this process's GPU if there is one.

    Raises:
        RewardError: Unknown ``against``, a renderer missing or not needed, or a floor outside [-1, 1).
    """
    if against not in AGAINST:
        raise RewardError(f"against must be one of {', '.join(AGAINST)}, found {against!r}")
    if not -1.0 <= floor < 1.0:
        raise RewardError(f"floor must lie in [-1, 1), found {floor}")
    if (against == "rendered_image") != (renderer is not None):
        raise RewardError(
            "against: rendered_image and renderer: module:factory belong together; "
            f"found against={against!r}, renderer={renderer!r}"
        )
    if renderer is not None:
        _check_renderer(renderer)

    def score(
        *,
        predictions: list[str],
        image_paths: list[str | None],
        tasks: list[str],
        item_ids: list[str],
        **_columns: list[Any],
    ) -> list[float | None]:
        encoder = clip_encoder(model=model, device=device)
        cosines = [math.nan] * len(predictions)
        rows = [(i, path) for i, path in enumerate(image_paths) if path is not None]
        if renderer is not None:
            drawn = [(i, path) for i, path in rows if tasks[i] == "text_to_image"]
            rows = [(i, path) for i, path in rows if tasks[i] != "text_to_image"]
            scores = _rendered_cosines(
                encoder,
                renderer=renderer,
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
        _warn_of_cut_scores(cosines, model=model, floor=floor)
        return [None if math.isnan(cosine) else max(floor, cosine) for cosine in cosines]

    return Reward(score=score, value_range=(floor, 1.0), worst_score=floor)


def _warn_of_cut_scores(cosines: Sequence[float], *, model: str, floor: float) -> None:
    """Say once per model that the floor hides most of what the encoder sees: such a reward looks alive and teaches nothing."""
    scored = [cosine for cosine in cosines if not math.isnan(cosine)]
    cut = sum(cosine < floor for cosine in scored)
    if 2 * cut > len(scored) and (model, floor) not in _warned:
        _warned.add((model, floor))
        logger.warning(
            "clip_similarity: %d of %d cosines of %s lie below floor=%g and give no signal; set floor: -1 for this encoder",
            cut,
            len(scored),
            model,
            floor,
        )


def _rendered_cosines(
    encoder: ClipEncoder, *, renderer: str, prompts: Sequence[str], real_paths: Sequence[str], item_ids: Sequence[str]
) -> list[float]:
    """Cosines of real images and renders; -1 where nothing was rendered, NaN where the real image cannot be read."""
    if not prompts:
        return []
    requests = list(zip(prompts, map(_seed, item_ids), strict=True))
    distinct = list(dict.fromkeys(requests))
    images = _build_renderer(renderer).render([prompt for prompt, _ in distinct], seeds=[seed for _, seed in distinct])
    rendered = dict(zip(distinct, images, strict=True))
    # Where nothing was rendered the real image is compared with itself, which tells whether it can be read at all.
    drawn = [rendered[request] for request in requests]
    others = [path if image is None else image for image, path in zip(drawn, real_paths, strict=True)]
    cosines = encoder.image_image(image_paths=real_paths, other_paths=others)
    return [
        -1.0 if image is None and not math.isnan(cosine) else cosine
        for image, cosine in zip(drawn, cosines, strict=True)
    ]


def _seed(item_id: str) -> int:
    """One seed for all completions of an item: they compete by their prompts, not by the luck of the draw."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=4).digest())


def _check_renderer(reference: str) -> None:
    """Find fault with a renderer reference before anything expensive happens, without importing the renderer."""
    module, separator, factory = reference.partition(":")
    try:
        found = bool(separator and factory) and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing; the name is not a module's
        found = False
    if not found:
        raise RewardError(
            f"renderer {reference!r} is not module:factory with a module that can be imported; "
            "for example grpo_mmpc.rendering.nano:NanoRenderer"
        )


@cache
def _build_renderer(reference: str) -> Any:
    module, _, factory = reference.partition(":")
    build = getattr(importlib.import_module(module), factory, None)
    if not callable(build):
        raise RewardError(f"renderer {reference!r}: {module} has no {factory!r}")
    return build()
