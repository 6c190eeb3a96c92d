"""Fills against each other: levels, differences to a reference, relative recovery, over users and seeds that were drawn at random.

Every seed's recommender ranks for every user, and all fills see the same users and seeds: a crossed
design, see ``grpo_mmpc.statistics.crossed``. Categories count alike, however few users they have:
the mean is over categories, and users move the mean of each. So a small category has as much say in
the variance as in the mean, and its few users limit what is known of it: degrees of freedom are
those of a sum of variances (Satterthwaite 1946), not the number of users.

What is drawn at random are people. One who buys in several categories is drawn once, with all that
they add to the mean of categories: as another person in each, they would make intervals too narrow
by up to the root of the number of categories.
"""

import zlib
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from grpo_mmpc.recbench.common_cells import CommonCells, Runs
from grpo_mmpc.recbench.records import Ints
from grpo_mmpc.statistics.bootstrap import bootstrap_sums
from grpo_mmpc.statistics.crossed import Estimate, SeedVariance, estimate, pooled_variance, seed_weights
from grpo_mmpc.statistics.verdicts import BETTER, SAME, TOO_FEW_USERS, UNSCORED, Evidence, Floats, decide, min_items

CONFIDENCE = 0.95
MIN_USERS = min_items(CONFIDENCE)
"""Fewest test users of a category from which an interval can be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One fill on one metric."""

    fill: str
    by_seed: dict[int, float]
    """Mean over categories of the mean over users."""
    by_category: dict[str, Estimate]
    """Level in each category."""
    level: Estimate
    difference: Estimate | None
    """To the reference; None for the reference itself."""
    same_as: str | None
    """Another fill that consists of the same cells: nothing was trained twice, and nothing is
    tested twice."""
    question: Hashable
    """What the difference is of: equal where another group compares the same cells, as at every
    rate do those without gaps."""
    p_holm: float | None
    verdict: str
    """Empty for the reference itself."""
    recovery: Estimate | None
    """(this - reference) / (ceiling - reference): None unless the ceiling is better than the
    reference beyond doubt, and for what fills no gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstFirst:
    """A completion against the one that was named first: did the second policy do better than the first?"""

    fill: str
    difference: Estimate
    question: Hashable
    """As of ``Judged``: where the first completion is the reference, one question is not tested
    twice."""
    p_holm: float | None
    verdict: str


_Tested = TypeVar("_Tested", Judged, AgainstFirst)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All fills of one group (recommender, missing modality, rate) on one metric."""

    metric: str
    reference: str
    ceiling: str | None
    fills: list[Judged]
    first_completion: str | None
    """None without completions."""
    against_first: list[AgainstFirst]
    """The other completions, as they were named."""
    seeds: list[int]
    categories: list[str]
    num_users: int
    """One who is in several categories counts once."""

    def of(self, fill: str) -> Judged | None:
        """One fill's entry."""
        return next((judged for judged in self.fills if judged.fill == fill), None)


def judge(
    runs: Runs,
    *,
    common: CommonCells,
    users: Mapping[str, Ints],
    metric: str,
    references: Sequence[str],
    ceiling: str | None,
    resamples: int,
    cells: Mapping[str, Hashable],
    ways_to_fill: Collection[str],
    completions: Collection[str] = (),
    untrained: Collection[str] = (),
) -> Comparison | None:
    """Compare fills on one metric.

    Args:
        runs: By fill and seed, scores of each user by category; users in the same order in all of
            them.
        common: What they are compared on, see ``common_cells``.
        users: By category, who they are ``[V]``: the same number in every category that somebody is
            in.
        metric: Its name.
        references: What fills are compared with: the first of these that is there, else the first
            fill.
        ceiling: What recovery is measured towards; None measures none.
        resamples: Of the bootstrap over users.
        cells: What each fill was trained as. Fills with the same are one fill under several names.
        ways_to_fill: Those that put something in place of what is missing: recovery is theirs
            alone.
        completions: Fills that are compared with each other: those after the first of them, in the
            order of ``runs``, with it.
        untrained: Fills without luck of training: they say nothing of how much that of others
            varies.

    Returns:
        None where nothing is compared. Nothing is called better or worse yet, see
        ``with_verdicts``.
    """
    if not common.methods:
        return None
    reference = next((name for name in references if name in common.methods), common.methods[0])
    fills = [reference, *(fill for fill in common.methods if fill != reference)]
    originals: dict[Hashable, str] = {}
    same_as = {fill: originals.setdefault(cells[fill], fill) for fill in fills}

    def table_of(categories: Sequence[str]) -> _Table:
        scores = {name: _scores(runs, fills, name, common.seeds) for name in categories}
        return _table(scores, users, fills=fills, same_as=same_as, untrained=untrained, resamples=resamples)

    def question(fill: str, other: str) -> Hashable:
        return (metric, cells[fill], cells[other], tuple(common.seeds), tuple(common.categories))

    by_category = {name: table_of([name]) for name in common.categories}
    table = table_of(common.categories) if len(by_category) > 1 else by_category[common.categories[0]]
    ceiling = ceiling if ceiling in fills else None
    gap = table.difference(ceiling, reference) if ceiling is not None and ceiling != reference else None
    has_gap = gap is not None and gap.interval is not None and gap.interval.low > 0
    judged = []
    for row, fill in enumerate(fills):
        is_reference = fill == reference
        judged.append(
            Judged(
                fill=fill,
                by_seed=dict(zip(common.seeds, table.levels[row].tolist(), strict=True)),
                by_category={name: alone.level(fill) for name, alone in by_category.items()},
                level=table.level(fill),
                difference=None if is_reference else table.difference(fill, reference),
                same_as=None if same_as[fill] == fill else same_as[fill],
                question=question(fill, reference),
                p_holm=None,
                verdict="" if is_reference else SAME if same_as[fill] == reference else UNSCORED,
                recovery=table.recovery(fill, reference, ceiling)
                if ceiling is not None
                and has_gap
                and fill in ways_to_fill
                and same_as[fill] not in (reference, same_as[ceiling])
                else None,
            )
        )
    completed = [name for name in common.methods if name in completions]
    return Comparison(
        metric=metric,
        reference=reference,
        ceiling=ceiling,
        fills=judged,
        first_completion=completed[0] if completed else None,
        against_first=[
            AgainstFirst(
                fill=fill,
                difference=table.difference(fill, completed[0]),
                question=question(fill, completed[0]),
                p_holm=None,
                verdict=SAME if same_as[fill] == same_as[completed[0]] else UNSCORED,
            )
            for fill in completed[1:]
        ],
        seeds=common.seeds,
        categories=common.categories,
        num_users=table.num_users,
    )


