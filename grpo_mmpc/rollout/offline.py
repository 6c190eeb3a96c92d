"""The recipe's engine without a trainer: the base model, or a checkpoint's adapter on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import RunConfig

if TYPE_CHECKING:
    from grpo_mmpc.rollout import Engine


@contextmanager
def offline_engine(config: RunConfig, *, checkpoint: Path | None) -> Iterator["Engine"]:
    """The recipe's engine without a trainer: the base model, or a checkpoint's adapter on it."""
    from grpo_mmpc.models.policy import load_policy, load_processor

    processor = load_processor(config.model)
    if config.rollout.backend == "transformers":
        from grpo_mmpc.rollout.transformers_engine import TransformersEngine

        model = _on_best_device(load_policy(config.model, adapter=checkpoint))
        yield TransformersEngine(model, processor, batch_size=config.evaluation.batch_size)
        return
    # heavy: imported on use
    from transformers import AutoConfig

    from grpo_mmpc.rollout.vllm.arguments import suppressed_token_ids
    from grpo_mmpc.rollout.vllm.generation import VLLMEngine
    from grpo_mmpc.rollout.vllm.start import adapter_from_folder, start_engine
    from grpo_mmpc.utils.model_paths import resolve_model

    adapter = None if checkpoint is None else adapter_from_folder(checkpoint)
    suppressed = suppressed_token_ids(processor, AutoConfig.from_pretrained(resolve_model(config.model.name_or_path)))
    limits = config.evaluation.max_tokens.values()
    engine = start_engine(config, processor, suppressed=suppressed, max_tokens=max(limits, default=1))
    try:
        if adapter is not None:
            engine.load(adapter)
        yield VLLMEngine(engine, processor, adapter=adapter.name if adapter else None)
    finally:
        engine.close()


def _on_best_device(model: Any) -> Any:
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")
