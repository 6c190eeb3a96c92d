"""The scores of fills over users and seeds, and estimates of their weighted sums.

Every seed's recommender ranks for every user, and all fills see the same users and seeds: a crossed
design, see ``grpo_mmpc.statistics.crossed``. Categories count alike, however few users they have:
the mean is over categories, and users move the mean of each. So a small category has as much say in
the variance as in the mean, and its few users limit what is known of it: degrees of freedom are
those of a sum of variances (Satterthwaite 1946), not the number of users.

What is sampled are people. One who buys in several categories is sampled once, with all that they
add to the mean of categories: as another person in each, they would make intervals too narrow by up
to the root of the number of categories.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grpo_mmpc.recbench.common_cells import Runs
from grpo_mmpc.recbench.records import Ints
from grpo_mmpc.statistics.bootstrap import bootstrap_sums
from grpo_mmpc.statistics.crossed import (
    Estimate,
    ItemEvidence,
    SeedVariance,
    estimate,
    item_evidence,
    pooled_variance,
    seed_weights,
)
from grpo_mmpc.statistics.verdicts import CONFIDENCE, Floats, min_items
from grpo_mmpc.utils.hashing import crc

MIN_USERS = min_items(CONFIDENCE)
"""Fewest test users of a category from which an interval can be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """The scores of fills over categories that count alike; results are weighted sums of fills."""

    levels: Floats
    """``[M, S]``."""
    draws: Floats
    """On resampled users, ``[R, M, S]``, spread as far as the mean of a sample is: without the
    bootstrap's shortfall."""
    covariances: Floats
    """The products of the fills' means over seeds, for users who are in the same categories,
    ``[G, M, M]``."""
    group_sizes: list[int]
    """The number of users in the same categories, ``[G]``."""
    num_users: int
    fewest_users: int
    """The smallest number of users of a category."""
    fills: list[str]
    people: Mapping[tuple[str, str], ItemEvidence]
    """What users say of the differences that get a verdict, by fill and other fill."""
    same_as: Mapping[str, str]
    untrained: Collection[str]

    def level(self, fill: str) -> Estimate:
        """Return the mean of a fill."""
        return self._estimate(self._sum_of({fill: 1.0}))

    def difference(self, fill: str, other: str) -> Estimate:
        """Return the difference of two fills' means; of one fill under two names exactly 0."""
        if self.same_as[fill] == self.same_as[other]:
            return Estimate(value=0.0, interval=None, p=None, se_items=0.0, se_seeds=0.0, degrees=0.0)
        return self._estimate(self._sum_of({fill: 1.0, other: -1.0}), people=self.people.get((fill, other)))

    def recovery(self, fill: str, reference: str, ceiling: str) -> Estimate:
        """Return a ratio of differences by the delta method: fit for a denominator well above 0.

        With x, z, c for fill, reference and ceiling: r = (x - z) / (c - z) moves as x - z - r (c -
        z), over c - z, which is the sum of fills x - r c - (1 - r) z. Independent noise of variance
        s^2 in each of the three gives it (1 + r^2 + (1 - r)^2) s^2 = 2 s^2 (1 - r + r^2): so many
        times that of a difference, 2 s^2.
        """
        means = dict(zip(self.fills, self.levels.mean(axis=1).tolist(), strict=True))
        scale = means[ceiling] - means[reference]
        ratio = (means[fill] - means[reference]) / scale
        weights = {fill: 1 / scale, ceiling: -ratio / scale, reference: -(1 - ratio) / scale}
        return self._estimate(self._sum_of(weights), shift=ratio)

    def _sum_of(self, weights: Mapping[str, float]) -> Floats:
        """Return weights ``[M]``, names of the same fill added up."""
        row = np.zeros(len(self.fills))
        for fill, weight in weights.items():
            row[self.fills.index(self.same_as[fill])] += weight
        return row

    def _estimate(self, weights: Floats, *, shift: float = 0.0, people: ItemEvidence | None = None) -> Estimate:
        values = shift + weights @ self.levels  # [S]
        draws = shift + np.einsum("m,rms->rs", weights, self.draws)
        variances = np.einsum("m,gmn,n->g", weights, self.covariances, weights)
        below = sum(one**2 / max(1, count - 1) for one, count in zip(variances, self.group_sizes, strict=True))
        return estimate(
            values,
            draws,
            seed_weights(num_seeds=len(values), resamples=len(draws), seed=[1]),
            # One category with too few users leaves the mean of all without an interval.
            num_items=self.num_users if self.fewest_users >= MIN_USERS else self.fewest_users,
            degrees_of_items=float(variances.sum() ** 2 / below) if below > 0 else float(max(1, self.num_users - 1)),
            pooled=self._pooled(weights),
            items=people,
            confidence=CONFIDENCE,
        )

    def _pooled(self, weights: Floats) -> SeedVariance | None:
        """Return the variance of seeds in a weighted sum, as all trained fills together show it."""
        rows = [row for row, fill in enumerate(self.fills) if self.same_as[fill] == fill and fill not in self.untrained]
        own = weights[rows]
        if not np.any(own):
            return None
        # What a seed does to all trained fills cancels only where their weights do.
        cancels = abs(float(own.sum())) < 1e-9 * float(np.abs(own).sum())
        pooled = pooled_variance(self.levels[rows], num_seeds=self.levels.shape[1], of_difference=cancels)
        if pooled is None:
            return None
        factor = float(own @ own) / 2 if cancels else max(float(own @ own), float(own.sum()) ** 2)
        return replace(pooled, variance=pooled.variance * factor)


