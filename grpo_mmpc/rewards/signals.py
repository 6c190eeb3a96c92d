"""The learning signal in the rewards of a generation batch.

Everything is computed within groups: GRPO compares completions of one prompt, so differences
between prompts teach nothing.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.rewards.advantages import EPSILON

Floats = NDArray[np.float64]

CONSTANT = 1e-9
"""Values of a group that differ by less are equal."""
BETTER_BY = 0.1
"""A sample is better than the others of its group if it is this far above their median."""


def zero_variance_groups(
    values: Mapping[str, Sequence[float | None]], *, trained: Sequence[str], groups: Sequence[str]
) -> set[str]:
    """Return the zero-variance groups: no trained reward differs within them, or scored any of it.

    TRL's ``frac_reward_zero_std`` looks at the weighted sum, and under ``normalize_then_sum`` at
    the whole batch.
    """
    flat = set(groups)
    for name in trained:
        members: dict[str, list[float]] = defaultdict(list)
        for value, group in zip(values[name], groups, strict=True):
            if value is not None:
                members[group].append(value)
        flat -= {group for group, known in members.items() if max(known) - min(known) > CONSTANT}
    return flat


def signals(
    values: Mapping[str, Sequence[float | None]],
    weights: Mapping[str, float],
    *,
    groups: Sequence[str],
    lengths: Sequence[int],
    aggregation: str,
    scale_rewards: str,
) -> dict[str, float]:
    """Return diagnostics of one generation batch by key; those that cannot be computed are absent.

    ``signal/NAME/within_group_std``: mean over groups of the standard deviation (n - 1).
    ``signal/NAME/dead_groups``: share of groups in which the reward is constant.
    ``signal/NAME/better_groups``: share of groups whose best completion is more than ``BETTER_BY``
    above their median, which stands for what the policy usually writes: sampling finds something to
    learn from there.
    ``signal/NAME/advantage_share``: share of the variance of the summed advantage that this reward
    contributes, covariance with the sum over its variance; shares add up to 1, and a negative one
    means that the others outvote it.
    ``signal/NAME/with_total``: correlation with the weighted sum; a monitor's says whether training
    serves it.
    ``signal/NAME/length_correlation``: with the length of the completion.
    ``signal/A~B/correlation`` and ``.../sign_conflict`` for two trained rewards: how often one
    ranks a completion above its group's mean and the other below, among completions on which both
    have an opinion.

    Args:
        values: By reward, N values as they are weighted; None = unscored.
        weights: By reward, at this step; 0 = monitor.
        groups: Prompt of each completion.
        lengths: Of each completion, in characters or tokens.
        aggregation: As in ``advantages``: under ``normalize_then_sum`` a reward is divided by its
            spread within the group first.
        scale_rewards: As in ``advantages``: ``group`` divides what each reward contributes by the
            spread of the group's sum.
    """
    order = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    index = np.array([order[group] for group in groups])
    centred = {name: _centred(np.array(column, dtype=np.float64), index, len(order)) for name, column in values.items()}
    length = _centred(np.array(lengths, dtype=np.float64), index, len(order))[0]

    parts = {}
    for name, (deviations, spread) in centred.items():
        scale = spread[index] + EPSILON if aggregation == "normalize_then_sum" else 1.0
        parts[name] = weights[name] * np.nan_to_num(deviations / scale)
    total = sum(parts.values(), np.zeros(len(groups)))
    if aggregation == "sum_then_normalize" and scale_rewards == "group":
        _, spread = _centred(total, index, len(order))
        scale = np.nan_to_num(spread)[index] + EPSILON
        parts = {name: part / scale for name, part in parts.items()}
        total = total / scale
    variance = float(total @ total)

    metrics: dict[str, float] = {}
    for name, (deviations, spread) in centred.items():
        known = spread[~np.isnan(spread)]
        if known.size:
            metrics[f"signal/{name}/within_group_std"] = float(known.mean())
            metrics[f"signal/{name}/dead_groups"] = float((known <= CONSTANT).mean())
            gains = [own.max() - np.median(own) for own in _members(deviations, index, len(order)) if own.size > 1]
            metrics[f"signal/{name}/better_groups"] = float(np.mean([gain > BETTER_BY for gain in gains]))
        if weights[name] > 0 and variance > 0:
            metrics[f"signal/{name}/advantage_share"] = float(parts[name] @ total) / variance
        _put(metrics, f"signal/{name}/with_total", _correlation(deviations, total))
        _put(metrics, f"signal/{name}/length_correlation", _correlation(deviations, length))
    for a, b in combinations([name for name in values if weights[name] > 0], 2):
        one, other = centred[a][0], centred[b][0]
        _put(metrics, f"signal/{a}~{b}/correlation", _correlation(one, other))
        both = (np.abs(np.nan_to_num(one)) > CONSTANT) & (np.abs(np.nan_to_num(other)) > CONSTANT)
        if both.any():
            metrics[f"signal/{a}~{b}/sign_conflict"] = float((one[both] * other[both] < 0).mean())
    return metrics


def _centred(values: Floats, index: NDArray[np.int64], num_groups: int) -> tuple[Floats, Floats]:
    """Return deviations from the group's mean ``[N]`` and spreads ``[groups]``; NaN if unknown."""
    known = ~np.isnan(values)
    counts = np.bincount(index[known], minlength=num_groups).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(index[known], weights=values[known], minlength=num_groups) / counts
        deviations = values - means[index]
        squares = np.bincount(index[known], weights=deviations[known] ** 2, minlength=num_groups)
        spread = np.where(counts > 1, np.sqrt(squares / (counts - 1)), np.nan)
    return deviations, spread


def _members(values: Floats, index: NDArray[np.int64], num_groups: int) -> list[Floats]:
    """Return the known values of each group."""
    return [values[(index == group) & ~np.isnan(values)] for group in range(num_groups)]


def _correlation(one: Floats, other: Floats) -> float | None:
    """Return the Pearson correlation of centred deviations; None without spread."""
    known = ~(np.isnan(one) | np.isnan(other))
    a, b = one[known], other[known]
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > CONSTANT**2 else None


def _put(metrics: dict[str, float], key: str, value: float | None) -> None:
    if value is not None:
        metrics[key] = value
