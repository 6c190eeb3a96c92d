"""What a reward mix needs to know of a reward besides its scores."""

from dataclasses import dataclass
from typing import Any

from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import RewardFn


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A batch reward function with its declarations; call it like any ``RewardFn``.

    A plain function with the same attributes does as well: rewards of your own need not import this class.
    """

    score: RewardFn
    value_range: tuple[float, float]
    """Least and greatest value."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks it can score; completions of others are unscored."""
    worst_score: float = 0.0
    """What a malformed completion gets; never above a well-formed one."""

    def __call__(self, **columns: list[Any]) -> list[float | None]:
        """Score N well-formed completions given as keyword lists."""
        return self.score(**columns)
