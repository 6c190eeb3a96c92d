"""A training session: policy, trainer and callbacks wired together, with an engine on the live policy."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from accelerate import PartialState

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError, TrainingError
from grpo_mmpc.models.adapter import is_identity, read_adapter
from grpo_mmpc.models.policy import adapter_off, load_policy, load_processor
from grpo_mmpc.rewards import RewardMix
from grpo_mmpc.rollout import Engine
from grpo_mmpc.rollout.parity import check_parity, choose_rows
from grpo_mmpc.rollout.transformers_engine import TransformersEngine
from grpo_mmpc.rollout.vllm.arguments import refuse_unserved_targets, sampling_warning, suppressed_token_ids
from grpo_mmpc.rollout.vllm.generation import VLLMEngine, VLLMRollouts
from grpo_mmpc.rollout.vllm.start import start_engine
from grpo_mmpc.tasks.prompt_rows import prompt_rows
from grpo_mmpc.training.arguments import grpo_arguments, lora_arguments, updates_per_rollout
from grpo_mmpc.training.callbacks import (
    Evaluate,
    EvaluationHook,
    GracefulStop,
    MetricsWriter,
    ParityCheck,
    ProgressLine,
    RewardState,
)
from grpo_mmpc.training.dataset import training_dataset
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.training.trainer import RecordingGRPOTrainer
from grpo_mmpc.types import SamplingConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How training ended."""

    step: int
    max_steps: int
    interrupted: bool
    reward_errors: dict[str, int]
    """Completions each reward failed on (``on_error: unscored``)."""


