"""Coverage, level and family-wise error of the statistics over thousands of simulated data sets.

Every data set is one measure, so that all of them go through the production code at once.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from grpo_mmpc.evaluation.measures import Aggregate, Measure
from grpo_mmpc.evaluation.resampling import Difference, Resampling, added, differences_of, divided, units_of
from grpo_mmpc.statistics.permutation import flipped_sums, num_flips, permutation_p
from grpo_mmpc.statistics.verdicts import holm, verdict

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]


def mean(sums: Floats, scored: Floats) -> Floats:
    values: Floats = sums[..., 0] / scored
    return values


def measure(before: Floats, after: Floats, *, aggregate: Aggregate = mean, is_mean: bool = True) -> Measure:
    """From scores ``[N]`` or statistics ``[N, S]``; a NaN on either side is unscored."""
    before, after = (side.reshape(len(side), -1) for side in (before, after))
    scored: NDArray[np.bool_] = ~np.isnan(before + after).any(axis=1)
    return Measure(
        name="x",
        higher_is_better=True,
        before=np.where(scored[:, None], before, 0.0),
        after=np.where(scored[:, None], after, 0.0),
        scored=scored,
        aggregate=aggregate,
        is_mean=is_mean,
    )


def compared(
    measures: Sequence[Measure],
    *,
    resamples: int = 999,
    flips: int = 999,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> list[Difference]:
    rows = np.arange(len(measures[0].scored))
    settings = Resampling(resamples=resamples, flips=flips, seed=seed)
    units = units_of(rows, groups, settings, stream="x")
    return differences_of(units, measures, settings, stream="x")


def of_differences(differences: Floats, **options: int) -> list[Difference]:
    """One per column of ``[N, M]``."""
    return compared([measure(np.zeros(len(column)), column) for column in differences.T], **options)


def share_covered(differences: Sequence[Difference], truth: float) -> float:
    found = [difference.interval(confidence=0.95) for difference in differences]
    assert all(interval is not None for interval in found)
    return float(np.mean([i.low - 1e-9 <= truth <= i.high + 1e-9 for i in found if i is not None]))


def normal(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return generator.normal(0.1, 1.0, shape)


def log_normal(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Skewness 2.3, more than an exponential has."""
    return generator.lognormal(0.0, 0.6, shape)


def three_levels(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """A yes-or-no metric: lost, kept, won."""
    return generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.65, 0.25], size=shape)


