"""The way from raw rewards to GRPO's advantages, as TRL computes them.

Used for resampled groups and for replays.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

EPSILON = 1e-4
"""TRL adds it to every standard deviation it divides by."""


def advantages(
    values: Mapping[str, Sequence[float | None]],
    weights: Mapping[str, float],
    *,
    groups: Sequence[str],
    aggregation: str,
    scale_rewards: str = "group",
) -> list[float]:
    """Return the advantages of the N completions of one generation batch over all ranks.

    ``sum_then_normalize`` weighs and sums the rewards of a completion, subtracts its group's mean
    and divides by a standard deviation: of the group, of the batch, or not at all.
    ``normalize_then_sum`` normalises every reward within its group first, weighs and sums, then
    normalises over the batch; ``scale_rewards`` plays no part in it. Standard deviations take
    n - 1. A completion without any value has advantage 0 and counts in no mean.

    Args:
        values: By reward, N values as the trainer gets them, see ``RewardMix``.
        weights: By reward.
        groups: Prompt of each completion.
        aggregation: ``sum_then_normalize`` or ``normalize_then_sum``.
        scale_rewards: ``group``, ``batch`` or ``none``.

    Raises:
        ValueError: Unknown aggregation or scaling.
    """
    if aggregation not in ("sum_then_normalize", "normalize_then_sum"):
        raise ValueError(f"aggregation must be sum_then_normalize or normalize_then_sum, found {aggregation!r}")
    if scale_rewards not in ("group", "batch", "none"):
        raise ValueError(f"scale_rewards must be group, batch or none, found {scale_rewards!r}")
    if not groups:
        return []
    table = np.array(list(values.values()), dtype=np.float64)  # [K, N], NaN for None
    weight = np.array([weights[name] for name in values])[:, None]
    prompts = np.array(groups)
    members = [np.flatnonzero(prompts == group) for group in dict.fromkeys(groups)]
    unscorable = np.isnan(table).all(axis=0)

    if aggregation == "normalize_then_sum":
        for rows in members:
            for row in table:
                row[rows] = (row[rows] - _mean(row[rows])) / (_std(row[rows]) + EPSILON)
    summed = np.nansum(table * weight, axis=0)
    summed[unscorable] = math.nan

    if aggregation == "normalize_then_sum":
        result = (summed - _mean(summed)) / (_std(summed) + EPSILON)
    else:
        result = np.empty(len(groups))
        batch_std = _std(summed)
        for rows in members:
            centred = summed[rows] - _mean(summed[rows])
            std = batch_std if scale_rewards == "batch" else _std(summed[rows])
            result[rows] = centred if scale_rewards == "none" else centred / (std + EPSILON)
    return [0.0 if math.isnan(value) else float(value) for value in result]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _std(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if known.size > 1 else 0.0
