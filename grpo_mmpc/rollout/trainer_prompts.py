"""Hold the prompts that a trainer makes to those that the model is asked one by one.

A processor that pads by default puts pad tokens into the prompts of a trainer that takes its lists
as they are, and one that returns what the trainer does not pass on leaves the model without it:
both train something else than is asked, or end in a traceback at the first step.
"""

from collections.abc import Collection, Sequence
from typing import Any

from grpo_mmpc.errors import TrainingError, first_line
from grpo_mmpc.models.families import RUN
from grpo_mmpc.rollout.prompts import conversation, refusal
from grpo_mmpc.types import PromptRow

_BATCH_KEYS = ("input_ids", "attention_mask")


def check_trainer_prompts(rows: Sequence[PromptRow], processor: Any, *, forwarded: Collection[str]) -> None:
    """Compare prompts made together, as a trainer makes them, with each made alone.

    Args:
        rows: Prompts of different lengths; those that the processor refuses are left out.
        processor: The policy's.
        forwarded: Names of the tensors that the trainer passes on to the model.

    Raises:
        TrainingError: The model's family cannot be trained as it is; says what differs and what to
            set.
    """
    kind = type(processor).__name__
    refusals = [refusal(row, processor, max_tokens=0, context=None) for row in rows]
    taken = [row for row, refused in zip(rows, refusals, strict=True) if refused is None]
    reasons = [refused.reason for refused in refusals if refused is not None]
    if reasons and not taken:
        raise TrainingError(f"none of {len(rows)} prompts can be trained on: {reasons[0]}")
    for shows_image in (True, False):
        together = [row for row in taken if (row.prompt_image_path is not None) is shows_image]
        if not together:
            continue
        encoded = _as_a_trainer(together, processor)
        lost = sorted(set(encoded) - set(_BATCH_KEYS) - set(forwarded))
        if lost:
            raise TrainingError(
                f"{kind} returns {', '.join(lost)}, which TRL does not pass on to the model: this family cannot be "
                f"trained here yet; use one that was run ({RUN})"
            )
        for row, ids in zip(together, encoded["input_ids"], strict=True):
            alone = _as_a_trainer([row], processor)["input_ids"][0]
            if list(map(int, ids)) != list(map(int, alone)):
                raise TrainingError(
                    f"{kind} gives the prompt {row.prompt_id} {len(ids)} tokens beside others and {len(alone)} alone: "
                    "it pads, and the padding would be trained on as a part of the prompt; set "
                    "trainer.chat_template_kwargs={processor_kwargs: {padding: false}}"
                )


def _as_a_trainer(rows: Sequence[PromptRow], processor: Any) -> Any:
    try:
        encoded = processor.apply_chat_template(
            conversation=[conversation(row, processor) for row in rows],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
    except Exception as error:  # processors of others raise anything at all
        raise TrainingError(
            f"{type(processor).__name__} does not make prompts as TRL asks for them ({first_line(error)}); where it "
            "returns tensors by default, set trainer.chat_template_kwargs={processor_kwargs: {return_tensors: null}}"
        ) from error
    return encoded
