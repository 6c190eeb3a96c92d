"""The difference that a number of items can show."""

import math

from grpo_mmpc.statistics.verdicts import min_items

_SPREAD = 0.3
"""A usual standard deviation of an item's difference, of metrics between 0 and 1."""
_REACH = 1.96 + 0.84
"""Standard errors of a difference that a test of 5 % shows with a chance of 80 %."""


def what_items_show(items: int, *, confidence: float) -> str:
    """Say how large a difference has to be for this many items to show it."""
    least = min_items(confidence)
    if items < least:
        return f"{items} held-out items are too few for any verdict; hold out {least} at least"
    difference = _REACH * _SPREAD / math.sqrt(items)
    return (
        f"{items:,} held-out items can show a difference of about {difference:.3f} in a metric between 0 and 1 (an "
        f"item's difference spreads by {_SPREAD:g}, one comparison, chance 80 %)"
    )
