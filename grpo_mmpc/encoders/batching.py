"""Splits texts of different lengths into forward passes with little padding."""

from collections.abc import Sequence

MAX_BATCH_ITEMS = 64
MAX_BATCH_TOKENS = 8192
GOOD_BATCH_ITEMS = 16
"""From here on a larger batch saves little, while padding costs as much as text."""


def length_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of all items, longest first, in batches of like length.

    A batch holds at most 64 items and, padded to its longest, 8192 tokens; no item is padded to
    more than twice its length, so that one long text among short ones does not make all of them
    long. From 16 items on, a batch takes only items that need little padding, an eighth of its
    longest. An item that exceeds the limit alone is a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for position in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        batch = batches[-1] if batches else []
        full = len(batch) == MAX_BATCH_ITEMS or (len(batch) + 1) * longest > MAX_BATCH_TOKENS
        shortest = longest * 7 / 8 if len(batch) >= GOOD_BATCH_ITEMS else longest / 2
        if not batch or full or lengths[position] < shortest:
            batches.append([position])
            longest = lengths[position]
        else:
            batch.append(position)
    return batches
