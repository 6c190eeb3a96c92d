"""A renderer that draws the words of an image prompt that the nano catalogue knows."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


class NanoRenderer:
    """A renderer for two CPU cores: reads the attributes out of the prompt and draws them.

    Like a real text-to-image model it draws something for every prompt: what the prompt leaves open
    stays neutral, and a prompt without any product gives a blob. Only an empty prompt cannot be
    rendered. Images have ``size`` pixels a side.
    """

    def __init__(self, size: int = 84) -> None:
        self.size = size
        self.token_limit: int | None = None
        """None: every word of a prompt is read."""

    def prompt_tokens(self, prompts: list[str]) -> list[int]:
        """Count the words of N prompts."""
        return [len(prompt.split()) for prompt in prompts]

    def render(self, prompts: list[str], *, seeds: list[int]) -> "list[Image | None]":
        """Render every prompt; see ``Renderer``.

        Raises:
            ValueError: There are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"found {len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt")
        from grpo_mmpc.nano.drawing import draw  # heavy: imported on use
        from grpo_mmpc.nano.texts import read_attributes

        return [
            draw(read_attributes(prompt), jitter=seed, size=self.size) if prompt.strip() else None
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
