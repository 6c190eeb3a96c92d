"""Verdicts on differences: the fewest items, correction, effect size, the words."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of intervals and verdicts where nobody asks for another."""

BETTER, WORSE, NO_EVIDENCE, TOO_FEW_CHANGED = "better", "worse", "no evidence", "too few changed"
TOO_FEW, NO_INTERVAL, UNSCORED = "too few items", "no interval", "unscored"
VERDICTS = (BETTER, WORSE, NO_EVIDENCE, TOO_FEW_CHANGED, TOO_FEW, NO_INTERVAL, UNSCORED)
"""Verdicts of a comparison, see ``verdict``. ``no interval`` is the one of a metric without values
per item."""
TOO_FEW_SEEDS, TOO_FEW_USERS, SAME = "too few seeds", "too few users", "same"
"""Further ones, of ablations and of the recommendation benchmark; ``same`` is the reference under
another name."""


MIN_CHANGED, MIN_CHANGED_ALIKE = 150, 15
"""The fewest units that must have changed for a verdict, unless half of them did; and where all
changed by as much, as in a yes-or-no metric."""


class Interval(NamedTuple):
    """A confidence interval, ends included."""

    low: float
    high: float

    def within(self, least: float, greatest: float, *, value: float) -> "Interval":
        """Return the part inside a range; the value in the middle stays, wherever it is."""
        return Interval(max(self.low, min(least, value)), min(self.high, max(greatest, value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A difference and the evidence on it, before any correction."""

    delta: float | None
    """None when nothing was scored."""
    interval: Interval | None
    p: float | None
    higher_is_better: bool = True
    without_p: str = TOO_FEW
    """The verdict where there is no p-value."""
    few_changed: bool = False
    """See ``few_changed``."""
    question: Hashable = None
    """Differences that answer the same question count once, with the largest of their p-values;
    None is a question of its own."""


class Decision(NamedTuple):
    """A verdict and the corrected p-value that it goes by, None where there is no p-value."""

    p_holm: float | None
    verdict: str


def decide(family: Sequence[Evidence], *, confidence: float) -> list[Decision]:
    """Correct the p-values of all that is shown together (Holm), and give the verdicts in order.

    Differences without a p-value do not count in the correction. 1 minus ``confidence`` is the
    chance of any false ``better`` or ``worse`` in the family.
    """
    questions = [position if one.question is None else one.question for position, one in enumerate(family)]
    p_values: dict[Hashable, float] = {}
    for question, one in zip(questions, family, strict=True):
        if one.p is not None:
            p_values[question] = max(one.p, p_values.get(question, 0.0))
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))

    def decision(question: Hashable, one: Evidence) -> Decision:
        p_holm = None if one.p is None else corrected[question]
        if one.delta is not None and (one.interval is None or p_holm is None):
            return Decision(p_holm, one.without_p)
        if one.few_changed:
            return Decision(p_holm, TOO_FEW_CHANGED)
        return Decision(
            p_holm,
            verdict(one.delta, one.interval, p_holm, higher_is_better=one.higher_is_better, confidence=confidence),
        )

    return [decision(question, one) for question, one in zip(questions, family, strict=True)]


def verdict(
    delta: float | None,
    interval: tuple[float, float] | None,
    p_holm: float | None,
    *,
    higher_is_better: bool,
    confidence: float,
) -> str:
    """Return the word for a difference.

    Two things have to agree: the p-value, corrected for all comparisons that are shown together,
    which holds the chance of *any* false ``better`` or ``worse`` to ``1 - confidence``, and the
    interval of this one difference, so that no reader sees ``better`` beside an interval that holds
    0.
    """
    if delta is None:
        return UNSCORED
    if interval is None or p_holm is None:
        return TOO_FEW
    low, high = interval
    if low <= 0 <= high or p_holm > 1 - confidence + 1e-12:
        return NO_EVIDENCE
    return BETTER if (low > 0) == higher_is_better else WORSE


def few_changed(differences: Floats) -> bool:
    """Return whether too few units changed for interval and p-value to hold what they promise.

    ``benchmarks/coverage.py`` shows why: where most differences ``[U]`` are 0 and the rest is
    skewed, intervals of 36 changed units of 360 cover 92 %, and 100 of 1,000 give a false verdict
    on one of twelve metrics in 7 % of cases.
    """
    sizes = np.abs(differences)
    changed = sizes[sizes > 1e-12]
    are_alike = len(changed) and changed.max() - changed.min() <= 1e-9 * changed.max()
    return len(changed) < min(MIN_CHANGED_ALIKE if are_alike else MIN_CHANGED, len(differences) / 2)


def interval_key(confidence: float) -> str:
    """Return the key of an interval in a cell of ``comparison.json``: ``ci95`` at 0.95."""
    return f"ci{100 * confidence:g}"


def min_items(confidence: float) -> int:
    """Return the fewest items from which there can be an interval of this confidence: 6 at 95%.

    With n paired differences the strongest possible finding is that all have one sign, which chance
    alone gives with probability ``2 * 0.5**n``. Where that exceeds ``1 - confidence`` no interval
    keeps its promise, so none is given.
    """
    check_confidence(confidence)
    return math.ceil(1 - math.log2(1 - confidence) - 1e-9)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for a whole family at once, by Holm's step-down method (1979), in order.

    The k-th smallest of m is multiplied by ``m - k + 1``, capped at 1, and never put below a
    smaller one's result. Valid under any dependence between the comparisons, and never weaker than
    Bonferroni's.
    """
    m = len(p_values)
    corrected, running = [0.0] * m, 0.0
    for rank, position in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (m - rank) * p_values[position]))
        corrected[position] = running
    return corrected


def effect_size(differences: Floats) -> float | None:
    """Return d_z: the mean of paired differences ``[N]`` over their standard deviation (n - 1).

    Its sign is that of after minus before, whatever the direction of the metric. 0.2 is called
    small, 0.5 medium, 0.8 large (Cohen 1988, for d; d_z is larger the more alike before and after
    are). None below two items, and where all differences are the same: no spread to measure by.
    """
    if len(differences) < 2:
        return None
    spread = float(np.std(differences, ddof=1))
    if spread <= 1e-9 * float(np.abs(differences).max()):  # equal but for rounding
        return None
    return float(np.mean(differences)) / spread


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is not a share, such as 95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a share between 0 and 1, such as 0.95")
