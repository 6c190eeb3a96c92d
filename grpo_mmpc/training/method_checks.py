"""The two methods of training, ``grpo`` and ``sft``: the options that each of them takes."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config.problems import Problems
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.sections import section

if TYPE_CHECKING:
    from grpo_mmpc.config.loading import Layers

LOSS_TYPES_WITH_TOKEN_NORMALISER = ("dapo", "bnpo", "cispo", "vespo")
"""Losses that divide by the number of completion tokens, out of which ``drop`` takes those of
zero-variance groups."""
LOSS_TYPES = (*LOSS_TYPES_WITH_TOKEN_NORMALISER, "grpo", "dr_grpo", "sapo", "luspo")
SFT_LOSS_TYPES = ("nll", "dft")
_WHOLE = "an example is one prompt of GRPO's with its answer, whole, and the loss is on the answer"
SFT_SET_ELSEWHERE = {
    **dict.fromkeys(("completion_only_loss", "assistant_only_loss", "dataset_text_field", "dataset_kwargs"), _WHOLE),
    **dict.fromkeys(("max_length", "truncation_mode", "packing", "padding_free", "eval_packing"), _WHOLE),
    **dict.fromkeys(("packing_strategy", "dataset_num_proc", "pad_to_multiple_of"), _WHOLE),
    **dict.fromkeys(("chat_template_path", "eos_token", "pad_token"), "prompts are those of GRPO and of evaluations"),
    "shuffle_dataset": "prompts come in an order of their own, by seed and epoch",
    "label_smoothing_factor": "TRL is about to remove it",
}
"""Fields of ``SFTConfig`` that are not set under ``trainer``, and why."""


def drop_options_of_grpo(layers: "Layers") -> list[str]:
    """Take out of a recipe for supervised fine-tuning what only GRPO's trainer knows; return it."""
    raw = layers.merged
    options = raw.get("trainer")
    if raw.get("method") != "sft" or not isinstance(options, dict):
        return []
    grpo = {*option_names(trainer_arguments({}))} - {*option_names(trainer_arguments(raw)), "chat_template_kwargs"}
    left_out = [name for name, value in options.items() if name in grpo]
    if options.get("loss_type") in LOSS_TYPES:
        left_out.append("loss_type")
    raw["trainer"] = {name: value for name, value in options.items() if name not in left_out}
    return [f"trainer.{name}" for name in left_out]


def check_method(raw: Mapping[str, Any]) -> Problems:
    """Yield what supervised fine-tuning cannot do as it is asked."""
    if raw.get("method") == "sft" and section(raw, "rollout").get("backend") == "vllm":
        yield (
            "rollout.backend",
            "vllm is fed by GRPO's trainer: supervised fine-tuning samples nothing, evaluates with transformers; set "
            "rollout.backend=transformers, and evaluate checkpoints with vLLM by grpo-mmpc evaluate --checkpoint",
        )


def trainer_arguments(raw: Mapping[str, Any]) -> Any:
    """Return the class of TRL whose fields ``trainer`` holds."""
    ensure_importable()
    import trl  # heavy: imported on use

    return trl.SFTConfig if raw.get("method") == "sft" else trl.GRPOConfig


def option_names(target: Any) -> list[str]:
    """Return the options that a dataclass is built with."""
    return [field.name for field in dataclasses.fields(target) if field.init]
