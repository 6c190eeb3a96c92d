"""Turn image prompts into pictures."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

    from grpo_mmpc.rendering.attempts import Rendered


class Renderer(Protocol):
    """Anything that turns prompts into pictures: a diffusion model, or the nano renderer.

    A renderer of one's own needs ``render`` only. It may also be a ``CountsTokens`` and an
    ``ExplainsFailures``; what it is not is left out of the records.
    """

    def render(self, prompts: list[str], *, seeds: list[int]) -> "list[Image | None]":
        """Render every prompt.

        Args:
            prompts: N image prompts.
            seeds: N seeds; one prompt and seed give one picture, whatever else is in the batch.

        Returns:
            N RGB pictures in the order of the prompts; None where a prompt could not be rendered,
            which scores worst.

        Raises:
            RuntimeError: Like ``ValueError`` and ``MemoryError``, taken for the failure of single
                pictures: those of the batch are tried in smaller batches. Any other exception ends
                    the run.
        """
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A renderer that can say whether it reads a prompt to its end."""

    token_limit: int | None
    """Tokens of a prompt that the renderer reads, special ones included; None if it has no
    limit."""

    def prompt_tokens(self, prompts: list[str]) -> list[int]:
        """Tokens of N prompts, uncut, special ones included; what exceeds ``token_limit`` is not read."""
        ...


@runtime_checkable
class ExplainsFailures(Protocol):
    """A renderer that says why a picture is absent."""

    def attempt(self, prompts: list[str], *, seeds: list[int]) -> "list[Rendered]":
        """``Renderer.render`` with a reason beside each None."""
        ...
