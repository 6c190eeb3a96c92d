"""A training session: the trainer of a recipe, its engine and its callbacks."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.adapter import has_adapter, is_identity, loaded_adapter, other_weights, read_adapter
from grpo_mmpc.models.adapter_checks import adapter_problems
from grpo_mmpc.models.families import context_length
from grpo_mmpc.models.policy import load_policy, show_special_tokens, whole_model
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.models.start import check_started, load_start
from grpo_mmpc.rewards import RewardMix
from grpo_mmpc.rollout.engine import Engine
from grpo_mmpc.rollout.parity_check import choose_rows
from grpo_mmpc.rollout.trainer_prompts import check_trainer_prompts
from grpo_mmpc.training.arguments import (
    check_batches_fill,
    check_sharded_policy,
    lora_arguments,
    training_arguments,
)
from grpo_mmpc.training.callbacks import GracefulStop, MetricsWriter
from grpo_mmpc.training.checkpoint import find_start
from grpo_mmpc.training.dataset import training_dataset
from grpo_mmpc.training.evaluation_hook import AllStepsDone, Evaluate, EvaluationHook
from grpo_mmpc.training.faults import FiniteUpdates, explained_faults
from grpo_mmpc.training.live_engine import LiveEngine
from grpo_mmpc.training.parity_callback import ParityCheck, compare_engine
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.training.set_aside import SetAside
from grpo_mmpc.training.sft_trainer import TargetSFTTrainer
from grpo_mmpc.training.trainer import RecordingGRPOTrainer
from grpo_mmpc.training.trl_seams import PrinterCallback, TrainerCallback, forwarded_inputs, full_size, wrap_own_blocks
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.distributed import Ranks, launched_ranks
from grpo_mmpc.utils.processes import StopRequest
from grpo_mmpc.utils.single_out import SET_ASIDE_FILE

logger = logging.getLogger(__name__)

Trainer = RecordingGRPOTrainer | TargetSFTTrainer

_COMPARED_PROMPTS = 8
"""Prompts that are made together and alone before a model loads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEnd:
    """The end of training."""

    step: int
    max_steps: int
    interrupted: bool
    reward_errors: dict[str, int]
    """Completions each reward failed on (``on_error: unscored``)."""


