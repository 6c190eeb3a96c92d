"""TRL's GRPOTrainer with our additions, each a call of a named thing."""

import json
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from grpo_mmpc.models.adapter import has_adapter
from grpo_mmpc.rewards import RewardMix, completion_text
from grpo_mmpc.rewards.signals import zero_variance_groups
from grpo_mmpc.rollout.vllm.ahead import Batch, SampledAhead
from grpo_mmpc.rollout.vllm.rollouts import VLLMRollouts
from grpo_mmpc.training.arguments import updates_per_rollout
from grpo_mmpc.training.callbacks import StepProgress, TroubleLog
from grpo_mmpc.training.checkpoint import Start
from grpo_mmpc.training.diagnostics import Diagnosis, masked_fraction, rates
from grpo_mmpc.training.finished import finished_completions
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.training.resampling import ZeroVarianceResampler, drop_rows
from grpo_mmpc.training.run_trainer import RunTrainer
from grpo_mmpc.training.sampler import TaskBatchSampler
from grpo_mmpc.training.set_aside import SetAside
from grpo_mmpc.training.trl_seams import GatheredBatch, SeamedGRPOTrainer, TrainerCallback
from grpo_mmpc.training.unpadded import check_against_unpadded
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.distributed import launched_ranks
from grpo_mmpc.utils.files import write_json

logger = logging.getLogger(__name__)

_AHEAD = "rollouts_ahead_{rank}.json"
EXTRA_COLUMNS = ("prompt_id", "item_id", "category", "task", "image_path")


