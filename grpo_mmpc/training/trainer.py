"""TRL's GRPOTrainer with our additions: prompts task by task, rollouts by our vLLM, batches recorded and diagnosed.

Recording and diagnosis happen after TRL has computed the advantages, through its own per-batch logs, which are already
gathered over ranks. ``tests/training/test_trl_contract.py`` guards the private names used here.
"""

import logging
from typing import Any

from trl import GRPOTrainer

from grpo_mmpc.rollout.vllm_rollouts import VLLMRollouts
from grpo_mmpc.training.diagnostics import dead_group_share
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.training.sampler import TaskBatchSampler

logger = logging.getLogger(__name__)

EXTRA_COLUMNS = ("prompt_id", "item_id", "category", "task", "image_path")


class RecordingGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer that writes rollouts to Parquet and logs ``dead_group_share`` and ``sampling/masked_fraction``."""

    def __init__(self, *args: Any, recorder: RolloutRecorder, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recorder = recorder
        self._max_masked_fraction = 1.0

    def use_rollouts(self, rollouts: VLLMRollouts, *, max_masked_fraction: float) -> None:
        """Take completions from a vLLM of ours.

        TRL builds its own from its arguments, which says ``use_vllm: false`` here; the trainer itself only asks the
        object it composes to ``sync_weights`` and to ``generate``.

        Args:
            rollouts: Takes the place of TRL's ``VLLMGeneration``.
            max_masked_fraction: Share of tokens masked by importance-sampling correction above which to warn.
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

    def _generate(self, prompts: list[Any]) -> Any:
        if self.use_vllm:
            self.vllm_generation.conversations = prompts
        return super()._generate(prompts)

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
        for column in EXTRA_COLUMNS:
            self._log_completion_extra(column, [row[column] for row in inputs])
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if "importance_sampling_ratio" in output:
            self._watch_masked_fraction(output)
        extra = {name: list(values) for name, values in self._logs["extra"].items()}
        advantages = list(self._logs["advantages"])
        trained = [
            name
            for name, weight in zip(self.reward_func_names, self.reward_weights.tolist(), strict=True)
            if weight > 0
        ]
        raw = {name: extra[f"raw/{name}"] for name in self.reward_func_names}
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["dead_group_share"].append(
            dead_group_share([raw[name] for name in trained], group_size=self.num_generations)
        )
        if self.accelerator.is_main_process:
            self._recorder.write(
                step=self.state.global_step + 1,
                completions=list(self._logs["completion"]),
                advantages=advantages,
                raw_rewards=raw,
                columns={name: extra[name] for name in (*EXTRA_COLUMNS, "prediction", "format")},
                num_generations=self.num_generations,
            )
        return output

    def _watch_masked_fraction(self, output: dict[str, Any]) -> None:
        """Log the share of completion tokens that importance-sampling correction drops from the loss."""
        mask = output["completion_mask"].float()  # [B, T]
        dropped = (output["importance_sampling_ratio"] == 0).float().expand_as(mask)  # [B, T] or [B, 1]
        counts = self.accelerator.gather((dropped * mask).sum()), self.accelerator.gather(mask.sum())
        fraction = (counts[0].sum() / counts[1].sum().clamp(min=1)).item()
        self._metrics["train" if self.model.training else "eval"]["sampling/masked_fraction"].append(fraction)
        if fraction > self._max_masked_fraction and self.accelerator.is_main_process:
            logger.warning(
                "step %d: importance-sampling correction masks %.0f%% of the tokens (bound %.0f%%): engine and policy "
                "drift apart. Look at sampling/sampling_logp_difference in metrics.jsonl; usual causes are half "
                "precision on one side only, and top_k or top_p",
                self.state.global_step + 1,
                100 * fraction,
                100 * self._max_masked_fraction,
            )
