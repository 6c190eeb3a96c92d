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
    "fp16": """
        enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis
        min_loss_scale fp16_master_weights_and_grads
    """,
    "bf16": "enabled immediate_grad_update check_grad_overflow bf16_master_weights_and_grads bf16_optimizer_states",
    "optimizer": _KIND,
    "scheduler": _KIND,
    "activation_checkpointing": """
        partition_activations cpu_checkpointing contiguous_memory_optimization number_checkpoints profile
        synchronize_checkpoint_boundary
    """,
    "zero_optimization": """
        stage contiguous_gradients reduce_scatter reduce_bucket_size use_multi_rank_bucket_allreduce
        allgather_partitions allgather_bucket_size overlap_comm load_from_fp32_weights elastic_checkpoint
        offload_param offload_optimizer zenflow sub_group_size cpu_offload cpu_offload_param
        cpu_offload_use_pin_memory prefetch_bucket_size param_persistence_threshold model_persistence_threshold
        max_live_parameters max_reuse_distance gather_16bit_weights_on_model_save module_granularity_threshold
        use_all_reduce_for_fetch_params allgather_sequential partition_stream_chunk_size
        stage3_prefetch_bucket_size stage3_param_persistence_threshold stage3_model_persistence_threshold
        stage3_max_live_parameters stage3_max_reuse_distance stage3_gather_16bit_weights_on_model_save
        stage3_gather_fp16_weights_on_model_save stage3_module_granularity_threshold
        stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential stage3_partition_stream_chunk_size
        ignore_unused_parameters legacy_stage1 round_robin_gradients zero_hpz_partition_size
        zero_quantized_weights zero_quantized_nontrainable_weights zero_quantized_gradients zeropp_loco_param
        mics_shard_size mics_hierarchical_params_gather memory_efficient_linear pipeline_loading_checkpoint
        override_module_apply log_trace_cache_warnings enable_sanity_checks save_muon_momentum_buffer_in_memory
        leaf_module
    """,
    "zero_optimization.offload_param": "device nvme_path buffer_count buffer_size max_in_cpu pin_memory",
    "zero_optimization.offload_optimizer": """
        device nvme_path buffer_count pin_memory pipeline_read pipeline_write fast_init ratio super_offload
        convert_grad_on_cpu cpuadam_cores_perc
    """,
}
"""Keys of DeepSpeed 0.19, by section: it takes others at the top level, and does nothing. Where it
is installed, what that version reads is known as well."""
_MODELS = {
    "fp16": ("precision_config", "DeepSpeedFP16Config"),
    "bf16": ("precision_config", "DeepSpeedBF16Config"),
    "zero_optimization": ("zero.config", "DeepSpeedZeroConfig"),
    "zero_optimization.offload_param": ("zero.offload_config", "DeepSpeedZeroOffloadParamConfig"),
    "zero_optimization.offload_optimizer": ("zero.offload_config", "DeepSpeedZeroOffloadOptimizerConfig"),
}
"""Module and class of DeepSpeed's sections that are pydantic models."""


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
    for section, keys in _DEEPSPEED.items():
        inner: Any = content
        for part in filter(None, section.split(".")):
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            where = ".".join(filter(None, ("trainer.deepspeed", section)))
            known = {*keys.split(), *_installed_keys(section)}
            yield from unknown_options(where, inner, known, owner="DeepSpeed's configuration")


def _installed_keys(section: str) -> set[str]:
    """Return the keys of a section that the installed DeepSpeed reads, as far as it says so."""
    module, name = _MODELS.get(section, ("constants", ""))
    if section and not name:
        return set()
    try:
        # heavy: imported on use
        content = importlib.import_module(f"deepspeed.runtime.{module}")
    except ImportError:
        return set()
    if not name:
        return {value for value in vars(content).values() if isinstance(value, str)}
    fields = getattr(content, name).model_fields
    return {key for own, field in fields.items() for key in (own, field.alias) if key is not None}
