"""The interval of a mean over items that hang together in groups."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from statistics import fmean

from grpo_mmpc.statistics.verdicts import Interval, min_items


def mean_interval(
    values: Iterable[float], groups: Iterable[Hashable], *, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Interval | None:
    """Return the 95% interval of the mean for other groups of items; None with too few of them.

    Items of one group hang together: their deviations add up before they are squared. Values that
    are not finite are unscored. No mean leaves the ``bounds``, and so does no interval.
    """
    known = [(value, group) for value, group in zip(values, groups, strict=True) if math.isfinite(value)]
    mean = fmean(value for value, _ in known) if known else 0.0
    sums: dict[Hashable, float] = defaultdict(float)
    for value, group in known:
        sums[group] += value - mean
    count = len(sums)
    if count < min_items(0.95):
        return None
    from scipy.stats import t as student  # type: ignore[import-untyped]  # heavy: imported on use

    variance = sum(total * total for total in sums.values()) * count / (count - 1) / len(known) ** 2
    reach = float(student.ppf(0.975, count - 1)) * math.sqrt(variance)
    return Interval(mean - reach, mean + reach).within(*bounds, value=mean)
