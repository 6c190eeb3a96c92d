"""Log-probabilities of a completion under policy or base model, to which engines are held."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from grpo_mmpc.models.policy import adapter_off
from grpo_mmpc.rollout.prompts import model_inputs
from grpo_mmpc.types import PromptRow


def log_probabilities(
    model: Any,
    processor: Any,
    row: PromptRow,
    completion_ids: list[int],
    *,
    suppressed_token_ids: Sequence[int],
    temperature: float = 1.0,
    base: bool = False,
) -> list[float]:
    """Return the log-probability of each completion token, after suppression and temperature.

    A collective where the policy is sharded. Training mode of the model is restored afterwards.

    Args:
        model: A ``PeftModel`` or a whole model, possibly wrapped by DDP or DeepSpeed.
        processor: Its processor.
        row: The prompt.
        completion_ids: T tokens that follow it.
        suppressed_token_ids: Tokens of probability 0.
        temperature: Divides the logits; 0 stands for 1.
        base: Switch the adapter off.
    """
    # heavy: imported on use
    import torch

    device = next(model.parameters()).device
    inputs = model_inputs([row], processor, device=device)
    prompt_length = inputs["input_ids"].shape[1]
    tail = torch.tensor([completion_ids], device=device)  # [1, T]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    for name, value in (("attention_mask", 1), ("token_type_ids", 0), ("mm_token_type_ids", 0)):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.full_like(tail, value, dtype=inputs[name].dtype)], dim=1)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), adapter_off(getattr(model, "module", model)) if base else nullcontext():
            logits = model(**inputs).logits[0, prompt_length - 1 : -1].float()  # [T, V]
    finally:
        model.train(was_training)
    logits[:, list(suppressed_token_ids)] = -math.inf
    scores = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    return [float(value) for value in scores.gather(1, tail.T)[:, 0].tolist()]
