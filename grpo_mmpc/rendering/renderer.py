"""The protocol of everything that turns image prompts into images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from grpo_mmpc.errors import EvaluationError

if TYPE_CHECKING:
    from PIL.Image import Image


class Renderer(Protocol):
    """Turns prompts into images: a diffusion model, or the nano renderer.

    A renderer of one's own needs ``render`` only. It may also be a ``CountsTokens`` and an
    ``ExplainsFailures``; what it is not is left out of the records.
    """

    def render(self, prompts: list[str], *, seeds: list[int]) -> "list[Image | None]":
        """Render every prompt.

        Args:
            prompts: N image prompts.
            seeds: N seeds; one prompt and seed give one image, whatever else is in the batch.

        Returns:
            N RGB images in the order of the prompts; None where a prompt could not be rendered,
            which scores worst.

        Raises:
            RuntimeError: Like ``ValueError`` and ``MemoryError``, taken for the failure of single
                images: those of the batch are tried in smaller batches. Any other exception ends
                the run.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """An image, or the reason why there is none."""

    image: "Image | None" = None
    reason: str | None = None
    """The reason why there is no image; None if there is one."""
    raised: bool = False
    """True if the renderer raised, rather than declined to hand out an image."""


@runtime_checkable
class CountsTokens(Protocol):
    """A renderer that can say whether it reads a prompt to its end."""

    token_limit: int | None
    """Tokens of a prompt that the renderer reads, special ones included; None if it has no
    limit."""

    def prompt_tokens(self, prompts: list[str]) -> list[int]:
        """Count the tokens of N prompts, uncut; what exceeds ``token_limit`` is not read."""
        ...


@runtime_checkable
class ExplainsFailures(Protocol):
    """A renderer that says why an image is absent."""

    def attempt(self, prompts: list[str], *, seeds: list[int]) -> list[Rendered]:
        """Render every prompt, with a reason in the place of each None."""
        ...


def render_checked(renderer: Renderer, prompts: list[str], *, seeds: list[int]) -> "list[Image | None]":
    """Render N prompts with any renderer, and hold it to its contract.

    Raises:
        EvaluationError: It did not give one image or None for each prompt.
    """
    from PIL.Image import Image  # heavy: imported on use

    images = list(renderer.render(prompts, seeds=seeds))
    kind = type(renderer).__name__
    if len(images) != len(prompts):
        raise EvaluationError(f"renderer {kind} gave {len(images)} images for {len(prompts)} prompts")
    for image in images:
        if image is not None and not isinstance(image, Image):
            raise EvaluationError(f"renderer {kind} gave a {type(image).__name__}; expected a PIL image or None")
    return images
