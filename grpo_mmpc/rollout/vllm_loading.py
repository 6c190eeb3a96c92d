"""Starting the vLLM that a recipe asks for: in this process, one server of our own, or servers that already run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.groups import Adapter, GroupEngine
from grpo_mmpc.rollout.vllm_arguments import engine_arguments


def start_engine(config: RunConfig, processor: Any, *, suppressed: Sequence[int], is_main_process: bool) -> GroupEngine:
    """The engine of ``rollout`` (``backend: vllm``), ready for prompts. Call it on every rank.

    Args:
        config: The recipe.
        processor: The policy's processor.
        suppressed: Token ids that are never sampled.
        is_main_process: In server mode without ``rollout.servers`` this rank starts the server.

    Raises:
        RolloutError: It cannot start, or is not the engine that the recipe needs.
    """
    arguments = engine_arguments(config)
    if config.rollout.mode == "server":
        return _connect(config, suppressed, is_main_process)
    from grpo_mmpc.rollout.vllm_local import LocalVLLM

    engine = LocalVLLM(arguments, processor, suppressed_token_ids=suppressed, sleep=config.rollout.sleep)
    try:
        _check_image_attention(config, engine.image_attention, type(processor).__name__)
    except RolloutError:
        engine.close()
        raise
    return engine


def adapter_from_folder(folder: Path) -> Adapter:
    """A saved adapter (a checkpoint folder) as bytes.

    Raises:
        RolloutError: The folder holds none.
    """
    try:
        return Adapter(
            name=folder.name,
            config=(folder / "adapter_config.json").read_bytes(),
            weights=(folder / "adapter_model.safetensors").read_bytes(),
        )
    except FileNotFoundError as error:
        raise RolloutError(
            f"{folder} holds no adapter ({Path(str(error.filename)).name} is missing); give a checkpoint folder such "
            "as RUN/checkpoints/checkpoint-80"
        ) from None


def _check_image_attention(config: RunConfig, engine: str, processor: str) -> None:
    if processor != "Gemma3Processor":
        return
    policy = config.model.image_attention or "bidirectional"
    if policy != engine:
        raise RolloutError(
            f"image tokens of this policy attend {policy}ly, those of this vLLM's back end {engine}ly: log-probabilities "
            f"would differ by about 0.1 a token. Set model.image_attention={engine}, or rollout.backend=transformers"
        )


def _connect(config: RunConfig, suppressed: Sequence[int], is_main_process: bool) -> GroupEngine:
    raise NotImplementedError
