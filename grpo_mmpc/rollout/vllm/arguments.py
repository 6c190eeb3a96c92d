"""vLLM's ``EngineArgs`` from a recipe, the same for an engine in this process and for a server."""

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from grpo_mmpc.config import RunConfig, nearest
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.utils.model_paths import resolve_model

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM 0.31 takes for ``max_lora_rank``; a smaller adapter fits into the next larger
one."""

UNSERVED = ("lm_head", "embed_tokens", "visual", "vision_tower", "multi_modal_projector")
"""Modules whose adapters vLLM ignores or refuses."""

DERIVED = {
    "model": "set model.name_or_path",
    "dtype": "set model.init_kwargs.dtype",
    "seed": "set the top-level key seed",
    "enable_lora": "rollouts always come from the adapter",
    "max_lora_rank": "set adapter.r",
    "logprobs_mode": "importance-sampling correction needs processed_logprobs",
    "mm_processor_kwargs": "set model.processor_kwargs, which trainer and engine share",
    "enable_sleep_mode": "set rollout.sleep",
}
"""Fields of ``rollout.engine`` that other keys decide, and which."""


def engine_arguments(config: RunConfig) -> dict[str, Any]:
    """Everything that decides what the engine computes; ``rollout.engine`` comes on top, under vLLM's own names.

    Raises:
        RolloutError: The adapter's rank is larger than any that vLLM serves.
    """
    import torch

    rank = config.adapter.r
    fitting = [size for size in LORA_RANKS if size >= rank]
    if not fitting:
        raise RolloutError(f"adapter.r={rank} is larger than vLLM's largest LoRA rank, {LORA_RANKS[-1]}; lower it")
    arguments: dict[str, Any] = {
        "model": resolve_model(config.model.name_or_path),
        "dtype": str(config.model.init_kwargs.get("dtype", "auto")).removeprefix("torch."),
        "seed": config.seed,
        "enable_lora": True,
        "max_lora_rank": fitting[0],
        "max_loras": 1,  # one adapter per batch ...
        "max_cpu_loras": 2,  # ... and during a sync the old one beside the new
        "logprobs_mode": "processed_logprobs",
        "limit_mm_per_prompt": {"image": 1},
        "enforce_eager": not torch.cuda.is_available(),
    }
    for name in ("revision", "trust_remote_code"):
        if name in config.model.init_kwargs:
            arguments[name] = config.model.init_kwargs[name]
    if config.model.processor_kwargs:
        arguments["mm_processor_kwargs"] = config.model.processor_kwargs
    return arguments | config.rollout.engine.options()


def check_rollout(raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Problems of a recipe whose rollouts come from vLLM, as (dotted key, message); needs no model."""
    rollout, adapter, trainer = (_mapping(raw.get(name)) for name in ("rollout", "adapter", "trainer"))
    if rollout.get("backend") != "vllm":
        return
    known = engine_fields()
    for name in _mapping(rollout.get("engine")):
        if name in DERIVED:
            yield f"rollout.engine.{name}", f"is not set here: {DERIVED[name]}"
        elif known and name not in known:
            close = nearest(name, known)
            hint = close if close.startswith("did you mean") else "it is not a field of vLLM's EngineArgs"
            yield f"rollout.engine.{name}", f"unknown key; {hint}"
    for name in trainer:
        if name == "use_vllm" or (name.startswith("vllm_") and not name.startswith("vllm_importance_sampling")):
            yield f"trainer.{name}", "is not used: rollouts are set in the section rollout"
        if name in ("min_p", "repetition_penalty", "generation_kwargs"):
            yield (
                f"trainer.{name}",
                "is not passed to vLLM: it changes the distribution that is sampled from and not the policy's "
                "probabilities, so that importance-sampling correction would be wrong; remove it",
            )
    mode = trainer.get("vllm_importance_sampling_mode", "sequence_mask")
    if (
        trainer.get("loss_type") == "vespo"
        and trainer.get("vllm_importance_sampling_correction", True)
        and mode not in ("token_truncate", "token_mask")
    ):
        yield (
            "trainer.vllm_importance_sampling_mode",
            f"is {mode!r}; loss_type vespo needs token_truncate or token_mask, as TRL does",
        )
    if adapter.get("target_modules") in (None, "all-linear"):
        yield (
            "adapter.target_modules",
            f"{adapter.get('target_modules')!r} may reach modules whose adapters vLLM ignores "
            f"({', '.join(UNSERVED)}); name language layers: "
            "'.*language_model.*\\.(q|k|v|o|gate|up|down)_proj'",
        )
    for name, served in (("modules_to_save", None), ("use_dora", False), ("bias", "none")):
        if adapter.get(name, served) not in (served, None):
            yield f"adapter.{name}", f"{adapter[name]!r} is not served by vLLM; remove it"


