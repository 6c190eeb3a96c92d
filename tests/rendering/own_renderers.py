"""Renderers as a user would bring them."""

import hashlib
from typing import TYPE_CHECKING, cast

from PIL import Image

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer


def image_of(prompt, seed):
    """A image that shows which prompt and seed it is of."""
    return Image.frombytes("RGB", (2, 2), hashlib.blake2b(f"{seed}:{prompt}".encode(), digest_size=12).digest())


class PlainRenderer:
    """Has ``render`` and nothing else; declines empty prompts."""

    def __init__(self, size=2, *, style="plain"):
        self.size, self.style = size, style

    def render(self, prompts, *, seeds):
        return [image_of(p, s) if p.strip() else None for p, s in zip(prompts, seeds, strict=True)]


def needs_a_style(*, style) -> PlainRenderer:
    return PlainRenderer(style=style)


def takes_anything(**options) -> "Renderer":
    return PlainRenderer(**options)


def no_renderer() -> "Renderer":
    return cast("Renderer", "a image")  # breaks its promise


NOT_CALLABLE = 3
