"""Rates of the logged steps: tokens per second, and the share of the time that went into waiting for rewards."""

from collections.abc import Mapping, Sequence


def rates(metrics: Mapping[str, Sequence[float]], *, completions_per_batch: int) -> dict[str, float]:
    """Rates since the last log, from TRL's metrics before it averages them.

    Averages would not do: a step may draw several batches of rollouts
    (``gradient_accumulation_steps``), or none because it reuses earlier ones (``num_iterations``,
    ``steps_per_generation``).

    Args:
        metrics: Values since the last log: ``step_time`` one for each step in seconds,
            ``completions/mean_length`` in tokens and ``reward_time/wait`` in seconds one for each
            batch of rollouts.
        completions_per_batch: Completions of one batch of rollouts on all ranks.

    Returns:
        ``tokens_per_second``: completion tokens drawn on all ranks; 0 where every step reuses
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