def with_verdicts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of everything that is shown together, by Holm's method, and say what follows.

    A question that several groups ask counts once, with the largest of their p-values: these may
    differ a little, because the luck of seeds is judged by everything in a group.
    Recovery is kept only where the ceiling is then called better: its own interval, uncorrected,
    promises less.
    """
    asked: list[Judged | AgainstFirst] = []
    for comparison in comparisons:
        asked += [*comparison.fills, *comparison.against_first]
    decisions = iter(decide([_evidence(one) for one in asked if _is_open(one)], confidence=CONFIDENCE))

    def decided(one: _Tested) -> _Tested:
        return replace(one, **next(decisions)._asdict()) if _is_open(one) else one

    found = []
    for comparison in comparisons:
        fills = [decided(judged) for judged in comparison.fills]
        if not any(judged.fill == comparison.ceiling and judged.verdict == BETTER for judged in fills):
            fills = [replace(judged, recovery=None) for judged in fills]
        against = [decided(one) for one in comparison.against_first]
        found.append(replace(comparison, fills=fills, against_first=against))
    return found


def _is_open(one: Judged | AgainstFirst) -> bool:
    return one.difference is not None and one.verdict != SAME


def _evidence(one: Judged | AgainstFirst) -> Evidence:
    assert one.difference is not None
    return Evidence(
        delta=one.difference.value,
        interval=one.difference.interval,
        p=one.difference.p,
        without_p=TOO_FEW_USERS,
        question=one.question,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Fills over one category, or over several that count alike. Quantities are weighted sums of fills."""

    levels: Floats
    """``[M, S]``."""
    draws: Floats
    """On resampled users, ``[R, M, S]``, spread as far as the mean of a sample is: without the
    bootstrap's shortfall."""
    covariances: Floats
    """Of the fills' means over seeds, for the luck of users who are in the same categories, ``[G,
    M, M]``."""
    group_sizes: list[int]
    """How many users are in the same categories, ``[G]``."""
    num_users: int
    fewest_users: int
    """Of a category."""
    fills: list[str]
    same_as: Mapping[str, str]
    untrained: Collection[str]

    def level(self, fill: str) -> Estimate:
        return self._estimate(self._sum_of({fill: 1.0}))

    def difference(self, fill: str, other: str) -> Estimate:
        if self.same_as[fill] == self.same_as[other]:
            return Estimate(value=0.0, interval=None, p=None, se_items=0.0, se_seeds=0.0, degrees=0.0)
        return self._estimate(self._sum_of({fill: 1.0, other: -1.0}))

    def recovery(self, fill: str, reference: str, ceiling: str) -> Estimate:
        """A ratio of two differences, linear around its value (delta method): fit where the denominator is well above 0.

        With x, z, c for fill, reference and ceiling: r = (x - z) / (c - z) moves as x - z - r (c -
        z), over c - z, which is the sum of fills x - r c - (1 - r) z. Independent luck of variance
        s^2 in each of the three gives it (1 + r^2 + (1 - r)^2) s^2 = 2 s^2 (1 - r + r^2): so many
        times that of a difference, 2 s^2.
        """
        means = dict(zip(self.fills, self.levels.mean(axis=1).tolist(), strict=True))
        scale = means[ceiling] - means[reference]
        ratio = (means[fill] - means[reference]) / scale
        weights = {fill: 1 / scale, ceiling: -ratio / scale, reference: -(1 - ratio) / scale}
        return self._estimate(self._sum_of(weights), shift=ratio)

    def _sum_of(self, weights: Mapping[str, float]) -> Floats:
        """Weights ``[M]``, names of the same fill added up."""
        row = np.zeros(len(self.fills))
        for fill, weight in weights.items():
            row[self.fills.index(self.same_as[fill])] += weight
        return row

    def _estimate(self, weights: Floats, *, shift: float = 0.0) -> Estimate:
        values = shift + weights @ self.levels  # [S]
        draws = shift + np.einsum("m,rms->rs", weights, self.draws)
        luck = np.einsum("m,gmn,n->g", weights, self.covariances, weights)
        below = sum(one**2 / max(1, count - 1) for one, count in zip(luck, self.group_sizes, strict=True))
        return estimate(
            values,
            draws,
            seed_weights(num_seeds=len(values), resamples=len(draws), seed=[1]),
            # One category with too few users leaves the mean of all without an interval.
            num_items=self.num_users if self.fewest_users >= MIN_USERS else self.fewest_users,
            degrees_of_items=float(luck.sum() ** 2 / below) if below > 0 else float(max(1, self.num_users - 1)),
            pooled=self._pooled(weights),
            confidence=CONFIDENCE,
        )

    def _pooled(self, weights: Floats) -> SeedVariance | None:
        """What all trained fills together tell of the luck of seeds in a weighted sum of some of them."""
        rows = [row for row, fill in enumerate(self.fills) if self.same_as[fill] == fill and fill not in self.untrained]
        own = weights[rows]
        if not np.any(own):
            return None
        # What a seed does to all trained fills cancels only where their weights do.
        cancels = abs(float(own.sum())) < 1e-9 * float(np.abs(own).sum())
        found = pooled_variance(self.levels[rows], num_seeds=self.levels.shape[1], of_difference=cancels)
        if found is None:
            return None
        factor = float(own @ own) / 2 if cancels else max(float(own @ own), float(own.sum()) ** 2)
        return replace(found, variance=found.variance * factor)


