"""TRL's SFTTrainer on the prompts of GRPO, each with the answer that a perfect policy gives."""

from collections.abc import Iterator
from typing import Any

from grpo_mmpc.training.arguments import prompts_per_step
from grpo_mmpc.training.callbacks import StepProgress
from grpo_mmpc.training.run_trainer import RunTrainer
from grpo_mmpc.training.sampler import TaskBatchSampler
from grpo_mmpc.training.set_aside import SetAside
from grpo_mmpc.training.trl_seams import DataCollatorForVisionLanguageModeling, SeamedSFTTrainer, TrainerCallback
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.distributed import launched_ranks


class TargetCollator(DataCollatorForVisionLanguageModeling):  # type: ignore[misc]
    """TRL's collator with a loss on the answer alone, up to the token that ends it.

    A prompt that was set aside has no loss; ``refused`` collects the reasons, by prompt.
    """

    def __init__(self, processor: Any, end_tokens: list[int]) -> None:
        super().__init__(processor=processor, completion_only_loss=True)
        self.end_tokens = end_tokens
        self.refused: dict[str, str] = {}

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch: ``input_ids`` and ``labels`` [B, prompt + answer], and the images."""
        # heavy: imported on use
        import torch

        reasons = {e["prompt_id"]: e["set_aside"] for e in examples if e["set_aside"] is not None}
        left_out = [i for i, example in enumerate(examples) if example["set_aside"] is not None]
        self.refused |= reasons
        batch: dict[str, Any] = super().torch_call(examples)
        labels = batch["labels"]
        # Templates write a line break or so after the end, which nobody will ask the policy for.
        ends = torch.isin(labels, torch.tensor(self.end_tokens))
        labels[ends.cumsum(1) - ends.long() > 0] = -100
        labels[left_out] = -100
        return batch


class TargetSFTTrainer(RunTrainer, SeamedSFTTrainer):
    """SFTTrainer that takes prompts in GRPO's order and leaves out those that cannot be shown."""

    def __init__(self, *, model: Any, processing_class: Any, set_aside: SetAside, **kwargs: Any) -> None:
        """Build TRL's trainer, whose collator is ours."""
        ends = model.generation_config.eos_token_id
        tokens = [processing_class.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
        self.collator = TargetCollator(processing_class, [token for token in tokens if token is not None])
        super().__init__(model=model, processing_class=processing_class, data_collator=self.collator, **kwargs)
        self.set_aside = set_aside
        self.errors = {}
        self._ranks = launched_ranks()

    def train_sampler(self, dataset: Any) -> TaskBatchSampler:
        """Order prompts so that each step holds one task, as the steps of GRPO do."""
        return TaskBatchSampler(
            dataset.with_format(None)["task"][:],  # a column that is not copied reads every row for itself
            num_generations=1,
            prompts_per_batch=prompts_per_step(self.args),
            repeat_count=1,
            shuffle=True,
            seed=self.args.seed,
        )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return TRL's loss: the mean of -log p over the answers' tokens of the step."""
        refused, self.collator.refused = dict(self._ranks.gather(list(self.collator.refused.items()))), {}
        self.list_set_aside(refused)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def own_callbacks(self, progress: Progress) -> Iterator[TrainerCallback]:
        """Yield what shows the loss."""
        yield StepProgress([], progress)

    def forget_sync(self) -> None:
        """Do nothing: this policy generates by itself."""
