"""TRL's GRPOTrainer with three additions: prompts come task by task, generation batches are recorded and diagnosed.

The last two happen after TRL has computed the advantages, through its own per-batch logs, which are already gathered
over ranks. ``tests/training/test_trl_contract.py`` guards the private names used here.
"""

from typing import Any

from trl import GRPOTrainer

from grpo_mmpc.training.diagnostics import dead_group_share
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.training.sampler import TaskBatchSampler

EXTRA_COLUMNS = ("prompt_id", "item_id", "category", "task", "image_path")


class RecordingGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer that writes rollouts to Parquet and logs ``dead_group_share``."""

    def __init__(self, *args: Any, recorder: RolloutRecorder, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recorder = recorder

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
