"""The evaluation hook: the base model before the first step, the policy after each checkpoint."""

import logging
import random
import time
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

_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """An evaluation that goes on beside training."""

    is_done: Callable[[], bool]
    """Asked on the main process."""
    finish: Callable[[str], None]
    """Takes the result in; a collective, called with the name of the checkpoint."""


Evaluate = Callable[[str], UnderWay | None]
"""Evaluates the policy as it is now under a checkpoint name (``base``, ``checkpoint-20``)."""


class AllStepsDone(Exception):  # noqa: N818  (no error)
    """The checkpoint that a run continues from is its last: Transformers would train one more."""


@dataclass(eq=False)
class EvaluationHook(TrainerCallback):  # type: ignore[misc]
    """Evaluates the base model before the first step and the policy after every saved checkpoint.

    A failure is logged with its traceback and remembered in ``failures``; with ``raise_errors`` it
    also stops training. A signal ends an evaluation at once: nothing that it has is lost. One at a
    time may go on beside training; the next save, which may delete its checkpoint, waits for it.
    """

    request: StopRequest
    ranks: Ranks
    raise_errors: bool
    before: Evaluate | None = None
    after_save: Evaluate | None = None
    finish_saving: Callable[[], None] = lambda: None
    """Waits until the checkpoint that is evaluated has its name."""
    failures: list[str] = field(default_factory=list)
    _under_way: tuple[str, UnderWay] | None = field(default=None, init=False)

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
                self.settle()
                self.run(self.after_save, f"checkpoint-{step}")
        if 0 < state.max_steps <= state.global_step:
            raise AllStepsDone

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take in an evaluation that has ended, and wait for it before a save."""
        self.settle(wait=control.should_save)

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the policy that was just saved, unless the run was interrupted."""
        interrupted = control.should_training_stop and state.global_step < state.max_steps
        if self.after_save is not None and not interrupted:
            self.finish_saving()
            self.run(self.after_save, f"checkpoint-{state.global_step}")

    def settle(self, *, wait: bool = True) -> None:
        """Take in the evaluation that goes on beside training, unless a signal comes first.

        A collective. Without ``wait`` one that has not ended is left alone.
        """
        if self._under_way is None:
            return
        checkpoint, evaluation = self._under_way

        def has_ended() -> bool:
            while not (ended := evaluation.is_done()) and wait and not self.request.times:
                time.sleep(_POLL_S)
            return ended

        if self.ranks.on_main(has_ended):
            self._under_way = None
            self._attempt(evaluation.finish, checkpoint)

    def run(self, evaluate: Evaluate, checkpoint: str) -> None:
        """Evaluate, restoring the random state of Python, NumPy and torch afterwards."""
        self.request.patient = False
        if self.ranks.any(self.request.times > 0):
            raise KeyboardInterrupt
        self._attempt(evaluate, checkpoint)

    def _attempt(self, evaluate: Evaluate, checkpoint: str) -> None:
        try:
            with preserved_random_state():
                begun = evaluate(checkpoint)
        except Exception as error:  # any failure of an evaluation is reported; only the recipe decides that it is fatal
            self.failures.append(f"{checkpoint}: {type(error).__name__}: {error}")
            logger.exception("EVALUATION FAILED for %s; training goes on with evaluation.on_error=warn", checkpoint)
            if self.raise_errors:
                raise
        else:
            if begun is not None:
                self._under_way = checkpoint, begun


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