def build_trainer(config: RunConfig, data: RunData, *, ranks: Ranks) -> Trainer:
    """Build TRL's trainer of a recipe: its arguments, its prompts, its rewards, its policy.

    Raises:
        TrainingError: The items do not fill a batch, the model cannot be loaded, or the adapter
            does not fit it.
        RewardError: A reward cannot be built, or fails on the corpus.
    """
    is_sft, template = config.method == "sft", config.chat_template_kwargs
    # Before the model: ZeRO-3 must know that it will shard it.
    arguments = training_arguments(config)
    check_sharded_policy(config, arguments)
    processor = load_processor(
        config.model, chat_template_kwargs=template if is_sft else arguments.chat_template_kwargs
    )
    asked = [config.known_tasks[task].greedy(config.evaluation.max_tokens).max_tokens for task in config.tasks]
    longest = max(asked) if is_sft else arguments.max_completion_length
    set_aside = SetAside(Path(config.run_dir) / SET_ASIDE_FILE, data.catalogue, processor, max_tokens=longest)
    dataset = training_dataset(config, data, refuse=set_aside.refusal, answers=is_sft, processor=processor)
    check_batches_fill(arguments, num_items=len(dataset) // len(config.tasks))
    mix = None if is_sft else _mix(config, data, ranks)
    rows = choose_rows(data.spaced_rows(config.tasks), _COMPARED_PROMPTS)
    check_trainer_prompts(rows, processor, forwarded=forwarded_inputs())
    for key, problem in adapter_problems(config.model, config.adapter.options()) if config.adapter else ():
        raise TrainingError(f"{key}: {problem}")
    model = load_policy(config.model)
    show_special_tokens(model, processor.tokenizer)
    lora = lora_arguments(config)
    if config.model.init_from is not None and lora is not None:
        # TRL measures KL from a policy that comes with its adapter.
        model, lora = load_start(model, config.model, lora), None
    set_aside.context = context_length(model.config)
    common = {"model": model, "args": arguments, "train_dataset": dataset, "processing_class": processor}
    common |= {"peft_config": lora, "set_aside": set_aside}
    try:
        trainer: Trainer = (
            TargetSFTTrainer(**common)
            if mix is None
            else RecordingGRPOTrainer(
                **common,
                reward_funcs=mix.functions,
                recorder=RolloutRecorder(Path(config.run_dir) / "rollouts"),
                mix=mix,
                dead_group_policy=config.rewards.dead_groups,
            )
        )
    except ValueError as error:
        raise TrainingError(f"the trainer refuses this recipe: {error}") from error
    if trainer.is_fsdp_enabled:
        wrap_own_blocks(trainer.model, trainer.accelerator.state.fsdp_plugin)
    _check_adapter(trainer, config.model.init_from)
    return trainer


def _mix(config: RunConfig, data: RunData, ranks: Ranks) -> RewardMix:
    rewards = config.rewards
    mix = RewardMix.from_specs(
        rewards.mix,
        aggregation=rewards.aggregation,
        on_error=rewards.on_error,
        time_limit=rewards.time_limit,
        ranks=ranks,
        known_tasks=config.known_tasks,
    )
    mix.fit(data.training_texts, images=data.training_images)
    return mix


class TrainingSession:
    """The trainer of one run with its engine and callbacks; every rank has its own."""

    def __init__(
        self,
        config: RunConfig,
        data: RunData,
        *,
        progress: Progress | None = None,
        request: StopRequest | None = None,
    ) -> None:
        """Build the trainer and start the engine; ``request`` hears the signals that ask to stop.

        Raises:
            TrainingError: See ``build_trainer``.
            RolloutError: The engine cannot start.
        """
        self._config = config
        self.ranks = launched_ranks()
        self.trainer = build_trainer(config, data, ranks=self.ranks)
        self._engine = LiveEngine(config, self.trainer)
        if self._engine.rollouts is not None:
            self.trainer.set_aside.context = self._engine.rollouts.engine.max_model_len
        request = request or StopRequest("")
        self.hook = EvaluationHook(request, self.ranks, raise_errors=config.evaluation.on_error == "raise")
        self._stop = GracefulStop(request, self.ranks)
        self.trainer.remove_callback(PrinterCallback)  # ours says more
        self._progress = progress or Progress()
        for callback in self._callbacks(config, data, self._progress):
            self.trainer.add_callback(callback)

    def _callbacks(self, config: RunConfig, data: RunData, progress: Progress) -> Iterator[TrainerCallback]:
        """Yield the callbacks in their order: evaluation sees a checkpoint that is whole."""
        yield MetricsWriter(Path(config.run_dir) / "metrics.jsonl")
        yield from self.trainer.own_callbacks(progress)
        parity = config.rollout.parity
        if self._engine.rollouts is not None and parity.enabled:
            everything = data.spaced_rows(config.tasks)

            def taken(count: int) -> list[PromptRow]:
                return [r for r in choose_rows(everything, count) if self.trainer.set_aside.refusal(r) is None]

            rows = taken(parity.rows) or taken(16 * parity.rows)[: parity.rows]
            compare = partial(compare_engine, config, self.trainer, self._engine, rows, ranks=self.ranks)
            if rows:
                yield ParityCheck(lambda step: compare(step=step), sees_updates=has_adapter(self.trainer.model))
        yield FiniteUpdates(self.ranks, self.trainer.note)
        yield self._stop
        yield self.hook

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

    def train(self, *, before: Evaluate | None, after_save: Evaluate | None) -> TrainingEnd:
        """Train until ``max_steps``, or until it is interrupted and saved.

        Goes on from the newest whole checkpoint of the run, if there is one.
        """
        self.hook.before, self.hook.after_save = before, after_save
        self.hook.finish_saving = self.trainer.finish_saving
        start = self._go_on()
        trainer = self.trainer
        faults = explained_faults(trainer.args, step=lambda: trainer.state.global_step)
        with self._progress, suppress(AllStepsDone), faults:
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
            trainer.finish_saving()
        state = trainer.state
        if state.global_step and has_adapter(trainer.model) and is_identity(read_adapter(trainer.model, name="end")):
            logger.warning(
                "the adapter is still the base model after %d steps: no update moved it; look at grad_norm, "
                "learning_rate and dead_group_share in metrics.jsonl",
                state.global_step,
            )
        return TrainingEnd(
            step=state.global_step,
            max_steps=state.max_steps,
            interrupted=self._stop.stopped,
            reward_errors=dict(trainer.errors),
        )

    def _go_on(self) -> Path | None:
        """Return the checkpoint to continue from, having forgotten what came after it."""
        start = find_start(Path(self.trainer.args.output_dir), ranks=self.ranks)
        self.trainer.go_on_from(start)
        return start.checkpoint

    def engine(self, *, base: bool) -> AbstractContextManager[Engine]:
        """Open an engine on the policy as it is now, with ``base`` without its adapter."""
        return self._engine.open(base=base)

    @contextmanager
    def holding(self, checkpoint: Path) -> Iterator[None]:
        """Hold an earlier checkpoint's policy for the duration of a block."""
        model = self.trainer.model
        with (
            loaded_adapter(model, checkpoint)
            if has_adapter(model)
            else other_weights(model, partial(load_policy, whole_model(self._config.model, checkpoint)))
        ):
            self.trainer.forget_sync()
            try:
                yield
            finally:
                self.trainer.forget_sync()

    def close(self) -> None:
        """Stop what runs beside this process and leave the process group."""
        self.trainer.close()
        self._engine.close()
        self.trainer.accelerator.end_training()


def _check_adapter(trainer: Trainer, start: str | None) -> None:
    """Refuse an adapter that cannot move, or is not the start: off, it must be the base model."""
    if not any(parameter.requires_grad for parameter in trainer.model.parameters()):
        raise TrainingError("nothing is trainable: adapter.target_modules or another key of adapter freezes everything")
    if start is not None:
        check_started(trainer.model, start)
    elif has_adapter(trainer.model) and not is_identity(read_adapter(trainer.model, name="start")):
        raise TrainingError(
            "the adapter changes the policy before the first step, so that the base model that is measured is not the "
            "one that is trained; remove adapter.init_lora_weights"
        )
