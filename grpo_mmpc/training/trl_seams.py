"""Every private or undocumented name of TRL's trainer that this toolkit leans on.

Read in TRL 1.16.0. No other module of this package touches a name of TRL or Transformers that
starts with an underscore, so a new TRL is this file's work. ``docs/upstream.md`` lists the names,
why each is needed, and the test that fails when it moves (``tests/training/test_trl_seams.py``).

Transformers' trainer and TRL are imported from here: both import torchvision, which must be
importable by then, and TRL would import vLLM.
"""

import inspect
import logging
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()

import trl.import_utils as trl_finds  # noqa: E402
from transformers import (  # noqa: E402
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import rotate_checkpoints  # noqa: E402


@contextmanager
def _vllm_unseen() -> Iterator[None]:
    """Keep TRL from importing vLLM, seconds of work, for a client and an engine of its own.

    Rollouts by vLLM are ours, which import it themselves.
    """
    seen = trl_finds.is_vllm_available
    trl_finds.is_vllm_available = lambda min_version=None: False
    try:
        yield
    finally:
        trl_finds.is_vllm_available = seen


with _vllm_unseen():
    from trl import GRPOTrainer, SFTTrainer
    from trl.data_utils import prepare_multimodal_messages
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling
    from trl.trainer.utils import strip_images_from_messages

__all__ = [
    "REFERENCE",
    "DataCollatorForVisionLanguageModeling",
    "GRPOTrainer",
    "GatheredBatch",
    "PrinterCallback",
    "SeamedGRPOTrainer",
    "SeamedSFTTrainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "forwarded_inputs",
    "full_size",
    "rotate_checkpoints",
    "wrap_own_blocks",
]


TRL_LOGGER = logging.getLogger("trl.trainer.grpo_trainer")


def _is_not_about_unscored(record: logging.LogRecord) -> bool:
    return "All reward functions returned None" not in record.getMessage()


def forwarded_inputs() -> frozenset[str]:
    """Return the names of a processor's tensors that TRL passes on to the model."""
    return frozenset(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)


TOKEN_COUNT = "num_items_in_batch"
"""Key of a batch: completion tokens of all ranks, by which token-normalised losses divide."""
COMPLETION_TENSORS = (
    "completion_mask",
    "old_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
    "ref_per_token_logps",
)
"""Keys of a batch besides ``completion_ids``: tensors ``[B, L]`` over the completion's tokens."""
REFERENCE = "ref"
"""Name of the frozen adapter that KL is measured from, beside one that was there already."""
TYPE_TENSORS = ("token_type_ids", "mm_token_type_ids")
"""Keys of a batch: tensors ``[B, prompt + L]``, 0 for everything but the prompt's image tokens."""


@dataclass(slots=True)
class GatheredBatch:
    """One generation batch over all ranks, from TRL's logs."""

    logs: dict[str, list[Any]]
    """``completion``, ``advantages`` and every extra column, N each."""
    for_trainer: dict[str, list[float]]
    """By reward, N values as TRL got them; NaN = unscored."""

    @property
    def prompt_ids(self) -> list[str]:
        """The prompt of each completion: completions of one prompt are a group."""
        return self.logs["prompt_id"]

    @property
    def raw(self) -> dict[str, list[float | None]]:
        """By reward, N values as the rewards returned them; None = unscored."""
        return {name: self.logs[f"raw/{name}"] for name in self.for_trainer}

    def without(self, prompt_ids: Collection[str]) -> "GatheredBatch":
        """Return the batch without the completions of some prompts."""
        kept = [i for i, prompt_id in enumerate(self.prompt_ids) if prompt_id not in prompt_ids]
        logs, for_trainer = (
            {name: [column[i] for i in kept] for name, column in columns.items()}
            for columns in (self.logs, self.for_trainer)
        )
        return GatheredBatch(logs=logs, for_trainer=for_trainer)

    def put(self, position: int, other: "GatheredBatch", source: int) -> None:
        """Replace one completion by one of another batch."""
        for name, column in self.logs.items():
            column[position] = other.logs[name][source]
        for name, values in self.for_trainer.items():
            values[position] = other.for_trainer[name][source]


class _Seams:
    """Public names for what is private in both of TRL's trainers, which this class comes before.

    TRL calls the private name of ``train_sampler``, ``save_checkpoint`` and ``load_weights``; a
    subclass extends the public one.
    """

    args: Any
    model: Any
    train_dataset: Any
    _metrics: Any

    def train_sampler(self, dataset: Any) -> Any:
        """Return the order of prompts; TRL has no option for it."""
        return super()._get_train_sampler(dataset)  # type: ignore[misc]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return self.train_sampler(self.train_dataset if dataset is None else dataset)

    def save_checkpoint(self, below: str) -> None:
        """Write ``checkpoint-N`` into a folder; every rank takes part."""
        output_dir, self.args.output_dir = self.args.output_dir, below
        try:
            super()._save_checkpoint(self.model, None)  # type: ignore[misc]
        finally:
            self.args.output_dir = output_dir

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.save_checkpoint(self.args.output_dir)

    def load_weights(self, folder: str, model: Any = None) -> None:
        """Load the policy of a checkpoint into the model that goes on from it."""
        super()._load_from_checkpoint(folder, model)  # type: ignore[misc]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_weights(resume_from_checkpoint, model)

    @property
    def step_metrics(self) -> dict[str, list[float]]:
        """Metrics since the last log, before TRL averages them."""
        metrics: dict[str, list[float]] = self._metrics["train" if self.model.training else "eval"]
        return metrics

    def note(self, name: str, value: float) -> None:
        """Log a metric that is the same on all ranks."""
        self.step_metrics[name].append(value)


class SeamedSFTTrainer(_Seams, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with public names for what is private in it."""


class SeamedGRPOTrainer(_Seams, GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer with public names for what is private in it.

    TRL calls the private name of ``generate_and_score`` and ``generate_completions`` too.
    """

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Sample and score one generation batch of this rank; returns it as the loss takes it.

        TRL has no public hook between the advantages and the loss. Its warning of a completion that
        nothing scored, with the whole row, is left out: shares are logged and listed instead.
        """
        TRL_LOGGER.addFilter(_is_not_about_unscored)
        try:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            return output
        finally:
            TRL_LOGGER.removeFilter(_is_not_about_unscored)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return self.generate_and_score(inputs)

    def generate_completions(self, prompts: list[Any]) -> Any:
        """Sample completions of this rank's prompts, before any is scored.

        Images leave the list of prompts afterwards: TRL renders its text once more, and then logs
        it by sending it to all ranks.
        """
        completions = super()._generate(prompts)
        prompts[:] = map(strip_images_from_messages, prompts)
        return completions

    def _generate(self, prompts: list[Any]) -> Any:
        return self.generate_completions(prompts)

    def prepared(self, prompts: list[Any], images: list[list[Any]]) -> tuple[list[list[int]], Any, list[Any]]:
        """Return token ids, images and messages of prompts as TRL samples from them."""
        if any(images):
            prompts = [
                prepare_multimodal_messages(prompt, images=some) for prompt, some in zip(prompts, images, strict=True)
            ]
        token_ids, shown, _ = self._tokenize_prompts(prompts)
        return token_ids, shown, prompts

    def log_probabilities_of(self, output: Mapping[str, Any]) -> Any:
        """Compute the log-probabilities of a batch's completions as the loss does, ``[B, L]``."""
        ids, masks = (
            torch.cat([output[f"prompt_{kind}"], output[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")
        )
        log_probabilities, *_ = self._get_per_token_logps_and_entropies(
            self.model,
            ids,
            masks,
            output["completion_ids"].shape[1],
            batch_size=self.args.per_device_train_batch_size,
            **{name: output[name] for name in forwarded_inputs() & output.keys()},
        )
        return log_probabilities

    def log_column(self, name: str, values: Sequence[Any]) -> None:
        """Add a column to the batch that is scored next, as ``log_extra`` does."""
        self._log_completion_extra(name, list(values))

    def last_batch(self, count: int) -> GatheredBatch:
        """Read the ``count`` completions of all ranks that were scored last, from TRL's logs."""
        columns = {
            "completion": self._logs["completion"],
            "advantages": self._logs["advantages"],
            **self._logs["extra"],
        }
        return GatheredBatch(
            logs={name: list(values)[-count:] for name, values in columns.items()},
            for_trainer={name: list(self._logs["rewards"][name])[-count:] for name in self.reward_func_names},
        )

    def show_batch(self, batch: GatheredBatch) -> None:
        """Have TRL print and store this batch instead of the one it scored last."""
        for name in ("completion", "advantages"):
            self._logs[name] = deque(batch.logs[name], maxlen=self._logs[name].maxlen)
        for kind, columns in (("extra", batch.logs), ("rewards", batch.for_trainer)):
            for name in self._logs[kind]:
                self._logs[kind][name] = deque(columns[name], maxlen=self._logs[kind][name].maxlen)

    @contextmanager
    def unlogged(self) -> Iterator[None]:
        """Score a batch in a block without a trace in metrics and in the prompts that TRL shows."""
        metrics = self.step_metrics
        counts = {name: len(values) for name, values in metrics.items()}
        prompts = {name: self._logs[name].copy() for name in ("prompt", "images")}
        yield
        for name in list(metrics):
            del metrics[name][counts.get(name, 0) :]
            if name not in counts:
                del metrics[name]
        self._logs |= prompts

    def count_tokens(self, output: dict[str, Any]) -> None:
        """Renew a batch's number of completion tokens after its mask has changed."""
        output[TOKEN_COUNT] = self.accelerator.gather(output["completion_mask"].sum()).sum()

    def take_completions_from(self, rollouts: Any) -> None:
        """Put an object with ``sync_weights`` and ``generate`` in place of TRL's own.

        TRL builds a ``VLLMGeneration`` from its arguments, which say ``use_vllm: false`` here.
        """
        self.use_vllm = True
        self.vllm_mode = "server"  # nothing of TRL may reach for an engine object
        self.vllm_generation = rollouts
        self._last_loaded_step = -1

    def sync_rollouts(self) -> None:
        """Send the live adapter unless the engine has it, as TRL does before the next rollouts."""
        if self.state.global_step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step

    def forget_sync(self) -> None:
        """Have the next ``sync_rollouts`` send the adapter, whatever step it is of."""
        self._last_loaded_step = -1


def wrap_own_blocks(model: Any, plugin: Any) -> None:
    """Tell Accelerate's FSDP which of the architecture's blocks this model has.

    It takes the architecture's whole list and stops at one that is missing: Gemma-3 names blocks of
    SigLIP's text tower. A ``FullyShardedDataParallelPlugin`` for which a launch file names blocks
    is left alone.
    """
    if plugin.transformer_cls_names_to_wrap is None:
        there = {type(module).__name__ for module in model.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(there & set(model._no_split_modules))


def full_size(parameter: Any) -> int:
    """Count a parameter's elements, also where DeepSpeed's ZeRO-3 keeps only a shard of it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
