"""Completions by ``generate`` of Transformers, from a policy in training or a loaded one."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from grpo_mmpc.models.processor import image_token_id
from grpo_mmpc.rollout.engine import deal_over_ranks
from grpo_mmpc.rollout.prompts import model_inputs
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import ONE, Ranks


@dataclass
class TransformersEngine:
    """Implements ``Engine`` with ``model.generate``, in batches of equal number on every rank."""

    model: Any
    """The policy, possibly wrapped by Accelerate, possibly a ``PeftModel``."""
    processor: Any
    batch_size: int = field(kw_only=True)
    """Prompts per ``generate`` call and rank."""
    ranks: Ranks = field(default=ONE, kw_only=True)
    """Those that run the same policy and share the rows."""
    unwrap: Callable[[Any], AbstractContextManager[Any]] = field(default=nullcontext, kw_only=True)
    """Makes a model that Accelerate has wrapped one that generates, for a while."""

    @property
    def rows_at_once(self) -> int:
        """One batch on every rank."""
        return self.batch_size * self.ranks.count

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        """See ``Engine.generate``. Training mode of the model is restored afterwards."""
        return deal_over_ranks(rows, lambda mine: self._generate_on_this_rank(mine, sampling), self.ranks)

    def _generate_on_this_rank(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        import torch

        completions: list[str] = []
        with self.unwrap(self.model) as model, torch.no_grad():
            was_training = model.training
            model.eval()
            try:
                for start in range(0, len(rows), self.batch_size):
                    completions += self._generate_batch(model, rows[start : start + self.batch_size], sampling)
            finally:
                model.train(was_training)
        return completions

    def _generate_batch(self, model: Any, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        import torch

        inputs = model_inputs(rows, self.processor, device=model.device)
        with nullcontext() if sampling.temperature == 0 else torch.random.fork_rng():
            if sampling.temperature != 0:
                torch.manual_seed(sampling.seed)
            output = model.generate(**inputs, generation_config=self._generation_config(model, sampling))
        new_tokens = output[:, inputs["input_ids"].shape[1] :]  # [B, L]
        return list(self.processor.batch_decode(new_tokens, skip_special_tokens=True))

    def _generation_config(self, model: Any, sampling: SamplingConfig) -> Any:
        from transformers import GenerationConfig

        tokenizer = self.processor.tokenizer
        end = model.generation_config.eos_token_id
        end_ids = [end] if isinstance(end, int) else list(end or [])
        sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted({*end_ids, tokenizer.eos_token_id}),
            # A sampled image token would ask the model for image features that do not exist.
            suppress_tokens=[image_token_id(model.config)],
            do_sample=sampling.temperature > 0,
            **(sampled if sampling.temperature > 0 else {}),
        )
