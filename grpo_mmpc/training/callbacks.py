"""Trainer callbacks that write, show and stop: metrics file, progress, signals."""

import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from grpo_mmpc.rewards.troubles import LATEST, MONITOR, signal_troubles
from grpo_mmpc.training.trl_seams import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.files import read_json_lines, write_text
from grpo_mmpc.utils.processes import StopRequest

logger = logging.getLogger(__name__)

_ACCURACY = "mean_token_accuracy"
"""What TRL logs in supervised fine-tuning and nowhere else."""


@dataclass(eq=False)
class MetricsWriter(TrainerCallback):  # type: ignore[misc]
    """Appends what the trainer logs to ``metrics.jsonl``, one object per logged step."""

    path: Path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop what will be logged again after a resumption, and a line that a kill cut short."""
        if not state.is_world_process_zero or not self.path.exists():
            return
        rows = read_json_lines(self.path, skip_broken=True)
        write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in rows if row["step"] <= state.global_step))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Write one line; the final summary of Transformers is not a step and is left out."""
        if not state.is_world_process_zero or "train_loss" in logs:
            return
        record = {"step": state.global_step, **logs}
        with self.path.open("a", encoding="utf-8") as file:  # not to_json: TRL logs NaN for a reward without a score
            file.write(json.dumps(record, default=float) + "\n")


@dataclass(eq=False)
class TroubleLog(TrainerCallback):  # type: ignore[misc]
    """Logs what is wrong with the learning signal, each trouble once when it begins."""

    weights: Mapping[str, float]
    _rows: deque[dict[str, Any]] = field(default_factory=partial(deque, maxlen=LATEST))
    _begun: set[str] = field(default_factory=set)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Look at the latest steps."""
        self._rows.append({"step": state.global_step, **logs})
        troubles = signal_troubles(list(self._rows), self.weights)
        for key, sentence in troubles.items():
            # The alarm of a monitor is logged with its numbers where it rings.
            if state.is_world_process_zero and key not in self._begun and key != MONITOR:
                logger.warning(sentence)
        self._begun = set(troubles)


@dataclass(eq=False)
class StepProgress(TrainerCallback):  # type: ignore[misc]
    """Shows each logged step: rewards, share of zero-variance groups, tokens per second.

    Of supervised fine-tuning, loss and the share of the answers' tokens that are the likeliest.
    """

    reward_names: list[str]
    progress: Progress
    _last: str = field(default="", init=False)
    """Detail of the last step that was logged."""

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show that training goes on: the first step, or one after an evaluation, may take long."""
        if state.is_world_process_zero:
            self.progress("training", state.global_step, state.max_steps, detail=self._last)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Show the step; evaluations in between show their own progress."""
        if state.is_world_process_zero and ("reward" in logs or _ACCURACY in logs):
            self._last = self.detail(logs)
            self.progress("training", state.global_step, state.max_steps, detail=self._last)

    def detail(self, logs: dict[str, Any]) -> str:
        """Return the values of one step as text."""
        if _ACCURACY in logs:
            return f"loss {_shown(logs.get('loss'))}  token accuracy {_shown(logs[_ACCURACY])}"
        parts = [f"reward {_shown(logs['reward'])}"]
        parts += [f"{name} {_shown(logs.get(f'rewards/{name}/mean'))}" for name in self.reward_names]
        parts.append(f"zero-variance groups {logs.get('dead_group_share', 0.0):.0%}")
        if logs.get("set_aside_share"):
            parts.append(f"set aside {logs['set_aside_share']:.0%}")
        if logs.get("tokens_per_second"):
            parts.append(f"{logs['tokens_per_second']:.0f} tokens/s")
        return "  ".join(parts)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


class GracefulStop(TrainerCallback):  # type: ignore[misc]
    """Finishes the step at the first signal, saves a checkpoint and stops.

    Ranks agree on stopping after every step, since the signal may reach them in different steps.
    """

    def __init__(self, request: StopRequest, ranks: Ranks) -> None:
        self.stopped = False
        """True if training ended before its last step."""
        self._request = request
        self._ranks = ranks

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """From here on a signal is waited with until the step is done."""
        self._request.patient = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the trainer to save if any rank was asked to stop, and after the last step."""
        is_asked = self._ranks.any(self._request.times > 0)
        if is_asked:
            self.stopped = state.global_step < state.max_steps
        if is_asked or state.global_step >= state.max_steps:  # also with save_strategy=no: an adapter stays
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop once all is saved, so that the checkpoint is that of a run that goes on."""
        control.should_training_stop = control.should_training_stop or self.stopped

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave nothing that a signal would have to wait for."""
        self._request.patient = False
