"""Completions by ``generate`` of Transformers, from a policy in training or a loaded one."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter import is_sharded
from grpo_mmpc.models.families import context_length, image_token_id
from grpo_mmpc.rollout.engine import deal_over_ranks
from grpo_mmpc.rollout.prompts import accepted_inputs
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.single_out import Failure, is_out_of_memory, single_out

logger = logging.getLogger(__name__)


@dataclass
class TransformersEngine:
    """Implements ``Engine`` with ``model.generate``, in batches of equal number on every rank."""

    model: Any
    """The policy, possibly wrapped by Accelerate, possibly a ``PeftModel``."""
    processor: Any
    batch_size: int = field(kw_only=True)
    """Prompts per ``generate`` call and rank; halved for good when they exceed the memory."""
    ranks: Ranks = field(default=ONE, kw_only=True)
    """Those that run the same policy and share the rows."""
    unwrap: Callable[[Any], AbstractContextManager[Any]] = field(default=nullcontext, kw_only=True)
    """Makes a model that Accelerate has wrapped one that generates, for a while."""
    rows_at_once: int = field(init=False)
    """One batch on every rank; the same on all of them, whatever fits into the memory of each."""

    def __post_init__(self) -> None:
        self.rows_at_once = self.batch_size * self.ranks.count
        self._is_sharded = is_sharded(self.model)

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str | Failure]:
        """See ``Engine.generate``. Training mode of the model is restored afterwards."""
        answer = partial(self._generate_on_this_rank, sampling=sampling)
        return deal_over_ranks(rows, answer, self.ranks, is_collective=self._is_sharded)

    def _generate_on_this_rank(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str | Failure]:
        import torch

        with self.unwrap(self.model) as model, torch.no_grad():
            work = partial(self._generate_batch, model, sampling=sampling)
            was_training = model.training
            model.eval()
            try:
                if self._is_sharded:
                    batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
                    return [result for batch in batches for result in work(batch)]
                return single_out(
                    work,
                    rows,
                    batch_size=lambda: self.batch_size,
                    what="the policy",
                    memory_advice="Not even one prompt fits into memory: lower model.processor_kwargs.max_pixels or "
                    "evaluation.max_tokens, load the model in bfloat16 (model.init_kwargs.dtype), or free the device",
                    error=RolloutError,
                    num_distinct=len({row.prompt_id for row in rows}),
                )
            finally:
                model.train(was_training)

    def _generate_batch(self, model: Any, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str | Failure]:
        try:
            inputs, refusals = accepted_inputs(
                rows,
                self.processor,
                device=model.device,
                max_tokens=sampling.max_tokens,
                context=context_length(model.config),
                fill=self._is_sharded,
            )
            texts = [] if inputs is None else self._generated_texts(model, inputs, sampling)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) and len(rows) > 1:
                self.batch_size = len(rows) // 2
                logger.warning("%d prompts exceed the memory; going on with %d at a time", len(rows), self.batch_size)
            raise
        if not self._is_sharded:  # refused rows are not among the texts
            remaining = iter(texts)
            texts = [next(remaining) if refused is None else "" for refused in refusals]
        return [text if refused is None else refused for text, refused in zip(texts, refusals, strict=True)]

    def _generated_texts(self, model: Any, inputs: dict[str, Any], sampling: SamplingConfig) -> list[str]:
        import torch

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
