"""Weight sync: the live adapter, and nothing else, travels to the engine after each update."""

from typing import TYPE_CHECKING, Any

from grpo_mmpc.models.adapter import read_adapter

if TYPE_CHECKING:
    from grpo_mmpc.rollout.vllm.protocol import GroupEngine


def sync_adapter(engine: "GroupEngine", model: Any, *, name: str, previous: str | None) -> None:
    """Send the live adapter to an engine under a new name, and unload the one before.

    The base weights are never merged into, so nothing drifts, and the engine never mixes two
    adapters: it caches by name. Tensors are sent in the dtype to which the engine would cast them.
    A collective under ZeRO-3 and FSDP.
    """
    engine.load(read_adapter(model, name=name, dtype=engine.lora_dtype))
    if previous is not None:
        engine.unload(previous)
