"""The comparison of fills: levels, differences to a reference, recovery, over users and seeds.

The statistics are those of ``score_table``; here is what is compared with what, and in which words.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from grpo_mmpc.recbench.common_cells import CommonCells, Runs
from grpo_mmpc.recbench.records import Ints
from grpo_mmpc.recbench.score_table import ScoreTable, score_table
from grpo_mmpc.statistics.crossed import Estimate
from grpo_mmpc.statistics.verdicts import BETTER, CONFIDENCE, SAME, TOO_FEW_USERS, UNSCORED, Evidence, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A fill against another one; of completions, against the one named first."""

    fill: str
    difference: Estimate | None
    """None for the reference itself."""
    question: Hashable
    """The key of the compared cells. Equal keys are one test: at every rate, methods without gaps
    compare the same cells, and so does a first completion that is the reference."""
    p_holm: float | None = None
    verdict: str
    """Empty for the reference itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillResult(Contrast):
    """The result of one fill on one metric, against the reference."""

    by_seed: dict[int, float]
    """Mean over categories of the mean over users."""
    by_category: dict[str, Estimate]
    """Level in each category."""
    level: Estimate
    same_as: str | None
    """Another fill that consists of the same cells: nothing was trained twice, and nothing is
    tested twice."""
    recovery: Estimate | None
    """(this - reference) / (ceiling - reference): None unless the ceiling is better than the
    reference beyond doubt, and for what fills no gaps."""


_Contrast = TypeVar("_Contrast", bound=Contrast)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The fills of one group (recommender, missing modality, rate) on one metric."""

    reference: str
    ceiling: str | None
    fills: list[FillResult]
    first_completion: str | None
    """None without completions."""
    against_first: list[Contrast]
    """The other completions, as they were named."""
    seeds: list[int]
    categories: list[str]
    num_users: int
    """One who is in several categories counts once."""

    def of(self, fill: str) -> FillResult | None:
        """Return one fill's entry."""
        return next((result for result in self.fills if result.fill == fill), None)


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
) -> Comparison:
    """Compare fills on one metric; nothing is called better or worse yet, see ``with_verdicts``.

    Args:
        runs: By fill and seed, scores of each user by category; users in the same order in all of
            them.
        common: What they are compared on, at least one method.
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
        untrained: Fills without randomness of training: they say nothing of how much that of others
            varies.
    """
    reference = next((name for name in references if name in common.methods), common.methods[0])
    fills = [reference, *(fill for fill in common.methods if fill != reference)]
    originals: dict[Hashable, str] = {}
    same_as = {fill: originals.setdefault(cells[fill], fill) for fill in fills}

    def table_of(categories: Sequence[str], *, compared: Sequence[tuple[str, str]] = ()) -> ScoreTable:
        return score_table(
            runs,
            categories=categories,
            seeds=common.seeds,
            users=users,
            fills=fills,
            compared=compared,
            same_as=same_as,
            untrained=untrained,
            resamples=resamples,
        )

    def question(fill: str, other: str) -> Hashable:
        return (metric, cells[fill], cells[other], tuple(common.seeds), tuple(common.categories))

    completed = [name for name in common.methods if name in completions]
    table = table_of(
        common.categories,
        compared=[(fill, reference) for fill in fills[1:]] + [(fill, completed[0]) for fill in completed[1:]],
    )
    by_category = {name: table_of([name]) if len(common.categories) > 1 else table for name in common.categories}
    ceiling = ceiling if ceiling in fills else None
    gap = table.difference(ceiling, reference) if ceiling is not None and ceiling != reference else None
    has_gap = gap is not None and gap.interval is not None and gap.interval.low > 0
    results = []
    for row, fill in enumerate(fills):
        is_reference = fill == reference
        results.append(
            FillResult(
                fill=fill,
                by_seed=dict(zip(common.seeds, table.levels[row].tolist(), strict=True)),
                by_category={name: alone.level(fill) for name, alone in by_category.items()},
                level=table.level(fill),
                difference=None if is_reference else table.difference(fill, reference),
                same_as=None if same_as[fill] == fill else same_as[fill],
                question=question(fill, reference),
                verdict="" if is_reference else SAME if same_as[fill] == reference else UNSCORED,
                recovery=table.recovery(fill, reference, ceiling)
                if ceiling is not None
                and has_gap
                and fill in ways_to_fill
                and same_as[fill] not in (reference, same_as[ceiling])
                else None,
            )
        )
    return Comparison(
        reference=reference,
        ceiling=ceiling,
        fills=results,
        first_completion=completed[0] if completed else None,
        against_first=[
            Contrast(
                fill=fill,
                difference=table.difference(fill, completed[0]),
                question=question(fill, completed[0]),
                verdict=SAME if same_as[fill] == same_as[completed[0]] else UNSCORED,
            )
            for fill in completed[1:]
        ],
        seeds=common.seeds,
        categories=common.categories,
        num_users=table.num_users,
    )


def with_verdicts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of everything that is shown together by Holm's method; give verdicts.

    A question that several groups ask counts once, with the largest of their p-values: these may
    differ a little, because the variance of seeds is estimated from everything in a group.
    Recovery is kept only where the ceiling is then called better: its own interval, uncorrected,
    promises less.
    """
    asked = [one for comparison in comparisons for one in (*comparison.fills, *comparison.against_first)]
    decisions = iter(decide([_evidence(one) for one in asked if _is_open(one)], confidence=CONFIDENCE))

    def decided(one: _Contrast) -> _Contrast:
        return replace(one, **next(decisions)._asdict()) if _is_open(one) else one

    decided_comparisons = []
    for comparison in comparisons:
        fills = [decided(result) for result in comparison.fills]
        if not any(result.fill == comparison.ceiling and result.verdict == BETTER for result in fills):
            fills = [replace(result, recovery=None) for result in fills]
        against = [decided(one) for one in comparison.against_first]
        decided_comparisons.append(replace(comparison, fills=fills, against_first=against))
    return decided_comparisons


def _is_open(one: Contrast) -> bool:
    return one.difference is not None and one.verdict != SAME


def _evidence(one: Contrast) -> Evidence:
    assert one.difference is not None
    return Evidence(
        delta=one.difference.value,
        interval=one.difference.interval,
        p=one.difference.p,
        few_changed=one.difference.few_changed,
        without_p=TOO_FEW_USERS,
        question=one.question,
    )
