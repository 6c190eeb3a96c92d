"""The least difference that so many items can show."""

import math
from statistics import NormalDist

from grpo_mmpc.statistics.verdicts import min_items

CHANCE = 0.8
"""The chance with which a difference is shown that is called the least one."""
SPREAD = 0.3
"""A usual standard deviation of an item's difference, of metrics between 0 and 1."""


def least_difference(standard_error: float, *, comparisons: int = 1, confidence: float = 0.95) -> float:
    """Return the true difference that a test shows with a chance of 80 %.

    ``standard_error`` is that of the difference; ``comparisons`` are corrected for together.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - (1 - confidence) / (2 * comparisons)) + normal.inv_cdf(CHANCE)) * standard_error


def what_items_show(items: int, *, products: int | None = None, confidence: float) -> str:
    """Say how large a difference has to be for this many items to show it, in a usual metric.

    ``products`` is the number of groups of items that hang together, which then count; None where
    none do.
    """
    units, least = products or items, min_items(confidence)
    what = f"{items:,} held-out items" + (f" of {products:,} products" if products else "")
    if units < least:
        return f"{what} are too few for any verdict; hold out {least} at least"
    shown = least_difference(SPREAD / math.sqrt(units), confidence=confidence)
    return (
        f"{what} can show a difference of about {shown:.3f} in a metric between 0 and 1 (an "
        f"item's difference spreads by {SPREAD:g}, one comparison, chance {100 * CHANCE:.0f} %)"
    )