@cache
def engine_fields() -> frozenset[str]:
    """Return the fields of the installed vLLM's ``EngineArgs``; empty where vLLM is not installed.

    They are read from the source: importing vLLM takes ten seconds, and a recipe is checked in one.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    source = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    if not source.is_file():
        return frozenset()
    classes = [node for node in ast.parse(source.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    fields = [
        statement.target.id
        for node in classes
        if node.name == "EngineArgs"
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    ]
    return frozenset(fields)


def sampling_warning(trainer: Mapping[str, Any]) -> str | None:
    """A warning where sampling filters bias importance-sampling correction, else None."""
    filters = [
        f"{name}={trainer[name]}" for name, off in (("top_p", 1.0), ("top_k", 0)) if trainer.get(name, off) != off
    ]
    if not filters or not trainer.get("vllm_importance_sampling_correction", True):
        return None
    return (
        f"{' and '.join(filters)} cuts tokens from the distribution that vLLM samples from and renormalises the rest; "
        "the policy's probabilities know nothing of it, so importance-sampling correction is biased. Sample without "
        "filters, or set trainer.vllm_importance_sampling_correction=false"
    )


def refuse_unserved_targets(adapted_modules: list[str]) -> None:
    """Refuse adapters on modules that vLLM would leave out without a word.

    Args:
        adapted_modules: Full names of the modules that carry a LoRA.

    Raises:
        RolloutError: One of them is in the vision tower, the projector, the embeddings or the head.
    """
    ignored = [name for name in adapted_modules if any(part in name.split(".") for part in UNSERVED)]
    if ignored:
        raise RolloutError(
            f"vLLM would ignore {len(ignored)} of {len(adapted_modules)} adapted modules, for instance {ignored[0]}: "
            "rollouts would come from another policy than the one being trained. Restrict adapter.target_modules to "
            "language layers ('.*language_model.*\\.(q|k|v|o|gate|up|down)_proj'), or use rollout.backend=transformers"
        )


def suppressed_token_ids(processor: Any, model_config: Any) -> list[int]:
    """Special tokens that a completion must not contain: image, video and padding placeholders.

    A sampled image token would ask the policy for image features that do not exist. A padding token
    that also ends completions stays.
    """
    tokenizer = processor.tokenizer
    ends = {tokenizer.eos_token_id, *_as_list(getattr(model_config.get_text_config(), "eos_token_id", None))}
    names = ("image_token_id", "video_token_id", "image_token_index", "boi_token_index", "eoi_token_index")
    ids = {getattr(model_config, name, None) for name in (*names, "vision_start_token_id", "vision_end_token_id")}
    return sorted({i for i in (*ids, tokenizer.pad_token_id) if i is not None and i not in ends and i < len(tokenizer)})


def _mapping(value: Any) -> Mapping[str, Any]:
    """A section, or nothing where it is not a mapping: the schema reports that."""
    return value if isinstance(value, Mapping) else {}


def _as_list(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
