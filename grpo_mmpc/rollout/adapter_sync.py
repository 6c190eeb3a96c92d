"""Weight sync: the live adapter, and nothing else, travels to the engine after each update."""

from typing import TYPE_CHECKING, Any

from grpo_mmpc.models.adapter import read_adapter

if TYPE_CHECKING:
    from grpo_mmpc.rollout.vllm.protocol import GroupEngine


def sync_adapter(engine: "GroupEngine", model: Any, *, name: str, previous: str | None) -> None:
    """Send the live adapter to an engine under a new name, and unload the one before.

    The base weights are never merged into, so nothing drifts, and the engine never mixes two
    adapters: it caches by name. A collective under ZeRO-3 and FSDP.

    Args:
        engine: The engine; tensors are sent in the dtype to which it would cast them.
        model: The trainer's ``PeftModel``.
        name: New to the engine.
        previous: Name of the adapter that it replaces, if there is one.
    """
    engine.load(read_adapter(model, name=name, dtype=engine.lora_dtype))
    if previous is not None:
        engine.unload(previous)
