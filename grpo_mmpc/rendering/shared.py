"""The images of prompts that several readers of one process share: each is rendered once."""

import json
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.cache import EncodingCache
from grpo_mmpc.rendering.registry import RENDERERS, load_renderer
from grpo_mmpc.rendering.renderer import render
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from PIL.Image import Image

    from grpo_mmpc.rendering.renderer import Renderer

_HELD_BYTES = 512 * 2**20  # 170 images of 1024 pixels: what two rewards see of one batch

_shared: dict[tuple[str, str], "Renders"] = {}
_sharing = threading.Lock()


class Renders:
    """A renderer with its most recently used images, up to a number of bytes.

    One thread at a time renders: a second reader of the same images waits, and finds them.
    """

    def __init__(self, renderer: "Renderer", *, max_bytes: int = _HELD_BYTES) -> None:
        self._renderer = renderer
        self._rendering = threading.Lock()
        # In a tuple, because a failed render is known, too.
        self._held: EncodingCache[tuple[str, int], tuple[Image | None]] = EncodingCache(max_bytes=max_bytes)

    def images(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> "list[Image | None]":
        """Return the images of N prompts, None where rendering failed; new ones in one call.

        Raises:
            EvaluationError: See ``renderer.render``.
        """
        requests = list(zip(prompts, seeds, strict=True))
        known: dict[tuple[str, int], Image | None] = {}
        with self._rendering:
            missing = []
            for request in dict.fromkeys(requests):
                held = self._held.get(request)
                if held is None:
                    missing.append(request)
                else:
                    (known[request],) = held
            if missing:
                new_prompts, new_seeds = [list(part) for part in zip(*missing, strict=True)]
                for request, result in zip(missing, render(self._renderer, new_prompts, seeds=new_seeds), strict=True):
                    image = None if isinstance(result, Failure) else result
                    known[request] = image
                    self._held.put(request, (image,), num_bytes=_num_bytes(image))
        return [known[request] for request in requests]


def shared_renders(reference: str, kwargs: Mapping[str, Any]) -> Renders:
    """Return the process's ``Renders`` of a renderer and its arguments, built on first use."""
    key = RENDERERS.get(reference, reference), json.dumps(kwargs, sort_keys=True, default=str)
    with _sharing:
        if key not in _shared:
            _shared[key] = Renders(load_renderer(reference, **kwargs))
        return _shared[key]


def _num_bytes(image: "Image | None") -> int:
    return 0 if image is None else image.width * image.height * len(image.getbands())
