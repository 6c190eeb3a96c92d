"""How far two reward mixes agree about the same completions: order, winners, signs, dead groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TIE = 1e-5
"""Advantages closer than this are the same: the trainer's are recorded from 32-bit numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPair:
    """One group's advantages under both mixes; exactly 0 where the group is dead."""

    step: int
    old: Sequence[float]
    new: Sequence[float]
    old_dead: bool
    """All trained rewards are constant over the group: it teaches nothing."""
    new_dead: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What many groups say. A share is None where there is nothing to take it of."""

    groups: int
    completions: int
    rank_correlation: float | None
    """Spearman's, of the advantages of all completions."""
    rank_correlation_in_group: float | None
    """Mean of the groups' own; groups that are constant under either mix have none and are left
    out."""
    winner_changes: float | None
    """Share of groups, alive under both mixes, in which no completion is the best under both."""
    sign_changes: float | None
    """Share of completions, in groups alive under both mixes, that one mix makes likelier and the
    other less likely."""
    old_dead: float | None
    new_dead: float | None
    revived: int
    """Groups that were dead and would not be."""
    died: int
    """Groups that were alive and would not be."""


def agreement(groups: Sequence[GroupPair]) -> Agreement:
    """Summarise groups."""
    alive = [group for group in groups if not group.old_dead and not group.new_dead]
    within = [rho for group in groups if (rho := spearman(group.old, group.new)) is not None]
    signs = [
        old * new < 0 and min(abs(old), abs(new)) > _TIE
        for group in alive
        for old, new in zip(group.old, group.new, strict=True)
    ]
    return Agreement(
        groups=len(groups),
        completions=sum(len(group.old) for group in groups),
        rank_correlation=spearman(
            [value for group in groups for value in group.old], [value for group in groups for value in group.new]
        ),
        rank_correlation_in_group=_mean(within),
        winner_changes=_mean([not winners(group.old) & winners(group.new) for group in alive]),
        sign_changes=_mean(signs),
        old_dead=_mean([group.old_dead for group in groups]),
        new_dead=_mean([group.new_dead for group in groups]),
        revived=sum(group.old_dead and not group.new_dead for group in groups),
        died=sum(group.new_dead and not group.old_dead for group in groups),
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values sharing the mean of their ranks; None if either side is constant."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}")
    if len(first) < 2:
        return None
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else None


def winners(values: Sequence[float]) -> set[int]:
    """Positions of the best value; several when they tie."""
    best = max(values)
    return {i for i, value in enumerate(values) if best - value <= _TIE}


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    array = np.round(np.asarray(values, dtype=np.float64), 5)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