def score_table(
    runs: Runs,
    *,
    categories: Sequence[str],
    seeds: Sequence[int],
    users: Mapping[str, Ints],
    fills: Sequence[str],
    compared: Sequence[tuple[str, str]],
    same_as: Mapping[str, str],
    untrained: Collection[str],
    resamples: int,
) -> ScoreTable:
    """Build the table of some fills over categories that count alike; arguments as of ``judge``.

    ``compared`` are the differences that get a verdict, each a fill and the one that it is compared
    with.
    """
    scores = {  # [V, M, S] of each category
        name: np.moveaxis(np.array([[runs[fill][seed][name] for seed in seeds] for fill in fills], np.float64), -1, 0)
        for name in categories
    }
    people, rows = np.unique(np.concatenate([users[name] for name in scores]), return_inverse=True)
    _, *shape = next(iter(scores.values())).shape
    # How far each person moves the mean of categories, from all categories that they are in: [U, M,
    # S]. Around the category's own mean, so that how many of its users a resample holds does not
    # matter.
    moves, is_in = np.zeros((len(people), *shape)), np.zeros((len(people), len(scores)), dtype=np.bool_)
    sizes = [len(values) for values in scores.values()]
    contrasts = np.zeros((len(fills), len(compared)))
    for column, (fill, other) in enumerate(compared):
        contrasts[[fills.index(fill), fills.index(other)], column] = 1.0, -1.0
    changes = np.zeros((len(people), len(compared)))
    places = np.split(rows, np.cumsum(sizes)[:-1])
    for column, (place, values, size) in enumerate(zip(places, scores.values(), sizes, strict=True)):
        # A variance that is resampled from n users is short by (n - 1) / n: n users count as the
        # root of n (n - 1).
        moves[place] += (values - values.mean(axis=0)) / (len(scores) * np.sqrt(size * max(1, size - 1)))
        is_in[place, column] = True
        changes[place] += np.abs(values.mean(axis=2) @ contrasts)
    levels = np.mean([values.mean(axis=0) for values in scores.values()], axis=0)
    seed = [crc("\n".join(scores))]
    draws = bootstrap_sums(moves.reshape(len(people), -1), resamples=resamples, seed=seed)
    # Those who are in the same categories have the same variance.
    _, group, group_sizes = np.unique(is_in, axis=0, return_inverse=True, return_counts=True)
    over_seeds = moves.mean(axis=2)  # [U, M]
    # The mean of U such terms is the difference, and they spread as its moves do.
    terms = (levels.mean(axis=1) + len(people) * over_seeds) @ contrasts
    said = item_evidence(terms, np.ones(len(people)), changes=changes, resamples=resamples, seed=seed)
    by_group = np.split(over_seeds[np.argsort(group.ravel(), kind="stable")], np.cumsum(group_sizes)[:-1])
    return ScoreTable(
        levels=levels,
        draws=levels + draws.reshape(resamples, *shape),
        covariances=np.stack([part.T @ part for part in by_group]),
        group_sizes=group_sizes.tolist(),
        num_users=len(people),
        fewest_users=min(sizes),
        fills=list(fills),
        people=dict(zip(compared, said, strict=True)),
        same_as=same_as,
        untrained=untrained,
    )
