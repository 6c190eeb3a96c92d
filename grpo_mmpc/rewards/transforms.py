"""What happens to a reward's values before they are weighted, and how weights change over steps."""

import math
from collections.abc import Sequence
from typing import Any

from grpo_mmpc.config.rewards import (
    ClipTransform,
    GroupRankTransform,
    LinearSchedule,
    RescaleTransform,
    RewardSpec,
    StepSchedule,
    ZScoreTransform,
)

Values = list[float | None]


class RunningMoments:
    """Count, mean and sum of squared deviations of all values so far (Chan et al. 1983, pairwise update)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0

    def update(self, values: Sequence[float]) -> None:
        """Take in a batch."""
        if not values:
            return
        count, mean = len(values), math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        total, gap = self.count + count, mean - self.mean
        self.squares += squares + gap**2 * self.count * count / total
        self.mean += gap * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation (n - 1); 0 below two values."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.count, self.mean, self.squares = int(state["count"]), float(state["mean"]), float(state["squares"])


class Transformer:
    """The transform of one reward, with what it has to remember."""

    def __init__(self, spec: RewardSpec) -> None:
        self._transform = spec.transform
        self.moments = RunningMoments() if isinstance(spec.transform, ZScoreTransform) else None

    def __call__(self, values: Sequence[float | None], groups: Sequence[str]) -> Values:
        """Transform the values of all ranks.

        Args:
            values: N raw values of a batch; None = unscored, and stays so.
            groups: Prompt of each.
        """
        transform = self._transform
        if isinstance(transform, ClipTransform):
            return [None if v is None else min(transform.high, max(transform.low, v)) for v in values]
        if isinstance(transform, RescaleTransform):
            width = transform.high - transform.low
            return [None if v is None else min(1.0, max(0.0, (v - transform.low) / width)) for v in values]
        if isinstance(transform, GroupRankTransform):
            return group_ranks(values, groups)
        if self.moments is not None:
            self.moments.update([v for v in values if v is not None])
            mean, std = self.moments.mean, self.moments.std
            return [None if v is None else (v - mean) / std if std > 1e-8 else 0.0 for v in values]
        return list(values)

    def cut(self, value: float) -> bool:
        """Whether the transform has cut this raw value at a bound."""
        transform = self._transform
        return isinstance(transform, ClipTransform | RescaleTransform) and not transform.low <= value <= transform.high


def group_ranks(values: Sequence[float | None], groups: Sequence[str]) -> Values:
    """Ranks within each group scaled to [0, 1]; equal values share the mean of their ranks, a lone value gets 0.5."""
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if value is not None:
            members.setdefault(group, []).append(value)
    ranks: Values = []
    for value, group in zip(values, groups, strict=True):
        if value is None:
            ranks.append(None)
            continue
        others = members[group]
        below = sum(other < value for other in others)
        equal = sum(other == value for other in others)
        ranks.append((below + (equal - 1) / 2) / (len(others) - 1) if len(others) > 1 else 0.5)
    return ranks


def weight_at(spec: RewardSpec, step: int) -> float:
    """Weight of a reward after ``step`` optimiser updates."""
    schedule = spec.schedule
    factor = 1.0
    if isinstance(schedule, LinearSchedule):
        share = (step - schedule.start_step) / (schedule.end_step - schedule.start_step)
        factor = schedule.start + (schedule.end - schedule.start) * min(1.0, max(0.0, share))
    elif isinstance(schedule, StepSchedule):
        passed = [at for at in schedule.factors if at <= step]
        factor = schedule.factors[max(passed)] if passed else 1.0
    return spec.weight * factor
