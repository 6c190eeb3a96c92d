"""The engine on the policy in training: ``generate``, or a vLLM that receives the adapter."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter import has_adapter, is_sharded, other_weights
from grpo_mmpc.models.families import suppressed_token_ids
from grpo_mmpc.models.policy import adapter_off, load_policy
from grpo_mmpc.rollout.engine import Engine
from grpo_mmpc.rollout.transformers_engine import TransformersEngine
from grpo_mmpc.rollout.vllm.ahead import SampledAhead
from grpo_mmpc.rollout.vllm.arguments import refuse_unserved_targets, sampling_warning
from grpo_mmpc.rollout.vllm.rollouts import VLLMEngine, VLLMRollouts
from grpo_mmpc.rollout.vllm.start import start_engine
from grpo_mmpc.training.trainer import RecordingGRPOTrainer
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.distributed import launched_ranks

logger = logging.getLogger(__name__)


class LiveEngine:
    """Serves the rollouts of training and the evaluations between its steps, from one place."""

    def __init__(self, config: RunConfig, trainer: RecordingGRPOTrainer) -> None:
        """Start vLLM if the recipe asks for it, for the trainer too. A collective.

        Raises:
            RolloutError: It cannot start, or cannot serve the recipe's adapter.
        """
        self._config = config
        self._trainer = trainer
        self._processor = trainer.processing_class
        self._ranks = launched_ranks()
        self.suppressed_token_ids: list[int] = []
        """Tokens that vLLM never samples."""
        self.rollouts = self._start_vllm() if config.rollout.backend == "vllm" else None
        """The trainer's rollouts from vLLM; None where the policy generates by itself."""

    def _start_vllm(self) -> VLLMRollouts:
        trainer, arguments = self._trainer, self._trainer.args
        warning = sampling_warning(self._config.trainer)
        if warning is not None and self._ranks.is_main:
            logger.warning(warning)
        refuse_unserved_targets(
            [name for name, module in trainer.model.named_modules() if hasattr(module, "lora_A")],
            engine=self._config.rollout.engine.options(),
        )
        if not has_adapter(trainer.model) and is_sharded(trainer.model):
            raise RolloutError(
                "adapter: null under ZeRO-3 takes no rollouts from vLLM, to which a whole copy would travel; set "
                "rollout.backend=transformers, or use launch/accelerate/zero2.yaml or ddp.yaml"
            )
        self.suppressed_token_ids = suppressed_token_ids(self._processor, trainer.model.config)
        engine = start_engine(
            self._config,
            self._processor,
            suppressed=self.suppressed_token_ids,
            max_tokens=arguments.max_completion_length,
            ranks=self._ranks,
            num_sequences=arguments.generation_batch_size // self._ranks.count,
        )
        trainer.accelerator.wait_for_everyone()
        rollouts = VLLMRollouts(
            engine,
            trainer.model,
            SamplingConfig(
                max_tokens=arguments.max_completion_length,
                temperature=arguments.temperature,
                top_p=arguments.top_p,
                top_k=arguments.top_k,
                seed=self._config.seed,
            ),
            rank=self._ranks.rank,
            step=lambda: trainer.state.global_step,
            ahead=SampledAhead(trainer.upcoming, trainer.accelerator.wait_for_everyone)
            if self._config.rollout.ahead
            else None,
        )
        trainer.use_rollouts(rollouts, max_masked_fraction=self._config.rollout.parity.max_masked_fraction)
        return rollouts

    @contextmanager
    def open(self, *, base: bool) -> Iterator[Engine]:
        """Yield an engine on the policy as it is now, with ``base`` without its adapter."""
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        if self.rollouts is not None:
            is_swapped = base and not has_adapter(model)
            with self._base_model(model) if is_swapped else nullcontext():
                if is_swapped:
                    trainer.forget_sync()
                trainer.sync_rollouts()
                adapter = None if base else self.rollouts.adapter
                yield VLLMEngine(self.rollouts.engine, self._processor, adapter=adapter, ranks=self._ranks)
            if is_swapped:
                trainer.forget_sync()
            return
        from trl.models.utils import unwrap_model_for_generation  # heavy: imported on use

        with self._base_model(model) if base else nullcontext():
            yield TransformersEngine(
                trainer.model_wrapped,
                self._processor,
                batch_size=self._config.evaluation.batch_size,
                ranks=self._ranks,
                unwrap=partial(
                    unwrap_model_for_generation,
                    accelerator=trainer.accelerator,
                    gather_deepspeed3_params=getattr(trainer.args, "ds3_gather_for_generation", True),  # not of SFT
                    gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
                ),
            )

    def _base_model(self, model: Any) -> AbstractContextManager[None]:
        """Return a block in which a policy is what it was before the first step."""
        if has_adapter(model):
            return adapter_off(model)
        if self._trainer.state.global_step == 0:
            return nullcontext()
        return other_weights(model, partial(load_policy, self._config.model))

    def close(self) -> None:
        """Stop vLLM, so that no process stays behind."""
        if self.rollouts is not None:
            self.rollouts.engine.close()
            if self.rollouts.ahead is not None:
                self.rollouts.ahead.close()  # what it waits for has ended with the engine
