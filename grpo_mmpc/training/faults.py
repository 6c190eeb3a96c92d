"""Faults in the middle of training: updates that are no numbers, memory, ranks that die."""

import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.training.trl_seams import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.single_out import is_out_of_memory

logger = logging.getLogger(__name__)

MAX_SKIPPED = 5
"""Updates in a row that may be skipped."""
_NO_MEMORY = ("out of memory", "can't allocate memory")
_RANK_GONE = ("connection closed by peer", "connection reset by peer", "broken pipe", "timed out waiting")
_NO_PROBABILITIES = "probability tensor contains"


@dataclass(eq=False)
class FiniteUpdates(TrainerCallback):  # type: ignore[misc]
    """Skips an update whose gradient is no number on any rank, and stops after some in a row.

    In half precision with a gradient scaler, and under DeepSpeed, those skip such updates.
    """

    ranks: Ranks
    note: Callable[[str, float], None]
    """Logs a metric of the step."""
    in_a_row: int = 0

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any,
        optimizer: Any,
        **_: Any,
    ) -> None:
        """Leave the optimizer nothing to do if a gradient is infinite or NaN.

        Raises:
            TrainingError: It was the last of ``MAX_SKIPPED`` in a row.
        """
        if args.fp16:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
        is_finite = not local or bool(torch.stack([g.isfinite().all() for g in local]).all())
        if not self.ranks.any(not is_finite):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.note("skipped_updates", 1.0)
        optimizer.zero_grad(set_to_none=True)  # without gradients neither weights nor moments move
        logger.warning("step %d: the gradient is no number; this update is skipped", state.global_step + 1)
        if self.in_a_row == MAX_SKIPPED:
            raise TrainingError(
                f"{MAX_SKIPPED} updates in a row had a gradient that is no number, up to step {state.global_step + 1}: "
                f"lower trainer.learning_rate (now {args.learning_rate:g}) or trainer.max_grad_norm (now "
                f"{args.max_grad_norm:g}), or train in float32, in another run_dir"
            )


@contextmanager
def explained_faults(arguments: Any, *, step: Callable[[], int]) -> Iterator[None]:
    """Raise what ends training in the words of its recipe.

    Raises:
        TrainingError: Memory is used up, the policy has diverged, another rank is gone, or the
            checkpoint holds objects.
    """
    try:
        yield
    except pickle.UnpicklingError as error:  # torch advises to read it all the same
        raise TrainingError(
            f"step {step() + 1}: optimizer.pt, scheduler.pt or rng_state of the newest checkpoint in "
            f"{arguments.output_dir} holds more than tensors and numbers, by which code could run; it is not read. "
            "Delete that checkpoint, and the same command goes on from the one before it"
        ) from error
    except (RuntimeError, MemoryError) as error:
        text = " ".join(str(error).split())
        lowered, where = text.lower(), f"step {step() + 1}"
        longest = getattr(arguments, "max_completion_length", None)  # not of supervised fine-tuning
        shorter = "" if longest is None else f"trainer.max_completion_length (now {longest}) or "
        if is_out_of_memory(error) or any(sign in lowered for sign in _NO_MEMORY):
            raise TrainingError(
                f"{where}: out of memory ({text[:200]}). Lower trainer.per_device_train_batch_size (now "
                f"{arguments.per_device_train_batch_size}) and raise trainer.gradient_accumulation_steps (now "
                f"{arguments.gradient_accumulation_steps}) by as much; set trainer.gradient_checkpointing=true; "
                f"lower {shorter}the size of images "
                "(model.processor_kwargs.max_pixels); with vLLM lower rollout.engine.gpu_memory_utilization or set "
                "rollout.sleep=true. Then start in another run_dir"
            ) from error
        if _NO_PROBABILITIES in lowered:
            raise TrainingError(
                f"{where}: the policy's probabilities are no numbers any more, as after updates that are too large: "
                f"lower trainer.learning_rate (now {arguments.learning_rate:g}) and start in another run_dir"
            ) from error
        is_network = isinstance(error, torch.distributed.DistBackendError | torch.distributed.DistNetworkError)
        if is_network or any(sign in lowered for sign in _RANK_GONE):
            raise TrainingError(
                f"{where}: another rank has died or cannot be reached; its own message, or that of the system, says "
                f"why ({text[:200]}). The same command goes on from the newest checkpoint"
            ) from error
        raise
