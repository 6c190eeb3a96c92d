"""A vLLM server's account of itself, and what a run needs it to be."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo_mmpc.models.identity import base_model_identity
from grpo_mmpc.rollout.vllm.protocol import COMPACT_JSON
from grpo_mmpc.utils.model_paths import resolve_model

if TYPE_CHECKING:
    from grpo_mmpc.config import RunConfig


def engine_facts(vllm_config: Any, args: Any) -> dict[str, Any]:
    """Return what a trainer must know before it trusts this server; every value is JSON.

    Args:
        vllm_config: vLLM's ``VllmConfig``.
        args: The server's parsed command line.
    """
    # heavy: the server has them loaded
    import vllm

    model, lora, structured = vllm_config.model_config, vllm_config.lora_config, vllm_config.structured_outputs_config
    return {
        "vllm_version": vllm.__version__,
        "model": model.model,
        "served_model_name": (args.served_model_name or [model.model])[0],
        "model_identity": base_model_identity(model.model, revision=model.revision),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": None if hasattr(model.hf_config, "quantization_config") else model.quantization,
        "max_model_len": model.max_model_len,
        "logprobs_mode": str(model.logprobs_mode),
        "mm_processor_kwargs": (model.multimodal_config.mm_processor_kwargs or {}) if model.multimodal_config else {},
        "image_token_id": getattr(model.hf_config, "image_token_id", None),
        "image_attention": vllm_image_attention(model),
        "structured_outputs": {name: getattr(structured, name) for name in COMPACT_JSON},
        "enable_lora": lora is not None,
        "max_lora_rank": lora.max_lora_rank if lora is not None else 0,
        "max_loras": lora.max_loras if lora is not None else 0,
        "lora_dtype": str(lora.lora_dtype).removeprefix("torch.") if lora is not None else None,
    }


def vllm_image_attention(model_config: Any) -> str:
    """Return what image tokens see in this process's vLLM: ``bidirectional`` or ``causal``."""
    # heavy: the engine has it loaded
    from vllm.platforms import current_platform

    # vLLM picks a GPU back end that lets them see each other where the model asks for it; the CPU's
    # only one cannot.
    return "bidirectional" if model_config.is_mm_prefix_lm and not current_platform.is_cpu() else "causal"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedEngine:
    """The engine that a run needs behind each of its servers."""

    model: str
    """Name of the base model, for messages."""
    model_identity: str | None
    """See ``identity.base_model_identity``; None if the trainer cannot tell, then any base model
    passes."""
    dtype: str = "auto"
    """Of the weights; ``auto`` stands for that of the base model's files."""
    quantization: str | None = None
    """vLLM's name of what it does to the weights; None leaves them as its files are."""
    lora_rank: int
    num_adapters: int = 1
    """Adapters that are asked for at once."""
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """``model.processor_kwargs``: min_pixels, max_pixels."""
    context_tokens: int
    """Longest prompt and completion together."""
    structured: bool = False
    """Whether completions are decoded by a schema."""

    def problems(self, facts: Mapping[str, Any]) -> list[str]:
        """Return how a server falls short by its own account, each with its remedy."""
        from grpo_mmpc.rollout.vllm.arguments import SUPPORTED  # not needed by a server

        problems = []
        theirs = facts["model_identity"]
        if self.model_identity is not None and theirs != self.model_identity:
            problems.append(
                f"serves another base model: {facts['model']} (identity {_short(theirs)}) instead of {self.model} "
                f"(identity {_short(self.model_identity)}); with equal names, the weights or the revision differ"
            )
        if not str(facts["vllm_version"]).startswith(f"{SUPPORTED}."):
            problems.append(f"runs vLLM {facts['vllm_version']}; {SUPPORTED} is needed")
        for name, asked in (("dtype", self.dtype), ("quantization", self.quantization)):
            if asked not in ("auto", facts[name]):
                how = f"with --{name} {asked}" if asked else f"without --{name}"
                problems.append(f"computes with {name} {facts[name]} instead of {asked}; start it {how}")
        if not facts["enable_lora"]:
            problems.append("serves no adapters; start it with --enable-lora")
        elif facts["max_lora_rank"] < self.lora_rank:
            problems.append(
                f"takes adapters up to rank {facts['max_lora_rank']}, adapter.r or a rank of adapter.rank_pattern "
                f"is {self.lora_rank}; raise --max-lora-rank or lower it"
            )
        elif facts["max_loras"] < self.num_adapters:
            problems.append(
                f"serves {facts['max_loras']} adapter at once, evaluation.where (or rollout.engine.max_loras) needs "
                f"{self.num_adapters}; start it with --max-loras {self.num_adapters} "
                f"--max-cpu-loras {self.num_adapters + 1}"
            )
        if facts["logprobs_mode"] != "processed_logprobs":
            problems.append(
                f"returns {facts['logprobs_mode']}, which importance-sampling correction cannot use; start it with "
                "--logprobs-mode processed_logprobs"
            )
        ours = json.loads(json.dumps(dict(self.processor_kwargs)))
        if facts["mm_processor_kwargs"] != ours:
            problems.append(
                f"prepares images with {facts['mm_processor_kwargs']}, the trainer with {ours}: prompts would differ "
                f"in their number of image tokens; start it with --mm-processor-kwargs '{json.dumps(ours)}'"
            )
        if self.structured and facts["structured_outputs"] != COMPACT_JSON:
            problems.append(
                f"decodes by a schema with {facts['structured_outputs']}, which lets a policy write spaces to the end "
                f"of its tokens; start it with --structured-outputs-config '{json.dumps(COMPACT_JSON)}'"
            )
        if facts["max_model_len"] < self.context_tokens:
            problems.append(
                f"has a context of {facts['max_model_len']} tokens, prompt and completion need up to "
                f"{self.context_tokens}; raise --max-model-len (rollout.engine.max_model_len)"
            )
        return problems


def expected_engine(config: "RunConfig", *, context_tokens: int) -> ExpectedEngine:
    """Return what a recipe asks of its servers."""
    from grpo_mmpc.rollout.vllm.arguments import engine_arguments, greatest_rank  # not needed by a server

    revision, arguments = config.model.init_kwargs.get("revision"), engine_arguments(config)
    return ExpectedEngine(
        model=config.model.name_or_path,
        model_identity=base_model_identity(resolve_model(config.model.name_or_path), revision=revision),
        dtype=arguments["dtype"],
        quantization=arguments.get("quantization"),
        lora_rank=greatest_rank(config.adapter) if config.adapter else 1,
        num_adapters=arguments.get("max_loras", 1),
        processor_kwargs=arguments.get("mm_processor_kwargs", {}),
        context_tokens=context_tokens,
        structured=config.rollout.structured,
    )


def _short(identity: str | None) -> str:
    return identity[:12] if identity else "unknown"