class RecordingGRPOTrainer(RunTrainer, SeamedGRPOTrainer):
    """GRPOTrainer that treats zero-variance groups, records rollouts and diagnoses the signal."""

    def __init__(
        self,
        *args: Any,
        recorder: RolloutRecorder,
        set_aside: SetAside,
        mix: RewardMix,
        dead_group_policy: str = "keep",
        **kwargs: Any,
    ) -> None:
        """Build TRL's trainer, whose ``reward_funcs`` are the mix's."""
        super().__init__(*args, **kwargs)
        self.recorder = recorder
        self.set_aside = set_aside
        self.mix = mix
        self.errors = mix.errors
        self._ranks = launched_ranks()
        self._dead_group_policy = dead_group_policy
        self._resampler = ZeroVarianceResampler(self, score=self._sample_and_score, zero_variance=self._zero_variance)
        self._diagnosis = Diagnosis(mix, aggregation=self.multi_objective_aggregation, scale_rewards=self.scale_rewards)
        self._inputs: list[dict[str, Any]] = []
        self._refused: dict[str, str] = {}
        self._is_checked = False
        self._max_masked_fraction = 1.0

    def use_rollouts(self, rollouts: VLLMRollouts, *, max_masked_fraction: float) -> None:
        """Take completions from our vLLM; warn where a larger share of tokens is masked."""
        self.take_completions_from(rollouts)
        self._max_masked_fraction = max_masked_fraction

    def upcoming(self) -> Batch | None:
        """Return this rank's prompts of the next step; None after the last one."""
        if self.state.global_step + 1 >= self.state.max_steps:
            return None
        rows = self._order.batch(self.state.global_step + 1)
        share = len(rows) // self._ranks.count
        own = self.train_dataset[rows[self._ranks.rank * share : (self._ranks.rank + 1) * share]]
        return self.prepared(own["prompt"], own["images"])

    @cached_property
    def _order(self) -> TaskBatchSampler:
        return self.train_sampler(self.train_dataset)

    @property
    def _ahead(self) -> SampledAhead | None:
        return self.vllm_generation.ahead if self.use_vllm else None

    def save_beside(self, checkpoint: Path) -> None:
        """Keep the completions that are sampled ahead, with which a run goes on."""
        if self._ahead is not None:
            write_json(checkpoint / _AHEAD.format(rank=self._ranks.rank), self._ahead.state(), indent=None)

    def reward_state(self) -> dict[str, Any]:
        """Return what rewards remember: the alarms' histories."""
        return {"alarms": self._diagnosis.state()}

    def go_on_from(self, start: Start) -> None:
        """Take up what rewards remember, and forget the rollouts of later steps."""
        if start.reward_state is not None:
            self._diagnosis.restore(start.reward_state["alarms"])
        if self._ahead is not None and start.checkpoint is not None:
            kept = start.checkpoint / _AHEAD.format(rank=self._ranks.rank)
            self._ahead.go_on(json.loads(kept.read_text("utf-8")) if kept.is_file() else [])  # of fewer ranks
        if not self.accelerator.is_main_process:
            return
        self.recorder.drop_after(start.step)
        steps = updates_per_rollout(self.args)
        if start.step % steps:
            logger.warning(
                "step %d lies between two rollouts (one serves %d steps, and TRL keeps none in a checkpoint): "
                "it samples anew and goes on as another run would; checkpoints of every %dth step continue exactly",
                *(start.step, steps, steps),
            )

    def own_callbacks(self, progress: Progress) -> Iterator[TrainerCallback]:
        """Yield what watches the learning signal and shows it."""
        yield TroubleLog(self.mix.weights)
        yield StepProgress([reward.name for reward in self.mix.rewards], progress)

    def close(self) -> None:
        """Stop what rewards run beside this process."""
        super().close()
        self.mix.close()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the rates of the logged steps to what TRL logs."""
        if self.model.training:
            logs.update(rates(self.step_metrics, completions_per_batch=self.args.generation_batch_size))
        super().log(logs, start_time)

    def train_sampler(self, dataset: Any) -> TaskBatchSampler:
        """Order prompts so that each generation batch holds one task."""
        return TaskBatchSampler(
            dataset.with_format(None)["task"][:],  # a column that is not copied reads every row for itself
            num_generations=self.num_generations,
            prompts_per_batch=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def generate_completions(self, prompts: list[Any]) -> Any:
        """Sample completions, while rewards encode what is known of them already."""
        if self.use_vllm:
            self.vllm_generation.conversations = prompts
            completions = super().generate_completions(prompts)
            if self._ahead is not None:
                self.note("sampling/staleness", self._ahead.staleness)
            for row, reason in self.vllm_generation.refused.items():
                self._inputs[row]["set_aside"] = reason
        else:
            # Rewards encode finished completions while the longest ones are still being written.
            model = self.accelerator.unwrap_model(self.model)
            model = model.get_base_model() if has_adapter(model) else model
            with finished_completions(model, end_tokens=self.eos_token_ids, receive=self._prepare_finished):
                completions = super().generate_completions(prompts)
        # A group may be spread over ranks, and be refused on one of them.
        reasons = [(row["prompt_id"], row["set_aside"]) for row in self._inputs if row["set_aside"] is not None]
        self._refused = dict(self._ranks.gather(reasons))
        for row in self._inputs:
            row["set_aside"] = self._refused.get(row["prompt_id"])
        return completions

    def _prepare_finished(self, finished: dict[int, list[int]]) -> None:
        finished = {row: ids for row, ids in finished.items() if self._inputs[row]["set_aside"] is None}
        texts = self.processing_class.tokenizer.batch_decode(list(finished.values()), skip_special_tokens=True)
        self.mix.prepare([self._inputs[row] for row in finished], completions=texts)

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Sample, score, treat zero-variance groups, diagnose and record a generation batch."""
        output, batch = self._sample_and_score(inputs)
        refused = self._refused
        output = self._treat_zero_variance(inputs, output, batch)
        self._leave_out(refused, inputs, output, batch)
        if "importance_sampling_ratio" in output:
            self._watch_masked_fraction(output)
        batch = batch.without(refused)
        if not batch.prompt_ids:
            return output
        metrics, alarms = self._diagnosis.metrics_of(batch)
        for name, value in metrics.items():
            self.note(name, value)
        for message in alarms:
            self.warn(message)
        if self.accelerator.is_main_process:
            self.recorder.write(
                step=self.state.global_step + 1,
                batch=batch,
                weights=self.mix.weights,
                num_generations=self.num_generations,
            )
        return output

    def _sample_and_score(self, inputs: list[dict[str, Any]]) -> tuple[dict[str, Any], GatheredBatch]:
        """Have TRL sample and score; returns its batch and what it logged of it over all ranks."""
        self._inputs = inputs
        for row in inputs:  # they were read a step ahead
            if row["set_aside"] is None and row["image_path"] and not Path(row["image_path"]).exists():
                row["set_aside"] = (
                    f"image {row['image_path']} does not exist any more; add the file or correct the path"
                )
        self.mix.prepare([row for row in inputs if row["set_aside"] is None])
        for column in EXTRA_COLUMNS:
            self.log_column(column, [row[column] for row in inputs])
        self.log_column("prompt_text", [completion_text(row["prompt"]) for row in inputs])
        output = super().generate_and_score(inputs)
        if not self._is_checked:
            check_against_unpadded(self, inputs, output, ranks=self._ranks)
            self._is_checked = True
        return output, self.last_batch(len(inputs) * self.accelerator.num_processes)

    def _leave_out(
        self, refused: Mapping[str, str], inputs: list[dict[str, Any]], output: dict[str, Any], batch: GatheredBatch
    ) -> None:
        """Mask the completions of prompts that were set aside on any rank, list and count them."""
        self.note("set_aside_share", len(refused) / len(set(batch.prompt_ids)))
        if not refused:
            return
        drop_rows(output, [i for i, row in enumerate(inputs) if row["prompt_id"] in refused])
        self.count_tokens(output)
        self.list_set_aside(refused)

    def _zero_variance(self, batch: GatheredBatch) -> set[str]:
        return zero_variance_groups(batch.raw, trained=self.mix.trained, groups=batch.prompt_ids)

    def _treat_zero_variance(
        self, inputs: list[dict[str, Any]], output: dict[str, Any], batch: GatheredBatch
    ) -> dict[str, Any]:
        """Follow ``rewards.dead_groups``; ``batch`` is changed with it."""
        flat = self._zero_variance(batch) - self._refused.keys()
        if scored := set(batch.prompt_ids) - self._refused.keys():
            self.note("dead_group_share", len(flat) / len(scored))
        if not flat:
            return output
        if self._dead_group_policy == "resample":
            return self._resampler.replace(inputs, output, batch, flat, self.mix.weights)
        if self._dead_group_policy == "drop":
            drop_rows(output, [i for i, row in enumerate(inputs) if row["prompt_id"] in flat])
            self.count_tokens(output)
        return output

    def _watch_masked_fraction(self, output: dict[str, Any]) -> None:
        fraction = masked_fraction(
            output["completion_mask"], output["importance_sampling_ratio"], gather=self.accelerator.gather
        )
        self.note("sampling/masked_fraction", fraction)
        if fraction > self._max_masked_fraction:
            self.warn(
                f"importance-sampling correction masks {fraction:.0%} of the tokens (bound "
                f"{self._max_masked_fraction:.0%}): engine and policy drift apart. Look at "
                "sampling/sampling_logp_difference in metrics.jsonl; usual causes are half precision on one side only, "
                "and top_k or top_p"
            )
