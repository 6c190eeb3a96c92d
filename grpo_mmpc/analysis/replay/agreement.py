"""The agreement of two reward mixes about the same completions: order, winners, signs, variance."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

_TIE = 1e-5
"""Advantages closer than this are the same: the trainer's are recorded from 32-bit numbers."""
MAX_STRETCHES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPair:
    """One group's advantages under both mixes; exactly 0 in a zero-variance group."""

    step: int
    old: Sequence[float]
    new: Sequence[float]
    old_dead: bool
    """All trained rewards are constant over the group: it teaches nothing."""
    new_dead: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The agreement over many groups. A share is None where there is nothing to take it of."""

    groups: int
    completions: int
    rank_correlation: float | None
    """Spearman's, of the advantages of all completions."""
    rank_correlation_in_group: float | None
    """Mean of the groups' own; groups that are constant under either mix have none and are left
    out."""
    winner_changes: float | None
    """Share of groups, with variance under both mixes, in which no completion is the best under
    both."""
    sign_changes: float | None
    """Share of completions, in groups with variance under both mixes, that one mix makes likelier
    and the other less likely."""
    old_dead: float | None
    new_dead: float | None
    revived: int
    """Zero-variance groups that would have variance."""
    died: int
    """Groups with variance that would have none."""


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


def by_stretch(groups: Sequence[GroupPair]) -> dict[tuple[int, int], Agreement]:
    """Return the agreement in at most ``MAX_STRETCHES`` even stretches of steps."""
    steps = sorted({group.step for group in groups})
    count = min(MAX_STRETCHES, len(steps))
    ends = [round(len(steps) * (i + 1) / count) for i in range(count)]
    stretches = [(steps[start], steps[end - 1]) for start, end in zip([0, *ends], ends, strict=False)]
    return {
        (first, last): agreement([group for group in groups if first <= group.step <= last])
        for first, last in stretches
    }


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation (ties share ranks); None if either side is constant."""
    # heavy: imported on use
    import numpy as np
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    a, b = (rankdata(np.round(values, 5)) for values in (first, second))
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])  # not spearmanr: its p-value costs more than all the rest


def winners(values: Sequence[float]) -> set[int]:
    """Return the positions of the best value; several when they tie."""
    best = max(values)
    return {i for i, value in enumerate(values) if best - value <= _TIE}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
