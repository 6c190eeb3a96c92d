"""What a vLLM server must be for a run, and what it lacks by its own account (``vllm_plugin.engine_facts``)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.rollout.vllm.arguments import engine_arguments
from grpo_mmpc.rollout.vllm.plugin import model_identity
from grpo_mmpc.utils.model_paths import resolve_model


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedEngine:
    """What a server must be for a run."""

    model: str
    """Name of the base model, for messages."""
    model_identity: str | None
    """See ``vllm_plugin.model_identity``; None if the trainer cannot tell, then any base model
    passes."""
    lora_rank: int
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """``model.processor_kwargs``: min_pixels, max_pixels."""
    context_tokens: int
    """Longest prompt and completion together."""

    def problems(self, facts: Mapping[str, Any]) -> list[str]:
        """What a server's own account of itself lacks, each with its remedy."""
        found = []
        theirs = facts["model_identity"]
        if self.model_identity is not None and theirs != self.model_identity:
            found.append(
                f"serves another base model: {facts['model']} (identity {_short(theirs)}) instead of {self.model} "
                f"(identity {_short(self.model_identity)}); with equal names, the weights or the revision differ"
            )
        if not facts["enable_lora"]:
            found.append("serves no adapters; start it with --enable-lora")
        elif facts["max_lora_rank"] < self.lora_rank:
            found.append(
                f"takes adapters up to rank {facts['max_lora_rank']}, adapter.r is {self.lora_rank}; raise "
                "--max-lora-rank or lower adapter.r"
            )
        if not facts["runtime_lora_updating"]:
            found.append("does not load adapters at run time; set VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
        if facts["logprobs_mode"] != "processed_logprobs":
            found.append(
                f"returns {facts['logprobs_mode']}, which importance-sampling correction cannot use; start it with "
                "--logprobs-mode processed_logprobs"
            )
        ours = json.loads(json.dumps(dict(self.processor_kwargs)))
        if facts["mm_processor_kwargs"] != ours:
            found.append(
                f"prepares images with {facts['mm_processor_kwargs']}, the trainer with {ours}: prompts would differ in "
                f"their number of image tokens; start it with --mm-processor-kwargs '{json.dumps(ours)}'"
            )
        if facts["max_model_len"] < self.context_tokens:
            found.append(
                f"has a context of {facts['max_model_len']} tokens, prompt and completion need up to "
                f"{self.context_tokens}; raise --max-model-len (rollout.engine.max_model_len)"
            )
        return found


def expected_engine(config: RunConfig, *, context_tokens: int) -> ExpectedEngine:
    """What a recipe asks of its servers.

    Args:
        config: The recipe.
        context_tokens: Longest prompt and completion together.
    """
    revision = config.model.init_kwargs.get("revision")
    return ExpectedEngine(
        model=config.model.name_or_path,
        model_identity=model_identity(resolve_model(config.model.name_or_path), revision=revision),
        lora_rank=config.adapter.r,
        processor_kwargs=engine_arguments(config).get("mm_processor_kwargs", {}),
        context_tokens=context_tokens,
    )


def _short(identity: str | None) -> str:
    return identity[:12] if identity else "unknown"
