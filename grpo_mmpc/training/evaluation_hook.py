"""The evaluation hook: the base model before the first step, the policy after each checkpoint."""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from grpo_mmpc.training.trl_seams import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

Evaluate = Callable[[str], None]
"""Evaluates the policy as it is now under a checkpoint name (``base``, ``checkpoint-20``)."""


@dataclass(eq=False)
class EvaluationHook(TrainerCallback):  # type: ignore[misc]
    """Evaluates the base model before the first step and the policy after every saved checkpoint.

    A failure is logged with its traceback and remembered in ``failures``; with ``raise_errors`` it
    also stops training.
    """

    raise_errors: bool
    before: Evaluate | None = None
    after_save: Evaluate | None = None
    failures: list[str] = field(default_factory=list)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the base model."""
        if self.before is not None:
            self.run(self.before, "base")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the policy that was just saved, unless the run was interrupted."""
        interrupted = control.should_training_stop and state.global_step < state.max_steps
        if self.after_save is not None and not interrupted:
            self.run(self.after_save, f"checkpoint-{state.global_step}")

    def run(self, evaluate: Evaluate, checkpoint: str) -> None:
        """Evaluate, restoring the random state of Python, NumPy and torch afterwards."""
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
