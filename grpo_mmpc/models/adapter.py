"""A LoRA adapter as bytes, read from a policy (whatever shards it) or from a checkpoint."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter_folder import WEIGHTS, AdapterFolder

_WRAPPERS = ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter in PEFT's format."""

    name: str
    """Unique for its content: engines cache by name."""
    config: bytes
    """``adapter_config.json``."""
    weights: bytes
    """``adapter_model.safetensors``."""


def read_adapter(model: Any, *, name: str, dtype: str | None = None) -> Adapter:
    """Read the active LoRA of a policy.

    A collective under ZeRO-3 and FSDP: every rank calls it and gets the same bytes.

    Args:
        model: The ``PeftModel``, unwrapped from DDP or DeepSpeed; its parameters may be sharded.
        name: Name of the result.
        dtype: Name of the torch dtype to cast the tensors to; None keeps them.
    """
    # heavy: imported on use
    import torch
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save

    own = f".{model.active_adapter}"  # beside it there may be a frozen copy of the start
    parameters = {name: p for name, p in model.named_parameters() if "lora_" in name and own in name}
    if not parameters:
        raise RolloutError("the policy has no LoRA parameters to send to vLLM")
    with _whole(list(parameters.values())):
        cast_to = None if dtype is None else getattr(torch, dtype)
        state = {_plain(key): _full(parameter, cast_to) for key, parameter in parameters.items()}
    tensors = get_peft_model_state_dict(
        model, state_dict=state, adapter_name=model.active_adapter, save_embedding_layers=False
    )
    return Adapter(name=name, config=_config_bytes(model.peft_config[model.active_adapter]), weights=save(tensors))


def adapter_from_folder(adapter: AdapterFolder) -> Adapter:
    """Read a checked adapter; engines get the modules that its weights name, and no pattern."""
    suffixes = sorted({module.rpartition(".")[2] for module in adapter.config["target_modules"]})
    config = {**adapter.config, "target_modules": suffixes}
    return Adapter(
        name=adapter.folder.name,
        config=json.dumps(config).encode(),
        weights=(adapter.folder / WEIGHTS).read_bytes(),
    )


@contextmanager
def loaded_adapter(model: Any, folder: Path) -> Iterator[None]:
    """Put a checkpoint's adapter in place of the live one for the duration of a block.

    Raises:
        RolloutError: The policy is sharded, so that no process could load it alone.
    """
    # heavy: imported on use
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    if is_sharded(model):
        raise RolloutError(f"a sharded policy takes no other adapter; run grpo-mmpc evaluate --checkpoint {folder}")
    own = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    try:
        set_peft_model_state_dict(model, load_file(folder / WEIGHTS))
        yield
    finally:
        set_peft_model_state_dict(model, own)


@contextmanager
def other_weights(model: Any, load: Callable[[], Any]) -> Iterator[None]:
    """Put another model's weights in place of a whole policy's for the duration of a block.

    Args:
        model: A policy without an adapter.
        load: Loads the other one.

    Raises:
        RolloutError: The policy is sharded, so that no process could load it alone.
    """
    if is_sharded(model):
        raise RolloutError(
            "a sharded policy without an adapter takes no other weights; run grpo-mmpc evaluate with --base or "
            "--checkpoint instead"
        )
    own = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(load().state_dict())
        yield
    finally:
        model.load_state_dict(own)


def has_adapter(model: Any) -> bool:
    """Return whether a policy is a ``PeftModel``, and not trained as a whole."""
    return hasattr(model, "peft_config")


def is_sharded(model: Any) -> bool:
    """Return whether ZeRO-3 or FSDP keeps parameters in pieces, so that passes are collectives."""
    return any(hasattr(p, "ds_id") or hasattr(p, "full_tensor") for p in model.parameters())


def is_identity(adapter: Adapter) -> bool:
    """Return whether the adapter changes nothing: every B is still zero, as PEFT initialises it."""
    # heavy: imported on use
    from safetensors.torch import load

    return not any(bool(tensor.any()) for key, tensor in load(adapter.weights).items() if "lora_B" in key)


@contextmanager
def _whole(parameters: list[Any]) -> Iterator[None]:
    """Assemble parameters that ZeRO-3 keeps in pieces; the base model stays sharded."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    # heavy: imported on use
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield


def _full(parameter: Any, dtype: Any) -> Any:
    tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter  # FSDP2's DTensor
    tensor = tensor.detach()
    return tensor.to("cpu", dtype or tensor.dtype, copy=True).contiguous()


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _config_bytes(config: Any) -> bytes:
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return json.dumps(fields | {"inference_mode": True}, default=str).encode()
