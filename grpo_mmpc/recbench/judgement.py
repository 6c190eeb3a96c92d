"""Fills against each other: levels, differences to a reference, relative recovery, over users and seeds that were drawn at random.

Every seed's recommender ranks for every user, and all fills see the same users and seeds: a crossed design, see
``grpo_mmpc.statistics.crossed``. Categories count alike: users are resampled within each, and the mean is over categories.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.statistics.crossed import Estimate, estimate, pooled_variance, replicate_values, seed_weights
from grpo_mmpc.statistics.verdicts import TOO_FEW, UNSCORED, Floats, holm, min_items, verdict

CONFIDENCE = 0.95

Scores = Mapping[str, NDArray[np.float64]]
"""By category, scores of its users ``[V]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One fill on one metric, over all categories that every fill and seed has."""

    fill: str
    by_seed: dict[int, float]
    """Mean over categories of the mean over users."""
    by_category: dict[str, Estimate]
    """Level in each category."""
    level: Estimate
    difference: Estimate | None
    """To the reference; None for the reference itself."""
    p_holm: float | None
    verdict: str
    """Empty for the reference itself."""
    recovery: Estimate | None
    """(this - reference) / (ceiling - reference): None unless the ceiling is better than the reference beyond doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All fills of one group (recommender, missing modality, rate) on one metric."""

    metric: str
    reference: str
    ceiling: str | None
    fills: list[Judged]
    seeds: list[int]
    categories: list[str]
    num_users: int
    left_out: dict[str, str]
    """Fills without a result in every category and seed, and what they lack."""

    def of(self, fill: str) -> Judged | None:
        """One fill's entry."""
        return next((judged for judged in self.fills if judged.fill == fill), None)


def judge(
    runs: Mapping[str, Mapping[int, Scores]],
    *,
    metric: str,
    reference: str,
    ceiling: str | None,
    resamples: int,
) -> Comparison | None:
    """Compare fills on one metric.

    Args:
        runs: By fill and seed, scores of each user by category; users in the same order in all of them. Only categories
            and seeds that all fills have count, so that all are judged on the same users; a fill that lacks a category
            or seed that most others have is left out instead.
        metric: Its name.
        reference: What fills are compared with.
        ceiling: What recovery is measured towards; None measures none.
        resamples: Of the bootstrap over users.

    Returns:
        None where the reference has no result.
    """
    whole = {fill: {(seed, name) for seed, scores in found.items() for name in scores} for fill, found in runs.items()}
    wanted = set().union(*whole.values()) if whole else set()
    left_out = {fill: _lacking(wanted - has) for fill, has in whole.items() if has != wanted}
    kept = {fill: found for fill, found in runs.items() if fill not in left_out}
    if reference not in kept or not wanted:
        return None
    seeds, categories = sorted({seed for seed, _ in wanted}), sorted({name for _, name in wanted})
    fills = [reference, *(fill for fill in kept if fill != reference)]
    levels, draws, num_users, by_category = _levels(kept, fills, seeds, categories, resamples=resamples)
    judged = []
    table = _Table(levels=levels, draws=draws, fills=fills, num_users=num_users)
    gap = table.difference(ceiling, reference) if ceiling in kept and ceiling != reference else None
    is_real = gap is not None and gap.interval is not None and gap.interval.low > 0
    for fill in fills:
        difference = None if fill == reference else table.difference(fill, reference)
        judged.append(
            Judged(
                fill=fill,
                by_seed=dict(zip(seeds, levels[fills.index(fill)].tolist(), strict=True)),
                by_category={name: by_category[name][fills.index(fill)] for name in categories},
                level=table.level(fill),
                difference=difference,
                p_holm=None,
                verdict="" if fill == reference else UNSCORED,
                recovery=table.recovery(fill, reference, ceiling)
                if ceiling is not None and is_real and fill not in (reference, ceiling)
                else None,
            )
        )
    return Comparison(
        metric=metric,
        reference=reference,
        ceiling=ceiling if ceiling in kept else None,
        fills=judged,
        seeds=seeds,
        categories=categories,
        num_users=num_users,
        left_out=left_out,
    )


