"""The protocol of everything that turns image prompts into images, and the one way to call it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.utils.single_out import Failure, single_out

if TYPE_CHECKING:
    from PIL.Image import Image


class Renderer(Protocol):
    """Turns prompts into images: a diffusion model, or the nano renderer.

    A renderer of one's own needs ``render`` only. With a ``batch_size`` it gets at most so many
    prompts at a time. It may also be a ``CountsTokens``.
    """

    def render(self, prompts: list[str], *, seeds: list[int]) -> "Sequence[Image | Failure | None]":
        """Render every prompt.

        Args:
            prompts: N image prompts.
            seeds: N seeds; one prompt and seed give one image, whatever else is in the batch.

        Returns:
            N RGB images in the order of the prompts; a ``Failure``, or None without a reason, where
            a prompt could not be rendered, which scores worst.

        Raises:
            Exception: Taken for the failure of single images: those of the batch are tried in
                smaller batches. Only what all of them raise alike ends the run.
        """
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A renderer that can say whether it reads a prompt to its end."""

    token_limit: int | None
    """Tokens of a prompt that the renderer reads, special ones included; None if it has no
    limit."""

    def prompt_tokens(self, prompts: list[str]) -> list[int]:
        """Count the tokens of N prompts, uncut; what exceeds ``token_limit`` is not read."""
        ...


def render(renderer: Renderer, prompts: Sequence[str], *, seeds: Sequence[int]) -> "list[Image | Failure]":
    """Render N prompts with any renderer: an image or the reason why there is none for each.

    Raises:
        EvaluationError: It did not give one image, ``Failure`` or None for each prompt, or failed
            in the same way on all of them.
    """
    results = single_out(
        lambda requests: _checked(renderer, requests),
        list(zip(prompts, seeds, strict=True)),
        batch_size=lambda: getattr(renderer, "batch_size", len(prompts)),
        what=f"the renderer {type(renderer).__name__}",
        memory_advice="Not even one image fits into memory: make it smaller (height, width), load the model in "
        "float16, leave a text encoder out, or free the device",
        error=EvaluationError,
        num_distinct=len(set(prompts)),
    )
    return [Failure(reason="the renderer gave no image") if result is None else result for result in results]


def _checked(renderer: Renderer, requests: list[tuple[str, int]]) -> "Sequence[Image | Failure | None]":
    from PIL.Image import Image  # heavy: imported on use

    images = renderer.render([prompt for prompt, _ in requests], seeds=[seed for _, seed in requests])
    kind = type(renderer).__name__
    if len(images) != len(requests):
        raise EvaluationError(f"renderer {kind} gave {len(images)} images for {len(requests)} prompts")
    for image in images:
        if image is not None and not isinstance(image, Image | Failure):
            raise EvaluationError(f"renderer {kind} gave a {type(image).__name__}; expected a PIL image or None")
    return images
