"""Checks of ``trainer.fsdp_config`` and ``trainer.deepspeed``, whose misspelt keys do nothing."""

import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grpo_mmpc.config.problems import Problems, unknown_options
from grpo_mmpc.models.option_checks import lacking_package
from grpo_mmpc.utils.faults import explain_os_error

_KIND = "type params legacy_fusion"
_DEEPSPEED = {
    "": """
        train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping optimizer
        scheduler communication_data_type seq_parallel_communication_data_type prescale_gradients sparse_gradients
        gradient_predivide_factor gradient_allreduce_op managed_gradient_accumulation disable_allgather fp16 bf16
        bfloat16 amp torch_autocast data_types zero_optimization zero_allow_untested_optimizer
        zero_force_ds_cpu_optimizer steps_per_print dump_state memory_breakdown wall_clock_breakdown log_level timers
        flops_profiler comms_logger tensorboard wandb csv_monitor comet monitor_config activation_checkpointing aio
        autotuning checkpoint compile compression_training curriculum_learning data_efficiency datastates
        dataloader_drop_last eigenvalue elasticity expert_parallel graph_harvesting hybrid_engine nebula pipeline
        progressive_layer_drop quantize_training sequence_parallel_size sparse_attention tensor_parallel
        use_data_before_expert_parallelism weight_quantization
    """,
    "optimizer": _KIND,
    "scheduler": _KIND,
    "activation_checkpointing": """
        partition_activations cpu_checkpointing contiguous_memory_optimization number_checkpoints profile
        synchronize_checkpoint_boundary
    """,
}
"""Keys of DeepSpeed 0.19, by section: it takes others, and does nothing. To those of the top level
come the ones that the installed version names."""
_MODELS = {
    "fp16": ("precision_config", "DeepSpeedFP16Config"),
    "bf16": ("precision_config", "DeepSpeedBF16Config"),
    "zero_optimization": ("zero.config", "DeepSpeedZeroConfig"),
    "zero_optimization.offload_param": ("zero.offload_config", "DeepSpeedZeroOffloadParamConfig"),
    "zero_optimization.offload_optimizer": ("zero.offload_config", "DeepSpeedZeroOffloadOptimizerConfig"),
}
"""Module and class of the sections that say themselves what they read, where DeepSpeed is
installed; elsewhere a run that needs it is refused anyway."""


def check_sharding(options: Mapping[str, Any]) -> Problems:
    """Yield problems of both dictionaries, or of the JSON files in their place."""
    if options.get("deepspeed") and (lacking := lacking_package("deepspeed", "pip install 'grpo-mmpc[deepspeed]'")):
        yield "trainer.deepspeed", lacking
    for name, check in (("fsdp_config", _fsdp_problems), ("deepspeed", _deepspeed_problems)):
        content = options.get(name)
        try:
            content = json.loads(Path(content).read_text("utf-8")) if isinstance(content, str) else content
        except OSError as error:
            yield f"trainer.{name}", explain_os_error(error)
            continue
        except ValueError as error:
            yield f"trainer.{name}", f"{content} is no JSON ({error}); correct it"
            continue
        if isinstance(content, Mapping):
            yield from check(content)
        elif content:
            yield f"trainer.{name}", f"expected a mapping or the name of a JSON file of one, found {content!r}"


def _fsdp_problems(content: Mapping[str, Any]) -> Problems:
    # heavy: imported on use
    from transformers import TrainingArguments

    source = inspect.getsource(TrainingArguments)
    read = re.findall(r'fsdp_config(?:\.\w+\(|\[)"(\w+)"|"(\w+)" in self\.fsdp_config', source)
    given = {str(name).removeprefix("fsdp_"): value for name, value in content.items()}
    yield from unknown_options("trainer.fsdp_config", given, {a or b for a, b in read}, owner="fsdp_config")


def _deepspeed_problems(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section in (*_DEEPSPEED, *_MODELS):
        inner: Any = content
        for part in filter(None, section.split(".")):
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        known = {*_DEEPSPEED.get(section, "").split(), *_installed_keys(section)}
        if isinstance(inner, Mapping) and known:
            where = ".".join(filter(None, ("trainer.deepspeed", section)))
            yield from unknown_options(where, inner, known, owner="DeepSpeed's configuration")


def _installed_keys(section: str) -> set[str]:
    """Return the keys of a section that the installed DeepSpeed reads, as far as it says so."""
    module, name = _MODELS.get(section, ("", ""))
    if section and not name:
        return set()
    try:
        # heavy: imported on use
        content = importlib.import_module(f"deepspeed.runtime.{module or 'constants'}")
    except ImportError:
        return set()
    if not name:
        return {value for value in vars(content).values() if isinstance(value, str)}
    fields = getattr(content, name).model_fields
    return {key for own, field in fields.items() for key in (own, field.alias) if key is not None}