class TrainingSession:
    """Built once per run; every rank builds its own."""

    def __init__(self, config: RunConfig, *, catalogue: Catalogue, train_indices: Sequence[int]) -> None:
        """Load the policy and build TRL's trainer.

        Raises:
            TrainingError: The model cannot be loaded or the adapter does not fit it.
        """
        self._config = config
        run_dir = Path(config.run_dir)
        arguments = grpo_arguments(config)  # before the model: ZeRO-3 must know that it will shard it
        dataset = training_dataset(
            catalogue,
            train_indices,
            config.tasks,
            max_items=config.data.max_train_items,
            salt=config.data.salt,
        )
        _check_batches_fill(arguments, num_items=len(dataset) // len(config.tasks))
        self.processor = load_processor(config.model)
        self.mix = RewardMix.from_specs(
            config.rewards.mix,
            on_error=config.rewards.on_error,
            time_limit=config.rewards.time_limit,
            gather=_gather_lists,
            rank=PartialState().process_index,
        )
        self.mix.fit([title for title in catalogue.items.select(train_indices)["title"] if title])
        model = load_policy(config.model)
        _show_special_tokens(model, self.processor.tokenizer)
        self._recorder = RolloutRecorder(run_dir / "rollouts")
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
            wrap_blocks_that_exist(self.trainer.model, self.trainer.accelerator.state.fsdp_plugin)
        self._rollouts = self._start_rollouts() if config.rollout.backend == "vllm" else None
        self._parity_rows = (
            choose_rows(prompt_rows(catalogue, train_indices, config.tasks), config.rollout.parity.rows)
            if self._rollouts is not None and config.rollout.parity.enabled
            else []
        )
        self.hook = EvaluationHook(before=None, after_save=None, raise_errors=config.evaluation.on_error == "raise")
        self._stop = GracefulStop(self._any_rank)
        self._use_own_progress(run_dir)

    def _use_own_progress(self, run_dir: Path) -> None:
        from transformers import PrinterCallback

        self.trainer.remove_callback(PrinterCallback)
        self.trainer.add_callback(MetricsWriter(run_dir / "metrics.jsonl"))
        self.trainer.add_callback(RewardState(self.trainer.reward_state))
        self.trainer.add_callback(ProgressLine([reward.name for reward in self.mix.rewards]))
        if self._parity_rows:
            self.trainer.add_callback(ParityCheck(self._check_parity))
        self.trainer.add_callback(self.hook)
        self.trainer.add_callback(self._stop)

    def _start_rollouts(self) -> VLLMRollouts:
        arguments, trainer = self.trainer.args, self.trainer
        warning = sampling_warning(self._config.trainer)
        if warning is not None and trainer.accelerator.is_main_process:
            logger.warning(warning)
        refuse_unserved_targets([name for name, module in trainer.model.named_modules() if hasattr(module, "lora_A")])
        self._suppressed = suppressed_token_ids(self.processor, trainer.model.config)
        engine = start_engine(
            self._config,
            self.processor,
            suppressed=self._suppressed,
            max_tokens=arguments.max_completion_length,
            is_main_process=trainer.accelerator.is_main_process,
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
            rank=trainer.accelerator.process_index,
            step=lambda: trainer.state.global_step,
        )
        trainer.use_rollouts(rollouts, max_masked_fraction=self._config.rollout.parity.max_masked_fraction)
        return rollouts

    def _check_parity(self, step: int) -> bool:
        """Compare engine and policy; returns whether every rank's engine was told from the base model."""
        assert self._rollouts is not None
        self.trainer.sync_rollouts()
        accelerator, settings = self.trainer.accelerator, self._config.rollout.parity
        identity = is_identity(read_adapter(self.trainer.model, name="live"))
        report = check_parity(
            self.trainer.model_wrapped,
            self.processor,
            self._rollouts.engine,
            self._parity_rows,
            adapter=self._rollouts.adapter,
            adapter_is_identity=identity,
            suppressed_token_ids=self._suppressed,
            max_tokens=min(32, self.trainer.args.max_completion_length),
            temperature=self.trainer.args.temperature,
            step=step,
            mean_tolerance=settings.mean_tolerance,
            dtype="bfloat16" if self.trainer.args.bf16 else "float16" if self.trainer.args.fp16 else None,
        )
        if accelerator.is_main_process:
            path = Path(self._config.run_dir) / "parity.jsonl"
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(report.as_dict()) + "\n")
            print(  # noqa: T201
                f"parity at step {step}: {report.tokens} tokens of {report.rows} prompts, log-probabilities of engine "
                f"and policy differ by {report.mean_difference:.1e} on average, {report.max_difference:.1e} at most"
                + ("" if identity or report.tells_policy_from_base else "; the update is too small to be seen yet"),
                flush=True,
            )
        anyone = self._any_rank(bool(report.problems))  # first, so that no rank waits for one that has stopped
        report.raise_on_problems()
        if anyone:
            raise RolloutError(f"another rank found that its engine is not the policy (step {step}); see its message")
        return not self._any_rank(not report.tells_policy_from_base)

    @property
    def parameters(self) -> int:
        """Parameters of policy and adapter together."""
        return sum(_full_size(parameter) for parameter in self.trainer.model.parameters())

    @property
    def trainable_parameters(self) -> int:
        """Parameters the optimiser updates."""
        return sum(_full_size(p) for p in self.trainer.model.parameters() if p.requires_grad)

    def train(self, *, before: Evaluate | None, after_save: Evaluate | None, resume: bool) -> Outcome:
        """Run GRPO until ``max_steps``, or until it is interrupted and saved.

        Args:
            before: Evaluates the base model before the first step.
            after_save: Evaluates the policy after every saved checkpoint.
            resume: Start from the newest checkpoint.
        """
        self.hook.before, self.hook.after_save = before, after_save
        checkpoint = self._newest_checkpoint() if resume else None
        if checkpoint is not None:
            self._continue_from(Path(checkpoint))
        with self._stop.handling_signals():
            self.trainer.train(resume_from_checkpoint=checkpoint)
        state = self.trainer.state
        return Outcome(
            step=state.global_step,
            max_steps=state.max_steps,
            interrupted=self._stop.stopped,
            reward_errors=dict(self.mix.errors),
        )

    @contextmanager
    def engine(self, *, base: bool) -> Iterator[Engine]:
        """An engine on the policy as it is now, or with ``base`` on the model without its adapter."""
        if self._rollouts is not None:
            self.trainer.sync_rollouts()
            yield VLLMEngine(
                self._rollouts.engine,
                self.processor,
                adapter=None if base else self._rollouts.adapter,
                accelerator=self.trainer.accelerator,
            )
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with adapter_off(model) if base else nullcontext():
            yield TransformersEngine(
                self.trainer.model_wrapped,
                self.processor,
                batch_size=self._config.evaluation.batch_size,
                accelerator=self.trainer.accelerator,
                gather_deepspeed3_params=self.trainer.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.trainer.args.gradient_checkpointing_kwargs,
            )

    def from_main(self, value: T) -> T:
        """The main process's value on every rank: other nodes may not see its files, and ranks that disagree hang."""
        if self.trainer.accelerator.num_processes == 1:
            return value
        # heavy: imported on use
        from accelerate.utils import broadcast_object_list

        return cast(T, broadcast_object_list([value])[0])

    @property
    def step(self) -> int:
        """Updates done so far."""
        return int(self.trainer.state.global_step)

    def close(self) -> None:
        """Stop the engine and leave the process group, so that nothing stays behind and no rank warns about it."""
        self.mix.close()
        if self._rollouts is not None:
            self._rollouts.engine.close()
        self.trainer.accelerator.end_training()

    def _newest_checkpoint(self) -> str:
        from transformers.trainer_utils import get_last_checkpoint

        folder = self.trainer.args.output_dir
        newest = get_last_checkpoint(folder) if Path(folder).is_dir() else None
        if newest is None:
            raise TrainingError(f"nothing to resume: no checkpoint in {folder}; start again with --overwrite")
        return str(newest)

    def _continue_from(self, checkpoint: Path) -> None:
        """Bring back what Transformers does not, and take away what will be done again."""
        arguments, is_main = self.trainer.args, self.trainer.accelerator.is_main_process
        done = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["global_step"]
        if 0 < arguments.max_steps <= done:  # Transformers would train one step beyond the last
            run_dir = self._config.run_dir
            raise TrainingError(
                f"nothing to resume: step {done} of {arguments.max_steps} is done; next: grpo-mmpc report {run_dir} "
                f"(an evaluation that is missing: grpo-mmpc evaluate {run_dir}/config.yaml --checkpoint {checkpoint})"
            )
        self.trainer.restore_reward_state(self.from_main(RewardState.read(checkpoint) if is_main else {}))
        if not is_main:
            return
        self._recorder.drop_after(done)
        steps = updates_per_rollout(arguments)
        if done % steps:
            logger.warning(
                "step %d lies between two rollouts (one serves %d steps, and TRL keeps none in a checkpoint): this run draws "
                "anew and goes on as another one would; checkpoints of every %dth step continue exactly",
                done,
                steps,
                steps,
            )

    def _any_rank(self, flag: bool) -> bool:
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return flag
        import torch

        return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item())