def with_verdicts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of everything that is shown together, by Holm's method, and say what follows."""
    tested = [
        (i, judged.fill, judged.difference.p)
        for i, comparison in enumerate(comparisons)
        for judged in comparison.fills
        if judged.difference is not None and judged.difference.p is not None
    ]
    corrected = {(i, fill): p for (i, fill, _), p in zip(tested, holm([p for *_, p in tested]), strict=True)}

    def decided(i: int, judged: Judged) -> Judged:
        if judged.difference is None:
            return judged
        p = corrected.get((i, judged.fill))
        word = verdict(
            judged.difference.value, judged.difference.interval, p, higher_is_better=True, confidence=CONFIDENCE
        )
        return replace(judged, p_holm=p, verdict=TOO_FEW if p is None else word)

    return [
        replace(comparison, fills=[decided(i, judged) for judged in comparison.fills])
        for i, comparison in enumerate(comparisons)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    levels: Floats
    """``[M, S]``."""
    draws: Floats
    """On resampled users, ``[R, M, S]``."""
    fills: list[str]
    num_users: int

    def level(self, fill: str) -> Estimate:
        row = self.fills.index(fill)
        return self._estimate(self.levels[row], self.draws[:, row], of_difference=False)

    def difference(self, fill: str, other: str) -> Estimate:
        row, beside = self.fills.index(fill), self.fills.index(other)
        return self._estimate(
            self.levels[row] - self.levels[beside], self.draws[:, row] - self.draws[:, beside], of_difference=True
        )

    def recovery(self, fill: str, reference: str, ceiling: str) -> Estimate:
        """A ratio of two differences, linear around its value (delta method): fit where the denominator is well above 0."""
        row, low, high = (self.fills.index(name) for name in (fill, reference, ceiling))
        gain, gap = self.levels[row] - self.levels[low], self.levels[high] - self.levels[low]
        ratio, scale = float(gain.mean() / gap.mean()), float(gap.mean())
        values = ratio + (gain - ratio * gap) / scale
        gains = self.draws[:, row] - self.draws[:, low]
        gaps = self.draws[:, high] - self.draws[:, low]
        draws = ratio + (gains - ratio * gaps) / scale
        weights = seed_weights(num_seeds=len(values), resamples=len(draws), seed=[1])
        return estimate(values, draws, weights, num_items=self.num_users, confidence=CONFIDENCE)

    def _estimate(self, values: Floats, draws: Floats, *, of_difference: bool) -> Estimate:
        weights = seed_weights(num_seeds=len(values), resamples=len(draws), seed=[1])
        pooled = pooled_variance(self.levels, num_seeds=len(values), of_difference=of_difference)
        found = estimate(values, draws, weights, num_items=self.num_users, pooled=pooled, confidence=CONFIDENCE)
        return found


def _levels(
    runs: Mapping[str, Mapping[int, Scores]],
    fills: Sequence[str],
    seeds: Sequence[int],
    categories: Sequence[str],
    *,
    resamples: int,
) -> tuple[Floats, Floats, int, dict[str, list[Estimate]]]:
    """Means over categories ``[M, S]``, the same on resampled users ``[R, M, S]``, users, and levels by category and fill."""
    shape = (len(fills), len(seeds))
    levels, draws, num_users = np.zeros(shape), np.zeros((resamples, *shape)), 0
    by_category: dict[str, list[Estimate]] = {}
    for name in categories:
        scores = np.stack([runs[fill][seed][name] for fill in fills for seed in seeds]).astype(np.float64)  # [M*S, V]
        replicates = replicate_values(
            scores[:, :, None],
            aggregate=lambda sums, count: sums[..., 0] / count,
            resamples=resamples,
            seed=[zlib.crc32(name.encode())],
        ).reshape(resamples, *shape)
        means = scores.mean(axis=1).reshape(shape)
        alone = _Table(levels=means, draws=replicates, fills=list(fills), num_users=scores.shape[1])
        by_category[name] = [alone.level(fill) for fill in fills]
        levels += means / len(categories)
        draws += replicates / len(categories)
        num_users += scores.shape[1]
    return levels, draws, num_users, by_category


def _lacking(cells: set[tuple[int, str]]) -> str:
    seed, category = min(cells)
    return f"no result for {len(cells)} cells, {category} with seed {seed} among them"


MIN_USERS = min_items(CONFIDENCE)
"""Fewest test users from which an interval can be had."""
