"""Turn image prompts into pictures."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image


class Renderer(Protocol):
    """Anything that turns prompts into pictures: a diffusion model, or the nano renderer."""

    def render(self, prompts: list[str], *, seeds: list[int]) -> "list[Image | None]":
        """Render every prompt.

        Args:
            prompts: N image prompts.
            seeds: N seeds; one prompt and seed give one picture.

        Returns:
            N RGB pictures in the order of the prompts; None where a prompt could not be rendered, which scores worst.
        """
        ...
