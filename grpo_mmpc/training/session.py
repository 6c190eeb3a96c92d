"""A training session: a recipe's policy, rewards, trainer, engine and callbacks wired together."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.policy import load_policy, show_special_tokens
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rewards import RewardMix
from grpo_mmpc.rollout.engine import Engine
from grpo_mmpc.rollout.parity_check import choose_rows
from grpo_mmpc.tasks.prompt_rows import prompt_rows
from grpo_mmpc.training.arguments import grpo_arguments, lora_arguments
from grpo_mmpc.training.callbacks import GracefulStop, MetricsWriter, RewardStateWriter, StepProgress
from grpo_mmpc.training.checkpoint import prepare_to_resume
from grpo_mmpc.training.dataset import training_dataset
from grpo_mmpc.training.evaluation_hook import Evaluate, EvaluationHook
from grpo_mmpc.training.live_engine import LiveEngine
from grpo_mmpc.training.parity_callback import ParityCheck, compare_engine
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.training.trainer import RecordingGRPOTrainer
from grpo_mmpc.training.trl_seams import PrinterCallback, full_size, wrap_own_blocks
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.distributed import launched_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of training."""

    step: int
    max_steps: int
    interrupted: bool
    reward_errors: dict[str, int]
    """Completions each reward failed on (``on_error: unscored``)."""


class TrainingSession:
    """One training run in this process; every rank builds its own."""

    def __init__(
        self,
        config: RunConfig,
        *,
        catalogue: Catalogue,
        train_indices: Sequence[int],
        progress: Progress | None = None,
    ) -> None:
        """Load policy and rewards, build TRL's trainer, start the engine.

        Raises:
            TrainingError: The model cannot be loaded or the adapter does not fit it.
            RolloutError: The engine cannot start.
        """
        self._config = config
        arguments = grpo_arguments(config)  # before the model: ZeRO-3 must know that it will shard it
        self.ranks = launched_ranks()
        data = config.data
        dataset = training_dataset(
            catalogue, train_indices, config.tasks, max_items=data.max_train_items, salt=data.salt
        )
        _check_batches_fill(arguments, num_items=len(dataset) // len(config.tasks))
        self.processor = load_processor(config.model)
        self.mix = RewardMix.from_specs(
            config.rewards.mix,
            on_error=config.rewards.on_error,
            time_limit=config.rewards.time_limit,
            ranks=self.ranks,
        )
        self.mix.fit([title for title in catalogue.items.select(train_indices)["title"] if title])
        model = load_policy(config.model)
        show_special_tokens(model, self.processor.tokenizer)
        self._recorder = RolloutRecorder(Path(config.run_dir) / "rollouts")
        try:
            self.trainer = RecordingGRPOTrainer(
                model=model,
                reward_funcs=self.mix.functions,
                args=arguments,
                train_dataset=dataset,
                processing_class=self.processor,
                peft_config=lora_arguments(config),
                recorder=self._recorder,
                mix=self.mix,
                dead_group_policy=config.rewards.dead_groups,
            )
        except ValueError as error:
            raise TrainingError(f"the trainer refuses this recipe: {error}") from error
        if self.trainer.is_fsdp_enabled:
            wrap_own_blocks(self.trainer.model, self.trainer.accelerator.state.fsdp_plugin)
        self._engine = LiveEngine(config, self.trainer, self.processor)
        self.hook = EvaluationHook(raise_errors=config.evaluation.on_error == "raise")
        self._stop = GracefulStop(self.ranks)
        self._add_callbacks(catalogue, train_indices, progress or Progress())

    def _add_callbacks(self, catalogue: Catalogue, train_indices: Sequence[int], progress: Progress) -> None:
        """Replace TRL's printing by ours; evaluation sees a checkpoint that is whole."""
        config, trainer = self._config, self.trainer
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(MetricsWriter(Path(config.run_dir) / "metrics.jsonl"))
        trainer.add_callback(RewardStateWriter(trainer.reward_state))
        trainer.add_callback(StepProgress([reward.name for reward in self.mix.rewards], progress))
        if self._engine.rollouts is not None and config.rollout.parity.enabled:
            rows = choose_rows(prompt_rows(catalogue, train_indices, config.tasks), config.rollout.parity.rows)
            compare = partial(compare_engine, config, trainer, self.processor, self._engine, rows, ranks=self.ranks)
            if rows:
                trainer.add_callback(ParityCheck(lambda step: compare(step=step)))
        trainer.add_callback(self.hook)
        trainer.add_callback(self._stop)

    @property
    def parameters(self) -> int:
        """Parameters of policy and adapter together."""
        return sum(full_size(parameter) for parameter in self.trainer.model.parameters())

    @property
    def trainable_parameters(self) -> int:
        """Parameters the optimiser updates."""
        return sum(full_size(p) for p in self.trainer.model.parameters() if p.requires_grad)

    @property
    def step(self) -> int:
        """Updates done so far."""
        return int(self.trainer.state.global_step)

    def train(self, *, before: Evaluate | None, after_save: Evaluate | None, resume: bool) -> Outcome:
        """Run GRPO until ``max_steps``, or until it is interrupted and saved.

        Raises:
            TrainingError: There is nothing to resume.
        """
        self.hook.before, self.hook.after_save = before, after_save
        checkpoint = prepare_to_resume(self.trainer, self._recorder, ranks=self.ranks) if resume else None
        with self._stop.request.listening():
            self.trainer.train(resume_from_checkpoint=checkpoint)
        state = self.trainer.state
        return Outcome(
            step=state.global_step,
            max_steps=state.max_steps,
            interrupted=self._stop.stopped,
            reward_errors=dict(self.mix.errors),
        )

    def engine(self, *, base: bool) -> AbstractContextManager[Engine]:
        """Open an engine on the policy as it is now, with ``base`` without its adapter."""
        return self._engine.open(base=base)

    def close(self) -> None:
        """Stop what runs beside this process and leave the process group."""
        self.mix.close()
        self._engine.close()
        self.trainer.accelerator.end_training()


def _check_batches_fill(arguments: Any, *, num_items: int) -> None:
    prompts = arguments.generation_batch_size // arguments.num_generations
    if num_items < prompts:
        raise TrainingError(
            f"{num_items} training items do not fill one generation batch of {prompts} prompts "
            f"(generation_batch_size {arguments.generation_batch_size} / num_generations {arguments.num_generations}); "
            "add items, or lower trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps"
        )