def _scores(runs: Runs, fills: Sequence[str], category: str, seeds: Sequence[int]) -> Floats:
    """``[V, M, S]``."""
    found = np.array([[runs[fill][seed][category] for seed in seeds] for fill in fills], dtype=np.float64)
    return np.moveaxis(found, -1, 0)


def _table(
    scores: Mapping[str, Floats],
    users: Mapping[str, Ints],
    *,
    fills: Sequence[str],
    same_as: Mapping[str, str],
    untrained: Collection[str],
    resamples: int,
) -> _Table:
    """Fills over categories that count alike, from the scores in each, ``[V, M, S]``."""
    people, rows = np.unique(np.concatenate([users[name] for name in scores]), return_inverse=True)
    _, *shape = next(iter(scores.values())).shape
    # How far each person moves the mean of categories, from all categories that they are in: [U, M,
    # S]. Around the category's own mean, so that how many of its users a resample holds does not
    # matter.
    moves, is_in = np.zeros((len(people), *shape)), np.zeros((len(people), len(scores)), dtype=np.bool_)
    sizes = [len(found) for found in scores.values()]
    places = np.split(rows, np.cumsum(sizes)[:-1])
    for column, (place, found, size) in enumerate(zip(places, scores.values(), sizes, strict=True)):
        # A variance that is resampled from n users is short by (n - 1) / n: n users count as the
        # root of n (n - 1).
        moves[place] += (found - found.mean(axis=0)) / (len(scores) * np.sqrt(size * max(1, size - 1)))
        is_in[place, column] = True
    levels = np.mean([found.mean(axis=0) for found in scores.values()], axis=0)
    draws = bootstrap_sums(
        moves.reshape(len(people), -1), resamples=resamples, seed=[zlib.crc32("\n".join(scores).encode())]
    )
    # Those who are in the same categories have luck of the same variance.
    _, group, group_sizes = np.unique(is_in, axis=0, return_inverse=True, return_counts=True)
    over_seeds = moves.mean(axis=2)[np.argsort(group.ravel(), kind="stable")]  # [U, M]
    return _Table(
        levels=levels,
        draws=levels + draws.reshape(resamples, *shape),
        covariances=np.stack([part.T @ part for part in np.split(over_seeds, np.cumsum(group_sizes)[:-1])]),
        group_sizes=group_sizes.tolist(),
        num_users=len(people),
        fewest_users=min(sizes),
        fills=list(fills),
        same_as=same_as,
        untrained=untrained,
    )
