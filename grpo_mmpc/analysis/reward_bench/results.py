"""The results of a preview as plain records, and the measures in them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from grpo_mmpc.analysis.reward_bench.candidates import GOLD, KINDS, Candidate

MIX = "mix"
"""The name of the weighted sum among the rewards."""
UNRELATED = "other_category"
_DIGITS = 7
"""Scores that agree to this many are equal: the cosine of a text with itself is 1 up to the last
bit."""
FOOLED_BELOW = 0.6
"""A kind fools a reward if the true answer wins less often than this against the wrong one to the
same prompt: GRPO compares within a prompt, and there the reward can hardly tell, or prefers the
wrong answer."""
_SCALE_FROM = 0.6
"""Least AUC of true against unrelated titles that makes their means the ends of a scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """The separation of gold from one kind of candidate."""

    n: int
    """Number of candidates with a score."""
    mean: float | None
    auc: float | None
    """Probability that some gold scores above some candidate of the kind, ties half."""
    wins: float | None
    """Share of items whose gold scores above their own candidate, ties half: what a group of GRPO
    sees."""
    earned: float | None
    """The kind's mean on a scale from that of titles of another category (0) to that of gold (1);
    None if the reward hardly tells those two apart."""

    @property
    def fools(self) -> bool:
        """True if a policy has little or no reason to prefer the true answer."""
        return self.wins is not None and self.wins < FOOLED_BELOW


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The result of one reward on one task."""

    kinds: Mapping[str, Separation]
    """By kind, gold included (its AUC and wins are None)."""
    lowest: float | None
    highest: float | None
    """The greatest score of all well-formed candidates; ``lowest`` the least."""
    unscored_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The agreement of a reward with graded answers of one task."""

    answers: int
    """Number of them that it scored."""
    unscored: int
    pairs: int
    """Pairs of answers to one prompt with different grades."""
    items: int
    """Items with such a pair."""
    agreement: float | None
    """Share of an item's pairs that the reward orders as the grades do, ties half; mean of items.
    0.5 is a coin's; None without a pair."""
    interval: tuple[float, float] | None
    """95%, over items; None with too few."""
    rank_correlation: float | None
    """Spearman's of grades and scores, over all answers."""

    def cells(self) -> list[str]:
        """Return agreement, interval, rank correlation and counts, in words."""
        return [
            "-" if self.agreement is None else f"{self.agreement:.2f}",
            "-" if self.interval is None else "{:.2f} to {:.2f}".format(*self.interval),
            "-" if self.rank_correlation is None else f"{self.rank_correlation:.2f}",
            *(f"{number:,}" for number in (self.pairs, self.items, self.answers, self.unscored)),
        ]


AGREEMENT_HEADS = ("agrees", "95% interval", "rank corr.", "pairs", "items", "answers", "unscored")
"""Heads of ``Agreement.cells``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The milliseconds of one call with 64 completions."""

    cold: float
    """Texts and images that are new to it; its encoder is loaded."""
    warm: float
    """The same again."""
    loading: float
    """Before: the first call of all, with one completion, which loads the encoder unless another
    reward has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardResult:
    """The result of one reward of the preview, or of their weighted sum."""

    name: str
    weight: float | None = None
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    """Empty if it could not be scored."""
    value_range: tuple[float, float] | None = None
    """The declared range."""
    timing: Timing | None = None
    deterministic: bool | None = None
    """A second process, with other batches in the reverse order, gave the same scores to 1e-5; None
    = not known."""
    problem: str | None = None
    """The reason why it could not be scored."""
    agreement: Mapping[str, Agreement] = field(default_factory=dict)
    """By task, with graded answers if there are any."""

    @property
    def seen(self) -> tuple[float, float] | None:
        """The least and the greatest score of well-formed candidates of any task."""
        low = [one.lowest for one in self.tasks.values() if one.lowest is not None]
        high = [one.highest for one in self.tasks.values() if one.highest is not None]
        return (min(low), max(high)) if low and high else None

    def costs(self) -> list[str]:
        """Return range, scores seen, both times, repeatability and unscored share, in words."""
        unscored = max((one.unscored_share for one in self.tasks.values()), default=0.0)
        times = (self.timing.cold, self.timing.warm) if self.timing else ()
        return [
            "-" if self.value_range is None else "[{:g}, {:g}]".format(*self.value_range),
            "-" if self.seen is None else "{:.2f} to {:.2f}".format(*self.seen),
            *(f"{value:.1f}" if value < 10 else f"{value:,.0f}" for value in times),
            {True: "yes", False: "NO", None: "-"}[self.deterministic],
            f"{unscored:.0%}",
        ]

    @property
    def is_mix(self) -> bool:
        """True for the weighted sum of the others."""
        return self.weight is None and self.timing is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The results of all rewards."""

    catalogue: str
    items: int
    seed: int
    command: str
    rewards: Sequence[RewardResult]
    """The mix last, if there is one; its name is ``mix``."""
    examples: Mapping[str, Mapping[str, str]]
    """By task, candidates of one item by kind."""


def task_result(candidates: Sequence[Candidate], scores: Sequence[float | None]) -> TaskResult:
    """Compare gold with every other kind; a score of None is unscored."""
    by_kind: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for candidate, score in zip(candidates, scores, strict=True):
        if score is not None:
            by_kind[candidate.kind][candidate.item_id] = round(score, _DIGITS)
    gold = by_kind[GOLD]
    means = {kind: fmean(values.values()) if values else None for kind, values in by_kind.items()}
    # Without a clear difference between true and unrelated titles the scale would be that of noise.
    separation = auc(list(gold.values()), list(by_kind[UNRELATED].values()))
    has_scale = separation is not None and separation >= _SCALE_FROM
    kinds = {}
    for kind, values in by_kind.items():
        pairs = [(gold[item], score) for item, score in values.items() if item in gold]
        is_gold = kind == GOLD
        kinds[kind] = Separation(
            n=len(values),
            mean=means[kind],
            auc=None if is_gold else auc(list(gold.values()), list(values.values())),
            wins=None if is_gold else win_rate(pairs),
            earned=_earned(means[kind], top=means[GOLD], bottom=means[UNRELATED]) if has_scale else None,
        )
    known = [score for one, score in zip(candidates, scores, strict=True) if score is not None and one.kind != "empty"]
    return TaskResult(
        kinds=kinds,
        lowest=min(known, default=None),
        highest=max(known, default=None),
        unscored_share=sum(score is None for score in scores) / len(scores) if scores else 0.0,
    )


def auc(better: Sequence[float], worse: Sequence[float]) -> float | None:
    """Return the probability that a score of ``better`` lies above one of ``worse``, ties half.

    1 = always, 0.5 = no better than a coin, 0 = never; None if either list is empty. The area under
    the ROC curve, over all pairs.
    """
    if not better or not worse:
        return None
    from sklearn.metrics import roc_auc_score  # heavy: imported on use

    return float(roc_auc_score([1] * len(better) + [0] * len(worse), [*better, *worse]))


def win_rate(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the share of (better, worse) pairs that the better one wins; ties count half."""
    if not pairs:
        return None
    return fmean(1.0 if better > worse else 0.5 if better == worse else 0.0 for better, worse in pairs)


def rounded_down(share: float) -> float:
    """Round down to two digits, so that 0.999 does not read as 1."""
    return math.floor(round(100 * share, 6)) / 100


def _earned(mean: float | None, *, top: float | None, bottom: float | None) -> float | None:
    if mean is None or top is None or bottom is None or top - bottom < 1e-9:
        return None
    return (mean - bottom) / (top - bottom)
