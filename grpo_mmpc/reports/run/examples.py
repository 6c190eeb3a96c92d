"""Items chosen by rule: some that improved most, some in the middle, some that got worst."""

from collections.abc import Sequence
from statistics import median

from grpo_mmpc.reports.common.gallery import Item, ItemGroup, most, without

BEFORE, AFTER = "Before", "After"
"""Names of the two answers to an item."""
MAX_ITEMS = 24
"""On the whole page."""


def delta(item: Item) -> float:
    """Score after minus score before."""
    return item.answers[AFTER].score - item.answers[BEFORE].score


def choose(items: Sequence[Item], *, count: int) -> list[ItemGroup]:
    """Choose three groups of up to ``count`` items each, the same ones for the same items.

    No item appears twice. A group is named by what really happened: where no item got worse, the
    last group says so, and where none changed there is one group of such.
    """
    if not items:
        return []
    if not any(map(delta, items)):
        same = most(items, delta, count=3 * count)
        return [ItemGroup(title="No item changed", rule="the same score before and after", items=same)]
    middle = median(map(delta, items))
    best = most(items, delta, count=count)
    left = without(items, best)
    worst = most(left, lambda item: -delta(item), count=count)
    typical = most(without(left, worst), lambda item: -abs(delta(item) - middle), count=count)
    improved, got_worse = any(delta(item) > 0 for item in best), any(delta(item) < 0 for item in worst)
    groups = [
        ItemGroup(
            title="Improved most" if improved else "Changed least: no item improved",
            rule="largest change upwards",
            items=best,
        ),
        ItemGroup(title="In the middle", rule="closest to the median change", items=typical),
        ItemGroup(
            title="Got worst" if got_worse else "Improved least: no item chosen here got worse",
            rule="largest change downwards",
            items=worst,
        ),
    ]
    return [group for group in groups if group.items]
