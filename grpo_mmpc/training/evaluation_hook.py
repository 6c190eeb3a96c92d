"""The evaluation hook: the base model before the first step, the policy after each checkpoint."""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_mmpc.training.checkpoint import steps_of
from grpo_mmpc.training.trl_seams import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.processes import StopRequest

logger = logging.getLogger(__name__)

Evaluate = Callable[[str], None]
"""Evaluates the policy as it is now under a checkpoint name (``base``, ``checkpoint-20``)."""


class AllStepsDone(Exception):  # noqa: N818  (no error)
    """The checkpoint that a run continues from is its last: Transformers would train one more."""


@dataclass(eq=False)
class EvaluationHook(TrainerCallback):  # type: ignore[misc]
    """Evaluates the base model before the first step and the policy after every saved checkpoint.

    A failure is logged with its traceback and remembered in ``failures``; with ``raise_errors`` it
    also stops training. A signal ends an evaluation at once: nothing that it has is lost.
    """

    request: StopRequest
    ranks: Ranks
    raise_errors: bool
    before: Evaluate | None = None
    after_save: Evaluate | None = None
    finish_saving: Callable[[], None] = lambda: None
    """Waits until the checkpoint that is evaluated has its name."""
    failures: list[str] = field(default_factory=list)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the base model, and what is missing of the checkpoints of an earlier start.

        Raises:
            AllStepsDone: There is nothing to train.
        """
        if self.before is not None:
            self.run(self.before, "base")
        if self.after_save is not None:
            saved = (steps_of(path) for path in Path(args.output_dir).glob("checkpoint-*"))
            for step in sorted(step for step in saved if step is not None and step <= state.global_step):
                self.run(self.after_save, f"checkpoint-{step}")
        if 0 < state.max_steps <= state.global_step:
            raise AllStepsDone

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the policy that was just saved, unless the run was interrupted."""
        interrupted = control.should_training_stop and state.global_step < state.max_steps
        if self.after_save is not None and not interrupted:
            self.finish_saving()
            self.run(self.after_save, f"checkpoint-{state.global_step}")

    def run(self, evaluate: Evaluate, checkpoint: str) -> None:
        """Evaluate, restoring the random state of Python, NumPy and torch afterwards."""
        self.request.patient = False
        if self.ranks.any(self.request.times > 0):
            raise KeyboardInterrupt
        try:
            with preserved_random_state():
                evaluate(checkpoint)
        except Exception as error:  # any failure of an evaluation is reported; only the recipe decides that it is fatal
            self.failures.append(f"{checkpoint}: {type(error).__name__}: {error}")
            logger.exception("EVALUATION FAILED for %s; training goes on with evaluation.on_error=warn", checkpoint)
            if self.raise_errors:
                raise


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Run a block without moving the random number generators that training draws from."""
    import numpy as np
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
