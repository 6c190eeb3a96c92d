"""The trainer's log-probabilities against an unpadded forward pass, on the first rollouts of a run.

A family whose processor pads a prompt, whose positions or masks depend on padding, or that needs a
tensor which the trainer does not pass on, trains another policy than the one that answers; nothing
else shows it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from grpo_mmpc.errors import ImageError, TrainingError
from grpo_mmpc.models.families import RUN
from grpo_mmpc.rewards.columns import ROW_COLUMNS
from grpo_mmpc.rollout.log_probabilities import log_probabilities
from grpo_mmpc.rollout.parity_check import computing_dtype, tolerance_of
from grpo_mmpc.rollout.prompts import conversation, plain_prompt
from grpo_mmpc.training.trl_seams import SeamedGRPOTrainer
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.distributed import Ranks


def check_against_unpadded(
    trainer: SeamedGRPOTrainer, inputs: Sequence[Mapping[str, Any]], output: Mapping[str, Any], *, ranks: Ranks
) -> None:
    """Compare two completions of a batch, after the shortest and the longest prompt. A collective.

    Args:
        trainer: Whose policy and processor they are.
        inputs: The B rows of this rank.
        output: Their batch as the loss takes it.
        ranks: All of them stop if one must.

    Raises:
        TrainingError: On this rank or on another one, they differ by more than rounding does.
    """
    taken = [i for i, row in enumerate(inputs) if row["set_aside"] is None] or [0]
    lengths = output["prompt_mask"].sum(dim=1).tolist()
    dtype = computing_dtype(trainer.model, trainer.args)
    tolerance, problem = tolerance_of(dtype), ""
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        with torch.no_grad():
            in_batch = trainer.log_probabilities_of(output)  # [B, L]
        for i in (min(taken, key=lengths.__getitem__), max(taken, key=lengths.__getitem__)):
            row, prompt = inputs[i], _prompt_row(inputs[i], trainer.processing_class)
            kept = output["completion_mask"][i].bool()
            ids = output["completion_ids"][i][kept].tolist()
            alone = log_probabilities(
                trainer.model,
                trainer.processing_class,
                prompt or _plain_row(row),
                ids or [trainer.processing_class.tokenizer.eos_token_id],  # a collective where the policy is sharded
                suppressed_token_ids=(),
                temperature=trainer.args.temperature,
            )
            differences = [abs(a - b) for a, b in zip(in_batch[i][kept].tolist(), alone, strict=False)]
            mean = sum(differences) / max(1, len(differences))
            if not mean <= tolerance and prompt is not None:
                problem = (
                    f"the trainer's log-probabilities of {row['prompt_id']} differ by {mean:.2g} on average from those "
                    f"of the prompt alone, without padding (more than {tolerance:g}, {dtype})"
                )
    finally:
        trainer.model.train(was_training)
    if problems := ranks.gather([problem] if problem else []):
        kind = type(trainer.processing_class).__name__
        raise TrainingError(
            f"{problems[0]}: padding, or a tensor of {kind} that TRL does not pass on, changes what this family is "
            "asked, so that another policy would be trained. Set trainer.chat_template_kwargs={processor_kwargs: "
            "{padding: false}} if it pads, or use a family that was run ("
            f"{RUN})"
        )


def _prompt_row(row: Mapping[str, Any], processor: Any) -> PromptRow | None:
    """Return the prompt of a row; None if it is set aside, or its image is gone by now."""
    shown = row["image_path"] if row["images"] else None
    prompt = PromptRow(**{name: row[name] for name in ROW_COLUMNS}, messages=row["prompt"], prompt_image_path=shown)
    try:
        return None if row["set_aside"] is not None or not conversation(prompt, processor) else prompt
    except (ImageError, OSError):
        return None


def _plain_row(row: Mapping[str, Any]) -> PromptRow:
    """Return a prompt without an image: every rank computes as much, whatever it lacks."""
    messages, _ = plain_prompt(shows_image=False)
    return PromptRow(**{name: row[name] for name in ROW_COLUMNS}, messages=messages, prompt_image_path=None)
