"""Trainer callbacks: metrics file, progress line, evaluation hook, graceful interruption."""

import json
import logging
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grpo_mmpc.utils.files import write_text

logger = logging.getLogger(__name__)

Evaluate = Callable[[str], None]
"""Evaluates the policy as it is now under a checkpoint name (``base``, ``checkpoint-20``)."""


class MetricsWriter(TrainerCallback):  # type: ignore[misc]
    """Appends what the trainer logs to ``metrics.jsonl``, one object per logged step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop steps after the one that training resumes from: they will be logged again."""
        if not state.is_world_process_zero or not self._path.exists():
            return
        kept = [
            line for line in self._path.read_text("utf-8").splitlines() if json.loads(line)["step"] <= state.global_step
        ]
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Write one line; the final summary that Transformers logs is not a step and is left out."""
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        record = {"step": state.global_step, **logs}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, default=float) + "\n")


class RewardState(TrainerCallback):  # type: ignore[misc]
    """Keeps what rewards remember (running means, the alarm's history) in ``reward_state.json`` of every checkpoint."""

    FILE = "reward_state.json"

    def __init__(self, state: Callable[[], dict[str, Any]]) -> None:
        self._state = state

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the file."""
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE
            write_text(path, json.dumps(self._state()))

    @classmethod
    def read(cls, checkpoint: Path) -> dict[str, Any]:
        """The state of a checkpoint; that of a new run, with a warning, where it holds none."""
        try:
            return dict(json.loads((checkpoint / cls.FILE).read_text("utf-8")))
        except FileNotFoundError:
            logger.warning(
                "%s holds no %s: running z-scores and the reward-hacking alarm start anew", checkpoint, cls.FILE
            )
            return {"transforms": {}, "alarms": {}}


class ProgressLine(TrainerCallback):  # type: ignore[misc]
    """One line per logged step: reward, each reward's mean, dead groups, tokens/s, time left.

    On a terminal the line is rewritten in place; in a log file a line is printed every
    ``every_seconds``.
    """

    def __init__(self, reward_names: list[str], *, every_seconds: float = 10.0) -> None:
        self._reward_names = reward_names
        self._every_seconds = every_seconds
        self._printed_at = 0.0
        self._started_at = 0.0
        self._first_step = 0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock that time left is computed from; the evaluation before the first step does not count."""
        if not self._started_at:
            self._started_at = time.monotonic()
            self._first_step = state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Print the line."""
        if not state.is_world_process_zero or "reward" not in logs:
            return
        now = time.monotonic()
        is_last = state.global_step >= state.max_steps
        if not sys.stdout.isatty() and not is_last and now - self._printed_at < self._every_seconds:
            return
        self._printed_at = now
        line = self.line(logs, state, elapsed=now - self._started_at)
        if sys.stdout.isatty():
            print(f"\r\x1b[2K{line}", end="\n" if is_last else "", flush=True)  # noqa: T201
        else:
            print(line, flush=True)  # noqa: T201

    def line(self, logs: dict[str, Any], state: Any, *, elapsed: float) -> str:
        """The text of one progress line."""
        done = state.global_step - self._first_step
        left = elapsed / done * (state.max_steps - state.global_step) if done else 0.0
        parts = [f"step {state.global_step}/{state.max_steps}", f"reward {_shown(logs['reward'])}"]
        parts += [f"{name} {_shown(logs.get(f'rewards/{name}/mean'))}" for name in self._reward_names]
        parts.append(f"dead {logs.get('dead_group_share', 0.0):.0%}")
        speed = logs.get("tokens_per_second")
        if speed:
            parts.append(f"{speed:.0f} tok/s")
        parts.append(f"left {int(left) // 60}:{int(left) % 60:02d}")
        return "  ".join(parts)


def _shown(value: float | None) -> str:
    """Three decimals, or a dash where no completion could be scored."""
    return "-" if value is None else f"{value:.3f}"


class ParityCheck(TrainerCallback):  # type: ignore[misc]
    """Checks that the rollout engine is the policy: before the first step, then until an update was seen to reach it.

    ``check`` raises to stop the run; it returns whether the engine could be told from the base
    model. While the updates are too small for that (a warm-up in half precision), it is asked again
    after steps 1, 2, 4, 8 and so on.
    """

    def __init__(self, check: Callable[[int], bool]) -> None:
        self._check = check
        self._done = False
        self._pause = 1
        self._next = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check the engine as it starts, or as it continues after a resumption."""
        self._next = state.global_step + 1
        with preserved_random_state():
            self._check(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check that an update reached the engine, until it is seen once."""
        if self._done or state.global_step < self._next:
            return
        with preserved_random_state():
            self._done = self._check(state.global_step)
        self._next = state.global_step + self._pause
        self._pause *= 2

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Say so if no update was large enough to be seen."""
        if not self._done:
            logger.warning(
                "parity: no update of this training was seen to reach the rollout engine, because none was larger than "
                "rounding; see parity.jsonl, and compare the learning rate with its schedule"
            )


class EvaluationHook(TrainerCallback):  # type: ignore[misc]
    """Evaluates the base model before the first step and the policy after every saved checkpoint.

    A failure is logged with its traceback and remembered in ``failures``; with ``raise_errors`` it
    also stops training.
    """

    def __init__(self, *, before: Evaluate | None, after_save: Evaluate | None, raise_errors: bool) -> None:
        self.before = before
        self.after_save = after_save
        self._raise_errors = raise_errors
        self.failures: list[str] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the base model."""
        if self.before is not None:
            self.run(self.before, "base")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the policy that was just saved, unless it was saved because the run was interrupted."""
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
            if self._raise_errors:
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


class GracefulStop(TrainerCallback):  # type: ignore[misc]
    """Ctrl-C or SIGTERM: finish the step, save a checkpoint, stop. A second Ctrl-C stops at once.

    Ranks agree on stopping after every step, since the signal may reach them in different steps.
    """

    def __init__(self, any_rank: Callable[[bool], bool]) -> None:
        """Remember how to ask all ranks.

        Args:
            any_rank: True on every rank if it is called with True on any.
        """
        self._any_rank = any_rank
        self._requested = False
        self.stopped = False

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Install the handlers for the duration of a block (main thread only, as Python demands)."""
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in previous:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = True
        print("\nstopping after this step and saving; press Ctrl-C again to stop at once", flush=True)  # noqa: T201

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the trainer to save and stop if any rank was asked to."""
        if self._any_rank(self._requested):
            self.stopped = state.global_step < state.max_steps
            control.should_save = True
            control.should_training_stop = True
