"""The interval of a mean over items that hang together in groups."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from grpo_mmpc.statistics.verdicts import min_items


def mean_interval(values: Sequence[float], groups: Sequence[str]) -> tuple[float, float] | None:
    """Return the 95% interval of the mean for other groups of items; None with too few of them.

    Items of one group hang together: their deviations add up before they are squared.
    """
    known = [(value, group) for value, group in zip(values, groups, strict=True) if math.isfinite(value)]
    mean = fmean(value for value, _ in known) if known else 0.0
    sums: dict[str, float] = defaultdict(float)
    for value, group in known:
        sums[group] += value - mean
    count = len(sums)
    if count < min_items(0.95):
        return None
    from scipy.stats import t as student  # type: ignore[import-untyped]  # heavy: imported on use

    variance = sum(total * total for total in sums.values()) * count / (count - 1) / len(known) ** 2
    reach = float(student.ppf(0.975, count - 1)) * math.sqrt(variance)
    return mean - reach, mean + reach