def _show_special_tokens(model: Any, tokenizer: Any) -> None:
    """Repeat the text model's special tokens on the composite configuration.

    Transformers looks for them there, finds none, and would warn on every run that it "aligned"
    equal tokens.
    """
    text_config = model.config.get_text_config()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(text_config, name, None) == getattr(tokenizer, name):
            setattr(model.config, name, getattr(tokenizer, name))


def _check_batches_fill(arguments: Any, *, num_items: int) -> None:
    prompts = arguments.generation_batch_size // arguments.num_generations
    if num_items < prompts:
        raise TrainingError(
            f"{num_items} training items do not fill one generation batch of {prompts} prompts "
            f"(generation_batch_size {arguments.generation_batch_size} / num_generations {arguments.num_generations}); "
            "add items, or lower trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps"
        )


def wrap_blocks_that_exist(model: Any, plugin: Any) -> None:
    """Tell Accelerate's FSDP which of the architecture's blocks this model has.

    It takes the architecture's whole list and stops at one that is missing: Gemma-3 names blocks of
    SigLIP's text tower.

    Args:
        model: The policy.
        plugin: Accelerate's ``FullyShardedDataParallelPlugin``; left alone if a launch file names
            blocks.
    """
    if plugin.transformer_cls_names_to_wrap is None:
        there = {type(module).__name__ for module in model.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(there & set(model._no_split_modules))


def _gather_lists(items: list[Any]) -> list[Any]:
    """Concatenation over ranks; on one process the list itself."""
    from accelerate.utils import gather_object

    return list(gather_object(items))


def _full_size(parameter: Any) -> int:
    """Elements of a parameter, also where ZeRO-3 keeps only a shard of it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
