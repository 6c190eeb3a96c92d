"""The parity check in a run: before the first step, then until an update reaches the engine."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter import has_adapter, is_identity, read_adapter
from grpo_mmpc.rollout.parity_check import ParityReport, check_parity, computing_dtype
from grpo_mmpc.training.evaluation_hook import preserved_random_state
from grpo_mmpc.training.live_engine import LiveEngine
from grpo_mmpc.training.trainer import RecordingGRPOTrainer
from grpo_mmpc.training.trl_seams import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.console import printer
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.files import append_json_lines, without_nan

logger = logging.getLogger(__name__)

MAX_TOKENS = 32
"""Longest completion that is compared."""


class ParityCheck(TrainerCallback):  # type: ignore[misc]
    """Calls a check before the first step and after steps 1, 2, 4 ... until an update arrives.

    Updates may be too small for that at first: a warm-up in half precision. Without an adapter
    there is no base model to tell the policy from: then it goes on to the end.
    """

    def __init__(self, check: Callable[[int], bool], *, sees_updates: bool = True) -> None:
        """Keep the check, which raises, or returns whether it saw an update."""
        self._check = check
        self._sees_updates = sees_updates
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
        """Warn if no update was large enough to be seen."""
        if self._sees_updates and not self._done:
            gradients = [entry["grad_norm"] for entry in state.log_history if "grad_norm" in entry]
            why = (
                "every update so far is below rounding error; see parity.jsonl, and compare the learning rate with its "
                "schedule"
                if any(gradients) or not gradients
                else "there was none, every gradient was 0"
            )
            logger.warning("parity: could not verify that LoRA updates reach the rollout engine: %s", why)


def compare_engine(
    config: RunConfig,
    trainer: RecordingGRPOTrainer,
    engine: LiveEngine,
    rows: Sequence[PromptRow],
    *,
    ranks: Ranks,
    step: int,
) -> bool:
    """Compare engine and policy on some prompts; writes to ``parity.jsonl``. A collective.

    Returns whether every rank's engine could be told from the base model.

    Raises:
        RolloutError: An engine is not the policy, on this rank or on another one.
    """
    assert engine.rollouts is not None
    trainer.sync_rollouts()
    identity = not has_adapter(trainer.model) or is_identity(read_adapter(trainer.model, name="live"))
    report = check_parity(
        trainer.model_wrapped,
        trainer.processing_class,
        engine.rollouts.engine,
        rows,
        adapter=engine.rollouts.adapter,
        adapter_is_identity=identity,
        suppressed_token_ids=engine.suppressed_token_ids,
        max_tokens=min(MAX_TOKENS, trainer.args.max_completion_length),
        temperature=trainer.args.temperature,
        step=step,
        mean_tolerance=config.rollout.parity.mean_tolerance,
        dtype=computing_dtype(trainer.model, trainer.args),
    )
    if trainer.accelerator.is_main_process:
        append_json_lines(Path(config.run_dir) / "parity.jsonl", [without_nan(asdict(report))])
        printer(True)(_line(report, is_base=identity))
    anyone = ranks.any(bool(report.problems))  # first, so that no rank waits for one that has stopped
    report.raise_on_problems()
    if anyone:
        raise RolloutError(f"another rank found that its engine is not the policy (step {step}); see its message")
    return not ranks.any(not report.tells_policy_from_base)


def _line(report: ParityReport, *, is_base: bool) -> str:
    return (
        f"parity at step {report.step}: {report.tokens} tokens of {report.rows} prompts, log-probabilities of engine "
        f"and policy differ by {report.mean_difference:.1e} on average, {report.max_difference:.1e} at most"
        + ("" if is_base or report.tells_policy_from_base else "; the update is still below rounding error")
        + report.by_server("; by server: ")
    )
