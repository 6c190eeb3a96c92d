"""The adapter that training starts from (``model.init_from``), which is trained on as it is.

It is a stranger's file perhaps: held to the recipe's model and ``adapter`` section before a model
loads, so that never another LoRA, or half of one, is trained on in its place.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config.problems import Problems, short
from grpo_mmpc.errors import AdapterError, TrainingError
from grpo_mmpc.models.adapter import read_adapter
from grpo_mmpc.models.adapter_folder import CONFIG, WEIGHTS, AdapterFolder, check_base, check_fits, open_adapter
from grpo_mmpc.utils.sections import section

if TYPE_CHECKING:
    from peft import LoraConfig

    from grpo_mmpc.config import ModelSection
    from grpo_mmpc.config.loading import Layers

_NOT_OF_THE_UPDATE = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "init_lora_weights", "runtime_config", "megatron_config", "megatron_core"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "target_modules"),
    *("ensure_weight_tying", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}
"""Fields of ``LoraConfig`` that say how an adapter began, or which modules it has, as its weights
do."""
_UNCHANGED_BASE = (True, False, None, "gaussian", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base model's own weights alone."""


def take_options(layers: "Layers") -> None:
    """Write into a recipe's ``adapter`` what it leaves out of the adapter that it starts from."""
    start, adapter = section(layers.merged, "model").get("init_from"), layers.merged.get("adapter", {})
    if not isinstance(start, str) or not isinstance(adapter, Mapping):
        return
    try:
        opened = open_adapter(Path(start))
    except (AdapterError, OSError):  # reported by the checks
        return
    given = _options(opened) | {"target_modules": opened.config["target_modules"]}
    for name, value in given.items():
        if name not in adapter:
            layers.merged.setdefault("adapter", {})[name] = value
            layers.origins[f"adapter.{name}"] = str(opened.folder / CONFIG)


def start_problems(section: "ModelSection", options: Mapping[str, Any], skeleton: Any) -> Problems:
    """Yield why an adapter cannot be trained on under this model and ``adapter`` section.

    Args:
        section: Names the adapter.
        options: The section ``adapter``.
        skeleton: The model without weights.
    """
    # heavy: imported on use
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    try:
        opened = open_adapter(Path(str(section.init_from)))
        check_base(opened, section)
        check_fits(opened, skeleton)
    except (AdapterError, OSError) as error:
        yield "model.init_from", str(error)
        return
    initial = opened.config.get("init_lora_weights", True)
    if initial not in _UNCHANGED_BASE:
        yield (
            "model.init_from",
            f"{opened.folder} began with init_lora_weights={initial}, which changes the base model's own weights; it "
            "fits no base as it is, and no KL to it can be measured: give another adapter",
        )
    theirs, plain = _options(opened), _defaults()
    differing = [
        name
        for name in (*theirs, *(name for name in options if name in plain))
        if name != "lora_dropout" and options.get(name, plain.get(name)) != theirs.get(name, plain.get(name))
    ]
    for name in dict.fromkeys(differing):
        theirs_shown, ours = short(theirs.get(name, plain.get(name))), short(options.get(name, plain.get(name)))
        yield (
            f"adapter.{name}",
            f"is {ours}, and {theirs_shown} in {opened.folder}, which is trained on as it is (model.init_from); remove "
            "it, or start without model.init_from",
        )
    if differing:
        return
    lora = LoraConfig(**{"task_type": "CAUSAL_LM", **options})
    state = get_peft_model_state_dict(get_peft_model(skeleton, lora), save_embedding_layers=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if shapes != opened.shapes:
        other = sorted(name for name in {*shapes, *opened.shapes} if shapes.get(name) != opened.shapes.get(name))
        yield (
            "adapter.target_modules",
            f"gives {len(shapes)} tensors, {opened.folder} has {len(opened.shapes)}, and {len(other)} differ, such as "
            f"{other[0]}; remove adapter.target_modules, so that the adapter's own modules are trained on",
        )


def load_start(model: Any, section: "ModelSection", lora: "LoraConfig") -> Any:
    """Return a ``PeftModel`` whose LoRA is the adapter that training starts from.

    Raises:
        AdapterError: It cannot be used, or is another model's.
    """
    # heavy: imported on use
    from peft import get_peft_model
    from peft.utils import set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers.integrations import is_deepspeed_zero3_enabled

    opened = open_adapter(Path(str(section.init_from)))
    check_fits(opened, model)
    # As TRL makes a LoRA: ZeRO-3 gathers parameters of one precision only.
    policy = get_peft_model(model, lora, autocast_adapter_dtype=not is_deepspeed_zero3_enabled())
    set_peft_model_state_dict(policy, load_file(opened.folder / WEIGHTS))
    return policy


def check_started(model: Any, start: str) -> None:
    """Hold the policy in training to the adapter that it should start from. A collective.

    Raises:
        TrainingError: Its LoRA is another one.
    """
    # heavy: imported on use
    import torch
    from safetensors.torch import load, load_file

    live, saved = load(read_adapter(model, name="start").weights), load_file(Path(start) / WEIGHTS)
    same = live.keys() == saved.keys() and all(torch.equal(t, saved[name].to(t.dtype)) for name, t in live.items())
    if not same:
        raise TrainingError(f"the policy is not that of model.init_from={start} before the first step")


def _options(opened: AdapterFolder) -> dict[str, Any]:
    """Return the fields of an adapter that are not PEFT's defaults, and those that recipes set."""
    plain = _defaults()
    always = ("r", "lora_alpha", "lora_dropout")
    return {name: opened.config.get(name, plain[name]) for name in always} | {
        name: value
        for name, value in opened.config.items()
        if name in plain and value != plain[name] and name not in _NOT_OF_THE_UPDATE and value not in ({}, [], None)
    }


def _defaults() -> dict[str, Any]:
    from peft import LoraConfig  # heavy: imported on use

    plain = dataclasses.asdict(LoraConfig())
    return {name: plain[name] for name in plain if name not in _NOT_OF_THE_UPDATE}
