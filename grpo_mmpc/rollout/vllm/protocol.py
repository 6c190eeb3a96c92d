"""The protocol of a vLLM: prompts and adapters go in, completions come out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grpo_mmpc.models.adapter import Adapter
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.single_out import Failure

COMPACT_JSON = {"backend": "xgrammar", "disable_any_whitespace": True}
"""How engines decode by a schema. Where spaces are free between the parts of an object, a policy
may write them to the end of its tokens; xgrammar writes ``{"title": "..."}`` as references are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, in both forms that engines take, and how many completions it wants."""

    token_ids: list[int]
    """Its tokens by the trainer's processor, image tokens expanded."""
    conversation: list[dict[str, Any]]
    """Chat messages; an image part is ``{"type": "image", "image": PIL.Image}``."""
    count: int
    """Completions wanted (``num_generations``): one request, so that prompt and image are processed
    once."""
    seed: int
    """Seed of its first completion; the engine derives the others' from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled sequence."""

    token_ids: list[int]
    logprobs: list[float]
    """Log-probability of each sampled token after temperature and logit processing; same length as
    ``token_ids``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutput:
    """The completions of one prompt."""

    prompt_ids: list[int]
    """Prompt tokens as the engine used them."""
    completions: list[Completion]
    server: str = ""
    """Address of the server that sampled them; empty for an engine in this process."""


class GroupEngine(Protocol):
    """A vLLM, in this process or behind HTTP."""

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together."""

    @property
    def image_attention(self) -> str:
        """``bidirectional`` or ``causal``: what image tokens of this engine see."""

    @property
    def lora_dtype(self) -> str:
        """Name of the torch dtype to which it casts adapters: sent in it they lose nothing."""

    def load(self, adapter: Adapter) -> None:
        """Make an adapter available under its name."""

    def unload(self, name: str) -> None:
        """Unload an adapter to free its memory."""

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Replace every weight of the model that it serves, by the names of a state dictionary."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, adapter: str | None
    ) -> list[GroupOutput | Failure]:
        """Return completions of every prompt, in order, with a loaded adapter or (None) without.

        A prompt that the engine does not take comes back as a ``Failure`` with the reason.
        """

    def close(self) -> None:
        """Free what the engine holds; no process of it stays behind."""
