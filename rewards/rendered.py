"""Pictures of image prompts for rewards: each (prompt, seed) is rendered once, whichever rewards look at it."""

import hashlib
import importlib
import inspect
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.cache import EncodingCache
from grpo_mmpc.errors import RewardError
from grpo_mmpc.metrics.image import DinoScorer

if TYPE_CHECKING:
    from PIL.Image import Image

SHORT_NAMES = {
    "nano": "grpo_mmpc.nano.renderer:NanoRenderer",
    "diffusers": "grpo_mmpc.rendering.diffusers:DiffusersRenderer",
}
"""The names that the evaluation knows, too."""
_HELD_BYTES = 512 * 2**20  # 170 pictures of 1024 pixels: what two rewards see of one batch

_shared: dict[tuple[str, str], "Renders"] = {}
_sharing = threading.Lock()


class Renders:
    """A renderer with the pictures it drew, the most recently used ones of a bounded number of bytes.

    One thread at a time draws: a second reward that wants the same pictures waits, and finds them.
    """

    def __init__(self, renderer: Any, *, max_bytes: int = _HELD_BYTES) -> None:
        self._renderer = renderer
        self._drawing = threading.Lock()
        # In a tuple, because a failed render is known, too.
        self._held: EncodingCache[tuple[str, int], tuple[Image | None]] = EncodingCache(max_bytes=max_bytes)

    def of(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> "list[Image | None]":
        """Pictures of N prompts; None where one could not be rendered. What is not held is rendered in one call.

        Raises:
            RewardError: The renderer did not give one picture or None for each prompt.
        """
        requests = list(zip(prompts, seeds, strict=True))
        found: dict[tuple[str, int], Image | None] = {}
        with self._drawing:
            missing = []
            for request in dict.fromkeys(requests):
                held = self._held.get(request)
                if held is None:
                    missing.append(request)
                else:
                    (found[request],) = held
            for request, image in zip(missing, self._draw(missing), strict=True):
                found[request] = image
                self._held.put(request, (image,), num_bytes=_num_bytes(image))
        return [found[request] for request in requests]

    def _draw(self, requests: list[tuple[str, int]]) -> "list[Image | None]":
        if not requests:
            return []
        from PIL.Image import Image  # heavy: imported on use

        images = list(self._renderer.render([prompt for prompt, _ in requests], seeds=[seed for _, seed in requests]))
        kind = type(self._renderer).__name__
        if len(images) != len(requests):
            raise RewardError(f"renderer {kind} gave {len(images)} pictures for {len(requests)} prompts")
        for image in images:
            if image is not None and not isinstance(image, Image):
                raise RewardError(f"renderer {kind} gave a {type(image).__name__}; expected a PIL image or None")
        return images


def rendered_cosines(
    encoder: DinoScorer,
    renders: Renders,
    *,
    prompts: Sequence[str],
    real_paths: Sequence[str],
    item_ids: Sequence[str],
) -> list[float]:
    """Cosines of real images and renders; -1 where nothing was rendered, NaN where the real image cannot be read."""
    if not prompts:
        return []
    images = renders.of(prompts, seeds=[render_seed(item_id) for item_id in item_ids])
    # Where nothing was rendered the real image is compared with itself, which tells whether it can
    # be read at all.
    others = [path if image is None else image for image, path in zip(images, real_paths, strict=True)]
    cosines = encoder.image_image(image_paths=real_paths, other_paths=others)
    return [
        -1.0 if image is None and not math.isnan(cosine) else cosine
        for image, cosine in zip(images, cosines, strict=True)
    ]


def render_seed(item_id: str) -> int:
    """The evaluation's seed of an item, for all its completions: they compete by prompts, not by the luck of the draw."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=4).digest()) >> 1


def shared_renders(reference: str, kwargs: Mapping[str, Any]) -> Renders:
    """The process's one ``Renders`` of a renderer and its arguments; the renderer is built when first asked for."""
    key = SHORT_NAMES.get(reference, reference), json.dumps(kwargs, sort_keys=True, default=str)
    with _sharing:
        if key not in _shared:
            _shared[key] = Renders(find_renderer(reference, kwargs)(**kwargs))
        return _shared[key]


def find_renderer(reference: str, kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """The factory of a renderer, known to exist and to take the arguments; no model is loaded.

    Raises:
        RewardError: The reference is neither a short name nor a ``module:factory`` that can be
            imported, or the factory does not take the arguments.
    """
    module, _, attribute = SHORT_NAMES.get(reference, reference).partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute, None) if module and attribute else None
    except (ImportError, ValueError) as error:  # ValueError: not a module's name
        raise RewardError(f"renderer {reference!r}: {module} cannot be imported: {error}") from error
    if not callable(factory):
        raise RewardError(
            f"renderer {reference!r} is neither {' nor '.join(SHORT_NAMES)} nor module:factory of a function or class; "
            "for example my_renderers:Sketches"
        )
    signature = inspect.signature(factory)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise RewardError(f"renderer {reference!r} takes {signature}; {error} in renderer_kwargs") from error
    return factory  # type: ignore[no-any-return]


def _num_bytes(image: "Image | None") -> int:
    return 0 if image is None else image.width * image.height * len(image.getbands())
