"""The learning signals of a run that both views show, and a line of blocks that draws one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.evaluation.run_folder import finite
from grpo_mmpc.reports.common.curves import short
from grpo_mmpc.reports.common.labels import NO_VALUE
from grpo_mmpc.reports.watch.history import mean_of
from grpo_mmpc.reports.watch.live_run import View

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.:-=+*#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal over the logged steps."""

    label: str
    weight: float | None = None
    """Of a reward in the mix; 0 = monitor."""
    values: list[float | None]
    """One for each row of the view; None where nothing was logged."""
    latest: float | None
    """The mean of the latest logged steps."""
    spread: float | None = None
    """The mean standard deviation within groups, over the latest logged steps."""
    flat: float | None = None
    """The share of groups in which it is constant, over the latest logged steps."""
    is_share: bool = False

    @property
    def level(self) -> str:
        """The latest value as text."""
        if self.latest is None:
            return NO_VALUE
        return f"{self.latest:.0%}" if self.is_share else short(self.latest)


def signals_of(view: View) -> list[Signal]:
    """Return the weighted reward, every reward of the mix, and what says whether they teach."""

    def signal(label: str, key: str, *, spread: str = "", flat: str = "", **more: Any) -> Signal:
        values = [finite(row.get(key)) for row in view.rows]
        return Signal(
            label=label,
            values=values,
            latest=mean_of(view.latest, key),
            spread=mean_of(view.latest, spread),
            flat=mean_of(view.latest, flat),
            **more,
        )

    rewards = [
        signal(
            name,
            f"rewards/{name}/mean",
            spread=f"signal/{name}/within_group_std",
            flat=f"signal/{name}/dead_groups",
            weight=weight,
        )
        for name, weight in view.weights.items()
    ]
    signals = [
        signal("reward", "reward", spread="reward_std", flat="dead_group_share"),
        *rewards,
        signal("loss", "loss"),
        signal("token accuracy", "mean_token_accuracy", is_share=True),
        signal("zero-variance groups", "dead_group_share", is_share=True),
        signal("malformed", "malformed_share", is_share=True),
        signal("entropy", "entropy"),
        signal("KL", "kl"),
        signal("length, tokens", "completions/mean_length"),
    ]
    is_grpo = any("reward" in row for row in view.latest)
    return [one for one in signals if any(v is not None for v in one.values) and not (is_grpo and one.label == "loss")]


def sparkline(values: Sequence[float | None], *, width: int, is_share: bool = False, ascii_only: bool = False) -> str:
    """Draw values as a line of blocks between their extremes, a share between 0 and 1.

    Where there are more than ``width`` neighbours are averaged; a space has no value. A change of
    less than a twentieth of the values' size does not look like a leap.
    """
    size = max(1, math.ceil(len(values) / width))
    chunks = [[v for v in values[i : i + size] if v is not None] for i in range(0, len(values), size)]
    means = [finite(sum(chunk) / len(chunk)) if chunk else None for chunk in chunks]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ""
    low, high = (0.0, 1.0) if is_share else (min(known), max(known))
    reach = max(high - low, max(map(abs, known)) / 20) or 1.0
    blocks = _ASCII if ascii_only else _BLOCKS
    return "".join(" " if mean is None else blocks[min(7, max(0, int((mean - low) / reach * 7.999)))] for mean in means)
