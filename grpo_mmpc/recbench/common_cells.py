"""The seeds and categories that methods are compared on, when some trainings failed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Scores = Mapping[str, NDArray[np.floating]]
"""By category, scores of its users ``[V]``."""

Runs = Mapping[str, Mapping[int, Scores]]
"""By method and seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonCells:
    """The choice of methods, seeds and categories: each kept method has all kept cells."""

    methods: list[str]
    seeds: list[int]
    categories: list[str]
    left_out: dict[str, str]
    """Methods that lack something of this, and what."""
    dropped: dict[str, str]
    """Categories, and seeds as ``seed 1``, that do not count, and why."""


def common_cells(runs: Runs, *, min_users: int) -> CommonCells:
    """Choose what methods are compared on.

    A category with too few users is dropped, unless all have too few. Then what at least half of
    the methods lack is dropped, so that one method alone cannot cost all others their comparison,
    and methods that lack something of the rest are left out. Where that leaves fewer than two
    methods, what any of them lacks is dropped instead.

    Args:
        runs: Finished cells; users in the same order in all of a category. A method without any has
            no say in what the others are compared on.
        min_users: Fewest that a category must have.
    """
    sizes = {name: len(scores[name]) for by_seed in runs.values() for scores in by_seed.values() for name in scores}
    small = {name: size for name, size in sizes.items() if size < min_users}
    if len(small) == len(sizes):
        small = {}
    cells = {
        method: {(seed, name) for seed, scores in by_seed.items() for name in scores if name not in small}
        for method, by_seed in runs.items()
    }
    voting = {method: has for method, has in cells.items() if has}
    counts = Counter(cell for has in voting.values() for cell in has)
    tried = [_attempt(cells, counts, needed=needed) for needed in (len(voting) // 2 + 1, len(voting))]
    chosen = max(tried, key=lambda common: min(len(common.methods), 2))  # the first of equals
    reasons = {
        name: f"{size} test user{'s' if size != 1 else ''}, an interval needs {min_users}"
        for name, size in small.items()
    }
    return replace(chosen, dropped=dict(sorted(reasons.items())) | chosen.dropped)


def _attempt(
    cells: Mapping[str, set[tuple[int, str]]], counts: Mapping[tuple[int, str], int], *, needed: int
) -> CommonCells:
    """Drop cells that fewer than ``needed`` methods have, then methods that lack another one."""
    seeds, categories = _full_rectangle({cell for cell, count in counts.items() if count >= needed})
    wanted = {(seed, name) for seed in seeds for name in categories}
    left_out = {
        method: _lacking(wanted - has, wanted) if has else "no cell of it has a result"
        for method, has in cells.items()
        if not has or not wanted or wanted - has
    }
    why = "too many methods have no result for it"
    return CommonCells(
        methods=[method for method in cells if method not in left_out],
        seeds=seeds,
        categories=categories,
        left_out=left_out,
        dropped=dict.fromkeys(sorted({name for _, name in counts} - set(categories)), why)
        | {f"seed {seed}": why for seed in sorted({seed for seed, _ in counts} - set(seeds))},
    )


def _full_rectangle(cells: set[tuple[int, str]]) -> tuple[list[int], list[str]]:
    """Give up the seed or category with most holes, until there is none."""
    seeds, categories = sorted({seed for seed, _ in cells}), sorted({name for _, name in cells})
    while holes := {(seed, name) for seed in seeds for name in categories} - cells:
        by_seed = {seed: sum(hole[0] == seed for hole in holes) / len(categories) for seed in seeds}
        by_category = {name: sum(hole[1] == name for hole in holes) / len(seeds) for name in categories}
        seed, category = max(seeds, key=by_seed.__getitem__), max(categories, key=by_category.__getitem__)
        # Of equals the category: seeds are few, and an interval can do least without them.
        if by_seed[seed] > by_category[category]:
            seeds.remove(seed)
        else:
            categories.remove(category)
    return seeds, categories


def _lacking(cells: set[tuple[int, str]], wanted: set[tuple[int, str]]) -> str:
    if not wanted:
        return "no seed and category that the others have a result for too"
    seed, category = min(cells)
    if len(cells) == 1:
        return f"no result for {category} with seed {seed}"
    return f"no result for {len(cells)} of {len(wanted)} cells, {category} with seed {seed} among them"
