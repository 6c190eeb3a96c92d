"""Weight sync: the live adapter, or a policy that has none, travels to the engine after updates."""

from typing import TYPE_CHECKING, Any

from grpo_mmpc.models.adapter import has_adapter, read_adapter

if TYPE_CHECKING:
    from grpo_mmpc.rollout.vllm.protocol import GroupEngine


def sync_policy(engine: "GroupEngine", model: Any, *, name: str, previous: str | None) -> str | None:
    """Send the live adapter to an engine under a new name, and unload the one before.

    The base weights are never merged into, so nothing drifts, and the engine never mixes two
    adapters: it caches by name. Tensors are sent in the dtype to which the engine would cast them.
    A collective under ZeRO-3 and FSDP. A policy without an adapter is sent whole.

    Returns:
        The name of the adapter to ask for, None where there is none.
    """
    if not has_adapter(model):
        # heavy: imported on use
        from transformers.core_model_loading import revert_weight_conversion

        engine.load_weights(revert_weight_conversion(model, model.state_dict()).items())  # vLLM knows published names
        return None
    engine.load(read_adapter(model, name=name, dtype=engine.lora_dtype))
    if previous is not None:
        engine.unload(previous)
    return name