def six_levels(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    levels = [-0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    return generator.choice(levels, p=[0.05, 0.1, 0.5, 0.2, 0.1, 0.05], size=shape)


# Means: .1; exp(.6**2 / 2); -.1 + .25; -.025 - .025 + .05 + .05 + .05.
CASES: list[tuple[Draw, float]] = [(normal, 0.1), (log_normal, math.exp(0.18)), (three_levels, 0.15), (six_levels, 0.1)]


@pytest.mark.parametrize("num_items", [40, 60, 100])
@pytest.mark.parametrize(("draw", "truth"), CASES)
def test_intervals_cover_the_truth_in_95_of_100_data_sets(draw: Draw, truth: float, num_items: int) -> None:
    # 2,000 data sets: standard error of the coverage sqrt(.95 * .05 / 2000) = 0.5 points.
    differences = draw(np.random.default_rng(num_items), (num_items, 2000))
    assert 0.935 <= share_covered(of_differences(differences), truth) <= 0.965


@pytest.mark.slow
@pytest.mark.parametrize("num_items", [40, 100])
@pytest.mark.parametrize(("draw", "truth"), CASES)
def test_intervals_cover_the_truth_in_95_of_100_data_sets_closely(draw: Draw, truth: float, num_items: int) -> None:
    # 10 times 1,000 data sets and four times the resamples: standard error 0.2 points.
    generator = np.random.default_rng(num_items)
    shares = [
        share_covered(of_differences(draw(generator, (num_items, 1000)), resamples=3999, seed=seed), truth)
        for seed in range(10)
    ]
    assert 0.935 <= np.mean(shares) <= 0.965


@pytest.mark.slow
def test_the_mean_over_categories_is_covered_too() -> None:
    # Nine categories of 40 items whose means differ: c / 10 + exp(.18), on average .4 + exp(.18).
    generator = np.random.default_rng(1)
    totals: list[Difference | None] = [None] * 2000
    for category in range(9):
        differences = category / 10 + log_normal(generator, (40, 2000))
        found = of_differences(differences, seed=category, flips=1)
        totals = [added(total, difference) for total, difference in zip(totals, found, strict=True)]
    macro = [divided(total, 9) for total in totals if total is not None]
    assert 0.935 <= share_covered(macro, 0.4 + math.exp(0.18)) <= 0.965


def ratio(sums: Floats, _: Floats) -> Floats:
    """A corpus-level metric one can do by hand: hits over tries, each summed over the corpus."""
    values: Floats = sums[..., 0] / sums[..., 1]
    return values


@pytest.mark.parametrize("num_items", [40, 100])
def test_the_difference_of_a_corpus_level_metric_is_covered_too(num_items: int) -> None:
    # Titles of 3 to 12 words, of which a share of .3 and .5 is right, differing from item to item:
    # true difference .2.
    generator = np.random.default_rng(2)
    measures = []
    for _ in range(2000):
        tries = generator.integers(3, 13, size=(num_items, 2))
        hits = generator.binomial(tries, generator.beta([3, 5], [7, 5], size=(num_items, 2)))
        before, after = (np.column_stack([hits[:, side], tries[:, side]]).astype(float) for side in (0, 1))
        measures.append(measure(before, after, aggregate=ratio, is_mean=False))
    assert 0.935 <= share_covered(compared(measures, flips=1), 0.2) <= 0.965


@pytest.mark.parametrize("num_items", [8, 40])
def test_p_values_are_no_smaller_than_they_may_be_without_a_difference(num_items: int) -> None:
    # Symmetric differences, 4,000 data sets: a share of at most a of p-values lies at or below a,
    # give or take 3 standard errors, and not far less where items are many.
    differences = np.random.default_rng(num_items).normal(size=(num_items, 4000))
    p = np.array([difference.p_value() for difference in of_differences(differences)])
    for level in (0.25, 0.5, 0.75) if num_items == 8 else (0.01, 0.05, 0.25, 0.5, 0.75):
        assert np.mean(p <= level) <= level + 3 * math.sqrt(level * (1 - level) / 4000)
        assert num_items == 8 or np.mean(p <= level) >= 0.6 * level


def families_with_a_finding(generator: np.random.Generator, data_sets: int) -> tuple[float, float]:
    """Return the shares of families without a difference that have a finding: corrected, and not.

    Twelve metrics in nine categories of 40 items. Metrics share half their variance through the
    item, as BLEU, chrF and ROUGE do, and a quarter of the items does not change at all.
    """
    flips = num_flips(at_least=999, family=12 * 9, confidence=0.95) // 3  # still gets down to 108 / 3601 = .03
    p = np.empty((data_sets, 9, 12))
    for category in range(9):
        shared = generator.normal(size=(40, data_sets, 1))
        differences = math.sqrt(0.5) * shared + math.sqrt(0.5) * generator.normal(size=(40, data_sets, 12))
        differences *= generator.random((40, data_sets, 1)) > 0.25
        for start in range(0, data_sets, 50):  # what is held at once
            block = differences[:, start : start + 50].reshape(40, -1)
            draws = flipped_sums(block, flips=flips, seed=[category, start])
            found = permutation_p(draws, block.sum(axis=0), exact=False)
            p[start : start + 50, category] = found.reshape(-1, 12)
    families = p.reshape(data_sets, -1)
    corrected = np.array([min(holm(family.tolist())) for family in families])
    return float(np.mean(corrected <= 0.05)), float(np.mean(families.min(axis=1) <= 0.05))


def test_families_without_a_difference_have_a_finding_in_at_most_5_of_100() -> None:
    # 500 families: standard error sqrt(.05 * .95 / 500) = 1 point.
    corrected, uncorrected = families_with_a_finding(np.random.default_rng(3), 500)
    assert corrected <= 0.05 + 2 * 0.01
    assert uncorrected > 0.8  # without correction nearly every family has one


@pytest.mark.slow
def test_families_without_a_difference_have_a_finding_in_at_most_5_of_100_closely() -> None:
    # 4,000 families: standard error 0.35 points.
    corrected, _ = families_with_a_finding(np.random.default_rng(4), 4000)
    assert corrected <= 0.05 + 2 * 0.0035


def test_the_difference_and_its_spread_are_those_of_the_scored_pairs() -> None:
    # Pairs 0, 2, 3 are scored: differences .2, .4, .0, mean .2, variance (0 + .04 + .04) / 3, of
    # the mean a third of it.
    [difference] = compared([measure(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.3, np.nan, 0.7, 0.4]))])
    assert (difference.num_scored, difference.delta) == (3, pytest.approx(0.2))
    assert difference.variance == pytest.approx(0.08 / 9)
    assert difference.effect_size == pytest.approx(0.2 / 0.2)  # n - 1: sqrt(.08 / 2) = .2


