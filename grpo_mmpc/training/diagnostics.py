"""What the rewards of a generation batch say about the learning signal."""

from collections.abc import Sequence


def dead_group_share(rewards: Sequence[Sequence[float | None]], *, group_size: int) -> float:
    """Share of groups that teach nothing: every trained reward is constant over the group.

    TRL's ``frac_reward_zero_std`` looks at the weighted sum, and under ``normalize_then_sum`` at the whole batch.

    Args:
        rewards: Per trained reward, raw values of B*G completions, group after group; None = unscored.
        group_size: Completions per prompt (G).

    Returns:
        In [0, 1]; 0.0 for an empty batch.
    """
    if not rewards or not rewards[0]:
        return 0.0
    num_groups = len(rewards[0]) // group_size
    dead = 0
    for group in range(num_groups):
        window = slice(group * group_size, (group + 1) * group_size)
        dead += all(len({value for value in column[window] if value is not None}) <= 1 for column in rewards)
    return dead / num_groups
