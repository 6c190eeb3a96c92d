"""Metrics of a generation batch and of the logged steps, and warnings about either."""

import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from grpo_mmpc.rewards import RewardMix, completion_text
from grpo_mmpc.rewards.signals import signals
from grpo_mmpc.training.alarm import HackingAlarm
from grpo_mmpc.training.trl_seams import GatheredBatch


@dataclass
class Diagnosis:
    """Learning signal and reward-hacking alarms of a run, one alarm a task.

    A generation batch holds one task, and rewards differ between tasks.
    """

    mix: RewardMix
    aggregation: str = field(kw_only=True)
    """The aggregation that ``advantages`` takes, like ``scale_rewards``."""
    scale_rewards: str = field(kw_only=True)
    _alarms: dict[str, HackingAlarm] = field(default_factory=dict, init=False)

    def metrics_of(self, batch: GatheredBatch) -> tuple[dict[str, float], list[str]]:
        """Take in a batch; returns metrics by key, and a message for each new alarm."""
        metrics = signals(
            batch.raw,
            self.mix.weights,
            groups=batch.prompt_ids,
            lengths=[len(completion_text(completion)) for completion in batch.logs["completion"]],
            aggregation=self.aggregation,
            scale_rewards=self.scale_rewards,
        )
        scored = {name: [value for value in values if value is not None] for name, values in batch.raw.items()}
        alarm = self._alarm(batch.logs["task"][0])
        messages = alarm.update({name: sum(known) / len(known) for name, known in scored.items() if known})
        return metrics | {"reward_hacking_alarms": float(len(alarm.ringing))}, messages

    def state(self) -> dict[str, Any]:
        """Return the alarms' histories, for a checkpoint."""
        return {task: alarm.state() for task, alarm in self._alarms.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        for task, history in state.items():
            self._alarm(task).restore(history)

    def _alarm(self, task: str) -> HackingAlarm:
        if task not in self._alarms:
            trained = self.mix.trained
            monitors = [reward.name for reward in self.mix.rewards if reward.name not in trained]
            self._alarms[task] = HackingAlarm(trained=trained, monitors=monitors)
        return self._alarms[task]


def peak_memory() -> dict[str, float]:
    """Return the most memory that this process has held so far, in GiB, by key of the log.

    ``memory/peak_gib`` is that of the machine, ``memory/gpu_peak_gib`` what torch has reserved on
    its GPU.
    """
    peaks = {"memory/peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if torch.cuda.is_available():
        peaks["memory/gpu_peak_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return peaks


def masked_fraction(
    mask: torch.Tensor, ratio: torch.Tensor, *, gather: Callable[[torch.Tensor], torch.Tensor]
) -> float:
    """Return the share of tokens that importance-sampling correction drops. A collective.

    Args:
        mask: 1 for tokens of the completion, ``[B, L]``.
        ratio: Importance-sampling ratios, 0 where masked, ``[B, L]`` or ``[B, 1]``.
        gather: Concatenates over ranks.
    """
    mask = mask.float()
    dropped = (ratio == 0).float().expand_as(mask)  # [B, L]
    return float(gather((dropped * mask).sum()).sum() / gather(mask.sum()).sum().clamp(min=1))


def rates(metrics: Mapping[str, Sequence[float]], *, completions_per_batch: int) -> dict[str, float]:
    """Compute rates since the last log, from TRL's metrics before it averages them.

    Averages would not do: a step may sample several batches of rollouts
    (``gradient_accumulation_steps``), or none because it reuses earlier ones (``num_iterations``,
    ``steps_per_generation``).

    Args:
        metrics: Values since the last log: ``step_time`` one for each step in seconds,
            ``completions/mean_length`` in tokens and ``reward_time/wait`` in seconds one for each
            batch of rollouts.
        completions_per_batch: Completions of one batch of rollouts on all ranks.

    Returns:
        ``tokens_per_second``: completion tokens sampled on all ranks; 0 where every step reuses
        rollouts.
        ``reward_time/wait_share``: share of the time in which the trainer waited for rewards, 0 to
        1. Empty without a step.
    """
    seconds = sum(metrics.get("step_time", ()))
    if not seconds:
        return {}
    return {
        "tokens_per_second": sum(metrics.get("completions/mean_length", ())) * completions_per_batch / seconds,
        "reward_time/wait_share": sum(metrics.get("reward_time/wait", ())) / seconds,
    }
