"""What every vLLM back end takes and gives: prompts with the number of completions wanted, adapters, completions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grpo_mmpc.types import SamplingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, in both forms that engines take, and how many completions it wants."""

    token_ids: list[int]
    """What the trainer's processor made of it, image tokens expanded."""
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
class Adapter:
    """A LoRA adapter in PEFT's format, as bytes: what a weight sync moves."""

    name: str
    """Unique for its content: engines cache by name."""
    config: bytes
    """``adapter_config.json``."""
    weights: bytes
    """``adapter_model.safetensors``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutput:
    """The completions of one prompt."""

    prompt_ids: list[int]
    """Prompt tokens as the engine used them."""
    completions: list[Completion]


class GroupEngine(Protocol):
    """A vLLM, in this process or behind HTTP."""

    @property
    def lora_dtype(self) -> str:
        """The torch dtype to which it casts adapters, by name: one that comes in it is smaller and loses nothing."""
        ...

    def load(self, adapter: Adapter) -> None:
        """Make an adapter available under its name."""
        ...

    def unload(self, name: str) -> None:
        """Forget an adapter, so that nothing grows."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, adapter: str | None
    ) -> list[GroupOutput]:
        """Completions of every prompt, in order, with a loaded adapter or with the base model (None)."""
        ...

    def close(self) -> None:
        """Free what the engine holds; no process of it stays behind."""
        ...
