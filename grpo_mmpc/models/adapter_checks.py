"""Checks of a recipe's ``adapter`` on its model, which is built without weights.

PEFT sees only the model whether names match it and how large a rank becomes; by then it is loaded.
"""

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from grpo_mmpc.config.problems import Problems
from grpo_mmpc.config.sections import ModelSection
from grpo_mmpc.errors import first_line
from grpo_mmpc.models.adapter_folder import is_side
from grpo_mmpc.models.policy import model_skeleton
from grpo_mmpc.models.start import start_problems
from grpo_mmpc.utils.cpu_compat import ensure_importable

_WITHOUT_EFFECT = re.compile("ignored|no parameter was matched|Setting fan_in_fan_out")
"""Warnings of PEFT that an option does nothing."""


def check_adapter(raw: Mapping[str, Any]) -> Problems:
    """Yield problems of the section as (key, message), where the model's configuration is here."""
    adapter = raw.get("adapter")
    try:
        section = ModelSection.model_validate(raw.get("model"))
    except ValidationError:  # reported by the schema
        return
    if isinstance(adapter, Mapping):
        yield from adapter_problems(section, adapter, local_files_only=True)


def adapter_problems(section: ModelSection, options: Mapping[str, Any], *, local_files_only: bool = False) -> Problems:
    """Yield what PEFT would refuse, allocate in vain or leave out of a LoRA on this model."""
    ensure_importable()
    # heavy: imported on use
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    try:
        skeleton = model_skeleton(section, local_files_only=local_files_only)
    except Exception:  # whatever a model raises that cannot be built so is said when it is loaded
        return
    linear = {name.rpartition(".")[2] for name, m in skeleton.named_modules() if isinstance(m, torch.nn.Linear)}
    known = inspect.signature(LoraConfig).parameters  # misspelt keys are reported by name
    try:
        with torch.device("meta"), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            values = {name: value for name, value in options.items() if name in known}
            model = get_peft_model(skeleton, LoraConfig(**{"task_type": "CAUSAL_LM", **values}))
            tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    except Exception as error:  # whatever PEFT raises is a problem of the values
        shown = f"PEFT refuses these values for {section.name_or_path}: {first_line(error)[:400]}"
        yield "adapter", shown + (f" Its linear layers: {', '.join(sorted(linear))}" if "target" in shown else "")
        return
    for text in dict.fromkeys(str(warning.message) for warning in said):
        if _WITHOUT_EFFECT.search(text):
            yield "adapter", f"{text[:400]} Correct or remove it"
    strange = [name for name in tensors if not is_side(name)]
    if strange:
        yield (
            "adapter",
            f"{len(strange)} tensors are no LoRA's matrices, such as {strange[0]}: engines and checkpoints would not "
            "take them; remove the key that adds them (adapter.lora_bias or the like)",
        )
    largest: dict[int, int] = {}
    for rank, most in _ranks(model):
        largest[rank] = max(most, largest.get(rank, 0))
    for rank, most in largest.items():
        if rank > most:
            key = "adapter.r" if rank == model.peft_config["default"].r else "adapter.rank_pattern"
            yield key, f"{rank:,} is above {most:,}, the largest rank that a layer it adapts can have; lower it"
    if section.init_from is not None:
        yield from start_problems(section, values, model.unload())


def _ranks(model: Any) -> Iterator[tuple[int, int]]:
    """Yield for each adapted layer the rank that it gets, and the largest that it can have."""
    # heavy: imported on use
    from peft.tuners.lora import LoraLayer

    for layer in model.base_model.model.modules():
        if isinstance(layer, LoraLayer) and hasattr(layer.get_base_layer(), "weight"):
            yield layer.r["default"], min(layer.get_base_layer().weight.flatten(1).shape)
