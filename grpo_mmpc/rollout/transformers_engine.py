"""Completions by ``generate`` of Transformers, from a policy in training or a loaded one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from grpo_mmpc.models.processor import image_token_id
from grpo_mmpc.rollout.engine import deal_over_ranks
from grpo_mmpc.rollout.prompts import model_inputs
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import ONE, Ranks

if TYPE_CHECKING:
    from accelerate import Accelerator


class TransformersEngine:
    """Implements ``Engine`` with ``model.generate``, in batches of equal number on every rank."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        batch_size: int,
        ranks: Ranks = ONE,
        accelerator: "Accelerator | None" = None,
        gather_deepspeed3_params: bool = True,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep references; nothing is copied or moved.

        Args:
            model: The policy, possibly wrapped by Accelerate, possibly a ``PeftModel``.
            processor: Its processor.
            batch_size: Prompts per ``generate`` call and rank.
            ranks: Those that run the same policy and share the rows.
            accelerator: The trainer's, which unwraps the policy; None for a model on one device.
            gather_deepspeed3_params: TRL's ``ds3_gather_for_generation``.
            gradient_checkpointing_kwargs: The trainer's; checkpointing is off while rows are
                generated and on again after.
        """
        self._model = model
        self._processor = processor
        self._batch_size = batch_size
        self._ranks = ranks
        self._accelerator = accelerator
        self._gather_deepspeed3_params = gather_deepspeed3_params
        self._gradient_checkpointing_kwargs = gradient_checkpointing_kwargs

    @property
    def rows_at_once(self) -> int:
        """One batch on every rank."""
        return self._batch_size * self._ranks.count

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        """See ``Engine.generate``. Training mode of the model is restored afterwards."""
        return deal_over_ranks(rows, lambda mine: self._generate_on_this_rank(mine, sampling), self._ranks)

    def _generate_on_this_rank(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        import torch

        completions: list[str] = []
        with self._unwrapped() as model, torch.no_grad():
            was_training = model.training
            model.eval()
            try:
                for start in range(0, len(rows), self._batch_size):
                    completions += self._generate_batch(model, rows[start : start + self._batch_size], sampling)
            finally:
                model.train(was_training)
        return completions

    @contextmanager
    def _unwrapped(self) -> Iterator[Any]:
        if self._accelerator is None:
            yield self._model
            return
        # heavy: imported on use
        from trl.models.utils import unwrap_model_for_generation

        with unwrap_model_for_generation(
            self._model,
            self._accelerator,
            gather_deepspeed3_params=self._gather_deepspeed3_params,
            gradient_checkpointing_kwargs=self._gradient_checkpointing_kwargs,
        ) as model:
            yield model

    def _generate_batch(self, model: Any, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        import torch

        inputs = model_inputs(rows, self._processor, device=model.device)
        with nullcontext() if sampling.temperature == 0 else torch.random.fork_rng():
            if sampling.temperature != 0:
                torch.manual_seed(sampling.seed)
            output = model.generate(**inputs, generation_config=self._generation_config(model, sampling))
        new_tokens = output[:, inputs["input_ids"].shape[1] :]  # [B, L]
        return list(self._processor.batch_decode(new_tokens, skip_special_tokens=True))

    def _generation_config(self, model: Any, sampling: SamplingConfig) -> Any:
        from transformers import GenerationConfig

        tokenizer = self._processor.tokenizer
        end = model.generation_config.eos_token_id
        end_ids = [end] if isinstance(end, int) else list(end or [])
        options: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            options = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted({*end_ids, tokenizer.eos_token_id}),
            # A sampled image token would ask the model for image features that do not exist.
            suppress_tokens=[image_token_id(model.config)],
            **options,
        )
