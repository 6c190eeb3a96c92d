"""TRL's GRPOTrainer with our additions: prompts task by task, rollouts by our vLLM, batches recorded and diagnosed.

Recording and diagnosis happen after TRL has computed the advantages, through its own per-batch
logs, which are already gathered over ranks. ``tests/training/test_trl_contract.py`` guards the
private names used here.
"""

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from trl import GRPOTrainer

from grpo_mmpc.rewards import RewardMix, advantages, completion_text
from grpo_mmpc.rewards.signals import dead_groups, signals
from grpo_mmpc.rollout.vllm.generation import VLLMRollouts
from grpo_mmpc.training.alarm import HackingAlarm
from grpo_mmpc.training.finished import finished_completions
from grpo_mmpc.training.rates import rates
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.training.resampling import drop_rows, groups_to_draw_again, replace_rows
from grpo_mmpc.training.sampler import TaskBatchSampler

logger = logging.getLogger(__name__)

EXTRA_COLUMNS = ("prompt_id", "item_id", "category", "task", "image_path")


@dataclass(slots=True)
class GatheredBatch:
    """One generation batch over all ranks, from TRL's logs."""

    logs: dict[str, list[Any]]
    """``completion``, ``advantages`` and every extra column, N each."""
    for_trainer: dict[str, list[float]]
    """By reward, N values as TRL got them; NaN = unscored."""

    def values(self, prefix: str) -> dict[str, list[float | None]]:
        """Columns ``raw/NAME`` or ``transformed/NAME`` by reward name."""
        return {name: self.logs[f"{prefix}/{name}"] for name in self.for_trainer}

    def put(self, position: int, other: "GatheredBatch", source: int) -> None:
        """Replace one completion by one of another batch."""
        for name, column in self.logs.items():
            column[position] = other.logs[name][source]
        for name, values in self.for_trainer.items():
            values[position] = other.for_trainer[name][source]


class RecordingGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer that applies weight schedules and the policy for dead groups, records rollouts and diagnoses signals."""

    def __init__(
        self, *args: Any, recorder: RolloutRecorder, mix: RewardMix, dead_group_policy: str = "keep", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._recorder = recorder
        self._mix = mix
        self._dead_group_policy = dead_group_policy
        self._alarms: dict[str, HackingAlarm] = {}
        self._inputs: list[dict[str, Any]] = []
        self._max_masked_fraction = 1.0

    def use_rollouts(self, rollouts: VLLMRollouts, *, max_masked_fraction: float) -> None:
        """Take completions from a vLLM of ours.

        TRL builds its own from its arguments, which says ``use_vllm: false`` here; the trainer
        itself only asks the object it composes to ``sync_weights`` and to ``generate``.

        Args:
            rollouts: Takes the place of TRL's ``VLLMGeneration``.
            max_masked_fraction: Share of tokens masked by importance-sampling correction above
                which to warn.
        """
        self.use_vllm = True
        self.vllm_mode = "server"  # nothing of TRL may reach for an engine object
        self.vllm_generation = rollouts
        self._last_loaded_step = -1
        self._max_masked_fraction = max_masked_fraction

    def sync_rollouts(self) -> None:
        """Send the live adapter unless the engine has it; what TRL does before the next rollouts."""
        if self.state.global_step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step

    def reward_state(self) -> dict[str, Any]:
        """What a checkpoint must keep of the rewards: running transforms and the alarm's history."""
        return {
            "transforms": self._mix.state(),
            "alarms": {task: alarm.state() for task, alarm in self._alarms.items()},
        }

    def restore_reward_state(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's ``reward_state``."""
        self._mix.restore(state["transforms"])
        for task, history in state["alarms"].items():
            self._alarm(task).restore(history)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the rates of the logged steps to what TRL logs."""
        if self.model.training:
            logs.update(rates(self._metrics["train"], completions_per_batch=self.args.generation_batch_size))
        super().log(logs, start_time)

    def _generate(self, prompts: list[Any]) -> Any:
        if self.use_vllm:
            self.vllm_generation.conversations = prompts
            return super()._generate(prompts)
        # Rewards encode what is done while the longest completions are still being written.
        model = self.accelerator.unwrap_model(self.model).get_base_model()
        with finished_completions(model, end_tokens=self.eos_token_ids, tell=self._prepare_finished):
            return super()._generate(prompts)

    def _prepare_finished(self, finished: dict[int, list[int]]) -> None:
        texts = self._tokenizer.batch_decode(list(finished.values()), skip_special_tokens=True)
        self._mix.prepare([self._inputs[row] for row in finished], completions=texts)

    def _get_train_sampler(self, dataset: Any = None) -> TaskBatchSampler:
        rows = self.train_dataset if dataset is None else dataset
        return TaskBatchSampler(
            rows.with_format(None)["task"],
            num_generations=self.num_generations,
            prompts_per_batch=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        weights = self._mix.weights_at(self.state.global_step)
        self.reward_weights = torch.tensor(list(weights.values()), dtype=torch.float32)
        output, batch = self._score(inputs)
        trained = [name for name in self._mix.trained if weights[name] > 0]
        dead = self._dead(batch, trained)
        self._note("dead_group_share", len(dead) / len(set(batch.logs["prompt_id"])))
        if not trained:
            dead = set()  # a schedule has not begun: nothing is to be learnt from any group
        if dead and self._dead_group_policy == "resample":
            output = self._resample(inputs, output, batch, dead, trained, weights)
        elif dead and self._dead_group_policy == "drop":
            prompts = [row["prompt_id"] for row in inputs]
            drop_rows(output, [i for i, prompt in enumerate(prompts) if prompt in dead])
            output["num_items_in_batch"] = self.accelerator.gather(output["completion_mask"].sum()).sum()
        if "importance_sampling_ratio" in output:
            self._watch_masked_fraction(output)
        self._diagnose(batch, weights)
        if self.accelerator.is_main_process:
            transformed = batch.values("transformed")
            self._recorder.write(
                step=self.state.global_step + 1,
                completions=batch.logs["completion"],
                advantages=batch.logs["advantages"],
                raw_rewards=batch.values("raw"),
                weighted_rewards={
                    name: [None if v is None else weights[name] * v for v in transformed[name]] for name in transformed
                },
                columns={name: batch.logs[name] for name in (*EXTRA_COLUMNS, "prediction", "format")},
                num_generations=self.num_generations,
            )
        return output

    def _score(self, inputs: list[dict[str, Any]]) -> tuple[dict[str, Any], GatheredBatch]:
        """TRL's own generation and scoring, and what it logged of them."""
        self._inputs = inputs
        self._mix.prepare(inputs)
        for column in EXTRA_COLUMNS:
            self._log_completion_extra(column, [row[column] for row in inputs])
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        count = len(inputs) * self.accelerator.num_processes
        columns = {
            "completion": self._logs["completion"],
            "advantages": self._logs["advantages"],
            **self._logs["extra"],
        }
        return output, GatheredBatch(
            logs={name: _last(values, count) for name, values in columns.items()},
            for_trainer={name: _last(self._logs["rewards"][name], count) for name in self.reward_func_names},
        )

    def _dead(self, batch: GatheredBatch, trained: list[str]) -> set[str]:
        return dead_groups(batch.values("transformed"), trained=trained, groups=batch.logs["prompt_id"])

    def _resample(
        self,
        inputs: list[dict[str, Any]],
        output: dict[str, Any],
        batch: GatheredBatch,
        dead: set[str],
        trained: list[str],
        weights: dict[str, float],
    ) -> dict[str, Any]:
        """Draw dead groups once again and put those that came alive in their place, in ``batch`` as well."""
        size, ranks, rank = self.num_generations, self.accelerator.num_processes, self.accelerator.process_index
        chosen = groups_to_draw_again(batch.logs["prompt_id"], dead, num_ranks=ranks, group_size=size)
        metrics = self._metrics["train" if self.model.training else "eval"]
        logged = {name: len(values) for name, values in metrics.items()}
        shown = {name: self._logs[name].copy() for name in ("prompt", "images")}
        again, fresh = self._score([inputs[group * size + i] for group in chosen[rank] for i in range(size)])
        for name in list(metrics):  # the step's own means stay those of its first draw
            del metrics[name][logged.get(name, 0) :]
            if name not in logged:
                del metrics[name]
        self._logs |= shown  # dead groups keep their prompts
        alive = dead - self._dead(fresh, trained)
        rows: dict[int, int] = {}
        for other_rank, groups in enumerate(chosen):
            for position, group in enumerate(groups):
                for i in range(size):
                    old = other_rank * len(inputs) + group * size + i
                    new = (other_rank * len(groups) + position) * size + i
                    if batch.logs["prompt_id"][old] in alive:
                        batch.put(old, fresh, new)
                        if other_rank == rank:
                            rows[group * size + i] = position * size + i
        self._note("resampled_share", len(alive) / len(dead))
        merged = replace_rows(output, again, rows, pad=self._tokenizer.pad_token_id)
        # Other groups' advantages depend on the new ones where the whole batch is normalised.
        batch.logs["advantages"] = advantages(
            {name: [None if v != v else v for v in values] for name, values in batch.for_trainer.items()},
            weights,
            groups=batch.logs["prompt_id"],
            aggregation=self.multi_objective_aggregation,
            scale_rewards=self.scale_rewards,
        )
        own = batch.logs["advantages"][rank * len(inputs) : (rank + 1) * len(inputs)]
        merged["advantages"] = torch.tensor(own, dtype=output["advantages"].dtype, device=output["advantages"].device)
        merged["num_items_in_batch"] = self.accelerator.gather(merged["completion_mask"].sum()).sum()
        self._show_in_logs(batch)
        return merged

    def _show_in_logs(self, batch: GatheredBatch) -> None:
        """What TRL prints and stores of completions is what is trained on."""
        self._logs["completion"] = deque(batch.logs["completion"], maxlen=self._logs["completion"].maxlen)
        self._logs["advantages"] = deque(batch.logs["advantages"], maxlen=self._logs["advantages"].maxlen)
        for kind, columns in (("extra", batch.logs), ("rewards", batch.for_trainer)):
            for name in self._logs[kind]:
                self._logs[kind][name] = deque(columns[name], maxlen=self._logs[kind][name].maxlen)

    def _note(self, name: str, value: float) -> None:
        """Log a metric that is the same on all ranks."""
        self._metrics["train" if self.model.training else "eval"][name].append(value)

    def _diagnose(self, batch: GatheredBatch, weights: dict[str, float]) -> None:
        """Log what the rewards say about the learning signal, and sound the alarm."""
        found = signals(
            batch.values("transformed"),
            weights,
            groups=batch.logs["prompt_id"],
            lengths=[len(completion_text(completion)) for completion in batch.logs["completion"]],
            aggregation=self.multi_objective_aggregation,
            scale_rewards=self.scale_rewards,
        )
        for name, value in found.items():
            self._note(name, value)
        means = {}
        for name, values in batch.values("raw").items():
            known = [value for value in values if value is not None]
            if known:
                means[name] = sum(known) / len(known)
        alarm = self._alarm(batch.logs["task"][0])
        for message in alarm.update(means):
            if self.accelerator.is_main_process:
                logger.warning("step %d: %s", self.state.global_step + 1, message)
        self._note("reward_hacking_alarms", float(len(alarm.ringing)))

    def _alarm(self, task: str) -> HackingAlarm:
        """One for each task: a generation batch holds one task, and rewards differ between them."""
        if task not in self._alarms:
            trained = self._mix.trained
            monitors = [reward.name for reward in self._mix.rewards if reward.name not in trained]
            self._alarms[task] = HackingAlarm(trained=trained, monitors=monitors)
        return self._alarms[task]

    def _watch_masked_fraction(self, output: dict[str, Any]) -> None:
        """Log the share of completion tokens that importance-sampling correction drops from the loss."""
        mask = output["completion_mask"].float()  # [B, T]
        dropped = (output["importance_sampling_ratio"] == 0).float().expand_as(mask)  # [B, T] or [B, 1]
        counts = self.accelerator.gather((dropped * mask).sum()), self.accelerator.gather(mask.sum())
        fraction = (counts[0].sum() / counts[1].sum().clamp(min=1)).item()
        self._note("sampling/masked_fraction", fraction)
        if fraction > self._max_masked_fraction and self.accelerator.is_main_process:
            logger.warning(
                "step %d: importance-sampling correction masks %.0f%% of the tokens (bound %.0f%%): engine and policy "
                "drift apart. Look at sampling/sampling_logp_difference in metrics.jsonl; usual causes are half "
                "precision on one side only, and top_k or top_p",
                self.state.global_step + 1,
                100 * fraction,
                100 * self._max_masked_fraction,
            )


def _last(values: Any, count: int) -> list[Any]:
    return list(values)[-count:]