def test_a_swap_of_sides_mirrors_everything() -> None:
    generator = np.random.default_rng(5)
    before, after = generator.random(60), generator.random(60)
    [forth], [back] = compared([measure(before, after)]), compared([measure(after, before)])
    assert back.p_value() == forth.p_value()
    one, other = forth.interval(confidence=0.95), back.interval(confidence=0.95)
    assert one is not None
    assert other is not None
    assert (other.low, other.high) == (pytest.approx(-one.high), pytest.approx(-one.low))


def test_verdicts_need_both_so_that_skewed_differences_do_not_slip_through() -> None:
    # Exponential differences around a mean of exactly 0 are no null hypothesis of the flips, which
    # test symmetry. With the interval as second condition false findings stay within the level: 5
    # in 100 and 3 standard errors of .5 points.
    differences = np.random.default_rng(6).exponential(size=(40, 2000)) - 1.0
    found = [
        verdict(d.delta, d.interval(confidence=0.95), d.p_value(), higher_is_better=True, confidence=0.95)
        for d in of_differences(differences)
    ]
    assert np.mean([word in ("better", "worse") for word in found]) <= 0.065


def test_ten_gains_that_hang_on_one_of_them_are_judged_by_the_bootstrap_and_not_by_flips() -> None:
    # Flips see ten gains, p = 2 / 2**10 = .002. A resample draws the large one k times, binomial
    # of 10 and .1: its mean is about k / 10, with an error of sqrt(k / 10 * (1 - k / 10) / 10).
    # Observed is .1 / .095 = 1.05; as far above .1 are resamples from k = 3 on, .2 / .145 = 1.38:
    # p = 2 * P(k >= 3) = .14.
    gains = np.append(np.linspace(0.0001, 0.0002, 9), 1.0)
    [difference] = compared([measure(np.zeros(10), gains)], resamples=9999)
    assert difference.p_value() == pytest.approx(0.14, abs=0.015)


def test_five_copies_of_every_item_tell_no_more_than_one() -> None:
    values = np.random.default_rng(7).normal(0.2, 1.0, 20)
    [alone] = compared([measure(np.zeros(20), values)])
    copies, products = np.repeat(values, 5), np.repeat(np.arange(20), 5)
    [grouped] = compared([measure(np.zeros(100), copies)], groups=products)
    assert (grouped.num_scored, grouped.num_units) == (100, 20)
    one, other = alone.interval(confidence=0.95), grouped.interval(confidence=0.95)
    assert one is not None
    assert other is not None
    assert other == pytest.approx(one)
    assert grouped.p_value() == alone.p_value()
    assert grouped.design_effect == pytest.approx(5.0)
    assert alone.design_effect is None


def test_groups_of_one_item_change_nothing() -> None:
    one = measure(np.zeros(30), np.random.default_rng(8).normal(size=30))
    [plain] = compared([one])
    [grouped] = compared([one], groups=np.arange(30)[::-1])
    assert plain.interval(confidence=0.95) == grouped.interval(confidence=0.95)
    assert plain.p_value() == grouped.p_value()


def test_intervals_of_items_that_hang_together_cover_the_truth() -> None:
    # 40 products of 5 variants, a third of the variance between products: as unrelated items they
    # are covered in 83 of 100 data sets.
    generator = np.random.default_rng(9)
    products = np.repeat(np.arange(40), 5)
    between = generator.normal(0.0, math.sqrt(0.3), (40, 2000))[products]
    data = [measure(np.zeros(200), column) for column in (between + generator.normal(0, math.sqrt(0.7), (200, 2000))).T]
    assert 0.935 <= share_covered(compared(data, groups=products), 0.0) <= 0.965
    assert share_covered(compared(data), 0.0) < 0.88


def test_more_units_than_are_resampled_are_dealt_into_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    # 1,600 items as 400 blocks of 4: the standard error is that of the items, known to 4 %.
    one = measure(np.zeros(1600), np.random.default_rng(10).normal(size=1600))
    [whole] = compared([one])
    monkeypatch.setattr("grpo_mmpc.evaluation.resampling.MAX_UNITS", 400)
    [dealt] = compared([one])
    assert dealt.num_units == 400
    assert dealt.delta == whole.delta
    assert dealt.variance == pytest.approx(whole.variance, rel=0.2)
    assert dealt.replicates.std() == pytest.approx(whole.replicates.std(), rel=0.12)
