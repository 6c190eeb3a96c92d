"""TRL and PEFT arguments from a recipe."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.families import PROMPTS_AS_THEY_ARE
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.secrets import without_secrets

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig, SFTConfig


def grpo_arguments(config: RunConfig, *, anywhere: bool = False) -> "GRPOConfig":
    """Build TRL's ``GRPOConfig``: the recipe's ``trainer`` section plus what other sections decide.

    With ``anywhere`` also those of a recipe for GPUs where there is none, to be looked at only.

    Raises:
        TrainingError: TRL refuses the values, for instance bf16 where no GPU is visible; or
            rollouts would not be the policy's.
    """
    if config.rollout.structured:
        raise TrainingError(
            "rollout.structured: a decoder that allows only tokens of a schema does not sample from the policy: what "
            "it forbids is never sampled and never unlearnt, and importance-sampling correction leaves next to nothing "
            "of what it forces; train without it, and set it for evaluate, complete and serve --complete"
        )
    template = config.chat_template_kwargs
    processing = PROMPTS_AS_THEY_ARE | (template.get("processor_kwargs") or {})
    return _built(
        "GRPOConfig",
        config,
        anywhere=anywhere,
        reward_weights=[spec.weight for spec in config.rewards.mix],
        multi_objective_aggregation=config.rewards.aggregation,
        chat_template_kwargs={**template, "processor_kwargs": processing},
    )


def sft_arguments(config: RunConfig, *, anywhere: bool = False) -> "SFTConfig":
    """Build TRL's ``SFTConfig``, likewise; prompts and answers stay whole.

    Raises:
        TrainingError: TRL refuses the values.
    """
    return _built("SFTConfig", config, anywhere=anywhere, max_length=None, remove_unused_columns=False)


def training_arguments(config: RunConfig, *, anywhere: bool = False) -> Any:
    """Build the arguments of the trainer that the recipe's ``method`` asks for, likewise."""
    return (sft_arguments if config.method == "sft" else grpo_arguments)(config, anywhere=anywhere)


def _built(kind: str, config: RunConfig, *, anywhere: bool, **own: Any) -> Any:
    """Build the arguments of one of TRL's trainers."""
    ensure_importable()
    # heavy: imported on use
    import torch
    import trl

    # Transformers writes them into every checkpoint; nothing is pushed with a token.
    options = {name: one for name, one in without_secrets(config.trainer).items() if name != "chat_template_kwargs"}
    options.setdefault("disable_tqdm", True)  # our progress line says more
    options.setdefault("report_to", "none")
    if kind == "GRPOConfig":
        options.setdefault("log_multimodal", False)  # all ranks would send their images in every step
    if anywhere and not torch.accelerator.is_available():
        options["use_cpu"] = True
    try:
        built = getattr(trl, kind)(
            output_dir=str(Path(config.run_dir) / "checkpoints"), seed=config.seed, **own, **options
        )
    except ValueError as error:
        on_cpu = " (no GPU is visible here; on a CPU set trainer.use_cpu=true)"
        hint = "" if torch.accelerator.is_available() else on_cpu
        raise TrainingError(f"TRL refuses these trainer values: {' '.join(str(error).split())}{hint}") from error
    if not (anywhere or torch.accelerator.is_available()):
        for key, is_on in (("trainer.fp16", built.fp16), ("rollout.sleep", config.rollout.sleep)):
            if is_on:
                raise TrainingError(f"{key} has no effect on a CPU, and no GPU is visible here; remove it")
    return built


def lora_arguments(config: RunConfig) -> "LoraConfig | None":
    """Build PEFT's ``LoraConfig`` of a run; None where every weight is trained."""
    if config.adapter is None:
        return None
    ensure_importable()
    # heavy: imported on use
    from peft import LoraConfig

    return LoraConfig(**{"task_type": "CAUSAL_LM", **config.adapter.options()})


def check_sharded_policy(config: RunConfig, arguments: "GRPOConfig | SFTConfig") -> None:
    """Refuse policies that the launch file would shard, and that cannot be.

    Raises:
        TrainingError: Says which launch file can.
    """
    is_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    plugin = arguments.deepspeed_plugin
    if config.model.quantization and (is_fsdp or (plugin is not None and plugin.zero_stage == 3)):
        raise TrainingError(
            "model.quantization: weights in 4 bits are not sharded here; use launch/accelerate/ddp.yaml, where every "
            "GPU holds a copy, or single_gpu.yaml"
        )
    if config.adapter is None and is_fsdp:
        raise TrainingError(
            "adapter: null cannot be continued under FSDP: checkpoints hold other names than it loads; use "
            "launch/accelerate/zero3.yaml or ddp.yaml"
        )


def updates_per_rollout(arguments: "GRPOConfig") -> int:
    """Count the optimiser steps that one generation batch serves."""
    batches = int(arguments.steps_per_generation) * int(arguments.num_iterations)
    return max(1, batches // int(arguments.gradient_accumulation_steps))


def cut_in_training(config: RunConfig) -> list[str]:
    """Return a warning for each task whose answers are longer in evaluations than in training."""
    longest = config.max_completion_length
    asked = {name: config.known_tasks[name].greedy(config.evaluation.max_tokens).max_tokens for name in config.tasks}
    return [
        f"! {name} is evaluated with answers of up to {tokens} tokens and trained with {longest} at most: what is cut "
        f"off there is malformed. Set trainer.max_completion_length={tokens}"
        for name, tokens in asked.items()
        if config.method != "sft" and tokens > longest
    ]


def check_batches_fill(arguments: Any, *, num_items: int) -> None:
    """Refuse items that do not fill one batch, out of which no epoch can be made.

    Args:
        arguments: ``GRPOConfig`` or ``SFTConfig``.
        num_items: Training items.

    Raises:
        TrainingError: With the numbers.
    """
    if hasattr(arguments, "generation_batch_size"):
        group, completions = arguments.num_generations, arguments.generation_batch_size
        what, numbers = "generation batch", f"generation_batch_size {completions} / num_generations {group}"
    else:
        group, completions = 1, prompts_per_step(arguments)
        what, numbers = "step", "of all processes together"
    if num_items < completions // group:
        raise TrainingError(
            f"{num_items} training items do not fill one {what} of {completions // group} prompts ({numbers}); "
            "add items, or lower trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps"
        )


def prompts_per_step(arguments: "SFTConfig") -> int:
    """Count the prompts of one step of supervised fine-tuning over all ranks."""
    return int(arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size)
