"""TRL and PEFT arguments from a recipe, and the checks that need those libraries."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.problems import unknown_option
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.utils.cpu_compat import ensure_importable

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig

LOSS_TYPES_WITH_TOKEN_NORMALISER = ("dapo", "bnpo", "cispo", "vespo")
"""Losses that divide by the number of completion tokens, out of which ``drop`` takes those of
zero-variance groups."""

SET_ELSEWHERE = {
    "output_dir": "checkpoints are written to run_dir/checkpoints; set run_dir",
    "seed": "set the top-level key seed",
    "data_seed": "set the top-level key seed",
    "reward_weights": "weights belong to the specs in rewards.mix, where names bind them",
    "multi_objective_aggregation": "set rewards.aggregation",
    "resume_from_checkpoint": "the command goes on from the newest checkpoint by itself",
}
"""TRL fields that a recipe must not set under ``trainer``, and where the value belongs."""


def grpo_arguments(config: RunConfig) -> "GRPOConfig":
    """Build TRL's ``GRPOConfig``: the recipe's ``trainer`` section plus what other sections decide.

    Raises:
        TrainingError: TRL refuses the values, for instance bf16 where no GPU is visible.
    """
    ensure_importable()
    # heavy: imported on use
    from trl import GRPOConfig

    options = dict(config.trainer)
    options.setdefault("disable_tqdm", True)  # our progress line says more
    options.setdefault("report_to", "none")
    try:
        return GRPOConfig(
            output_dir=str(Path(config.run_dir) / "checkpoints"),
            seed=config.seed,
            reward_weights=[spec.weight for spec in config.rewards.mix],
            multi_objective_aggregation=config.rewards.aggregation,
            **options,
        )
    except ValueError as error:
        hint = "" if _has_accelerator() else " (no GPU is visible here; on a CPU set trainer.use_cpu=true)"
        raise TrainingError(f"TRL refuses these trainer values: {' '.join(str(error).split())}{hint}") from error


def lora_arguments(config: RunConfig) -> "LoraConfig":
    """Build PEFT's ``LoraConfig`` of a run."""
    ensure_importable()
    # heavy: imported on use
    from peft import LoraConfig

    return LoraConfig(**{"task_type": "CAUSAL_LM", **config.adapter.options()})


def updates_per_rollout(arguments: "GRPOConfig") -> int:
    """Count the optimiser steps that one generation batch serves."""
    batches = int(arguments.steps_per_generation) * int(arguments.num_iterations)
    return max(1, batches // int(arguments.gradient_accumulation_steps))


def check_trainer(raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield problems of the ``trainer`` and ``adapter`` sections as (dotted key, message).

    Names are compared with the installed libraries; TRL's own cross-field rules (batch size
    divisible by ``num_generations`` and the like) run by building the object.
    """
    ensure_importable()
    # heavy: imported on use
    from peft import LoraConfig
    from trl import GRPOConfig

    options = raw.get("trainer") or {}
    if isinstance(options, Mapping):
        unknown = yield from _unknown_fields("trainer", options, GRPOConfig)
        yield from _wrong_types("trainer", options, GRPOConfig)
        misplaced = [name for name in SET_ELSEWHERE if name in options]
        for name in misplaced:
            yield f"trainer.{name}", f"is not set here: {SET_ELSEWHERE[name]}"
        if not unknown and not misplaced:
            # A recipe for GPUs can be checked where there is none: only starting it needs one.
            elsewhere = {} if _has_accelerator() else {"use_cpu": True}
            try:
                built = GRPOConfig(output_dir="unused", **{"report_to": "none", **elsewhere, **options})
            except (ValueError, TypeError, ImportError, RuntimeError) as error:
                yield "trainer", f"TRL refuses these values: {' '.join(str(error).split())}"
            else:
                yield from zero_variance_problems(raw, built)
    adapter = raw.get("adapter") or {}
    if isinstance(adapter, Mapping):
        unknown = yield from _unknown_fields("adapter", adapter, LoraConfig)
        if not unknown:
            try:
                LoraConfig(**adapter)
            except (ValueError, TypeError) as error:
                yield "adapter", f"PEFT refuses these values: {' '.join(str(error).split())}"


def zero_variance_problems(raw: Mapping[str, Any], built: "GRPOConfig") -> Iterable[tuple[str, str]]:
    """Yield what keeps this trainer from following ``rewards.dead_groups``."""
    rewards = raw.get("rewards")
    policy = rewards.get("dead_groups") if isinstance(rewards, Mapping) else None
    if policy == "drop" and built.loss_type not in LOSS_TYPES_WITH_TOKEN_NORMALISER:
        yield (
            "rewards.dead_groups",
            f"drop takes tokens out of the normaliser, which loss_type {built.loss_type} does not have; use one of "
            f"{', '.join(LOSS_TYPES_WITH_TOKEN_NORMALISER)}, or keep",
        )
    completions = built.per_device_train_batch_size * built.steps_per_generation
    if policy == "resample" and completions % built.num_generations:
        yield (
            "rewards.dead_groups",
            f"resample needs whole groups on every process: per_device_train_batch_size * steps_per_generation "
            f"({completions}) must be a multiple of num_generations ({built.num_generations})",
        )


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _wrong_types(section: str, options: Mapping[str, Any], target: Any) -> Iterable[tuple[str, str]]:
    """Yield values that are no switch or no number where one is due: TRL notices only on use."""
    for field in dataclasses.fields(target):
        value, default = options.get(field.name), field.default
        if value is None or "str" in str(field.type):
            continue
        if isinstance(default, bool) and not isinstance(value, bool):
            yield f"{section}.{field.name}", f"expected true or false, found {value!r}"
        elif type(default) in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"{section}.{field.name}", f"expected a number, found {value!r}"


def _unknown_fields(section: str, options: Mapping[str, Any], target: Any) -> Any:
    known = [field.name for field in dataclasses.fields(target) if field.init]
    unknown = [name for name in options if name not in known]
    for name in unknown:
        yield f"{section}.{name}", unknown_option(name, known, owner=target.__name__)
    return bool(unknown)
