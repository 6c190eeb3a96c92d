"""The bootstrap: hand-worked numbers."""

import math

import numpy as np
import pytest

from grpo_mmpc.statistics.bootstrap import (
    _t_quantile,
    bootstrap_sums,
    expanded_percentile_interval,
    expanded_tail,
    studentised_interval,
    studentised_p,
)
from grpo_mmpc.statistics.verdicts import Interval


def test_every_resample_draws_as_many_items_as_there_are() -> None:
    values = np.column_stack([np.ones(7), np.arange(7.0)])
    sums = bootstrap_sums(values, resamples=500, seed=[0])
    assert np.all(sums[:, 0] == 7)
    # A mean of 7 draws from 0..6 has expectation 3 and variance 4/7; over 500 resamples its
    # standard error is 0.034.
    assert abs(sums[:, 1].mean() / 7 - 3) < 0.12
    assert abs((sums[:, 1] / 7).std() - math.sqrt(4 / 7)) < 0.08


def test_columns_share_the_resampled_items() -> None:
    column = np.array([0.0, 1.0, 5.0, 7.0])
    sums = bootstrap_sums(np.column_stack([column, 2 * column]), resamples=50, seed=[1])
    np.testing.assert_allclose(sums[:, 1], 2 * sums[:, 0])


def test_two_items_give_the_three_binomial_sums() -> None:
    # Items 0 and 1, two draws: sums 0, 1, 2 with chances 1/4, 1/2, 1/4.
    sums = bootstrap_sums(np.array([[0.0], [1.0]]), resamples=8000, seed=[2])[:, 0]
    shares = [np.mean(sums == k) for k in (0, 1, 2)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.02)


def test_chunking_does_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((50, 3))
    whole = bootstrap_sums(values, resamples=40, seed=[3])
    monkeypatch.setattr("grpo_mmpc.statistics.bootstrap._CHUNK_CELLS", 150)
    np.testing.assert_allclose(bootstrap_sums(values, resamples=40, seed=[3]), whole)


def test_same_seed_same_draws_other_seed_other_draws() -> None:
    values = np.arange(10.0)[:, None]
    first = bootstrap_sums(values, resamples=20, seed=[4, 1])
    np.testing.assert_array_equal(first, bootstrap_sums(values, resamples=20, seed=[4, 1]))
    assert not np.array_equal(first, bootstrap_sums(values, resamples=20, seed=[4, 2]))


def test_zero_items_or_zero_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="zero items"):
        bootstrap_sums(np.empty((0, 2)), resamples=10, seed=[0])
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_sums(np.ones((2, 2)), resamples=0, seed=[0])


@pytest.mark.parametrize(
    ("num_items", "tail"),
    # t quantiles from a printed table: t(.975; 5) = 2.5706, t(.975; 39) = 2.0227, t(.975; 999) =
    # 1.9623. n=6:    Phi(-sqrt(6/5)   * 2.5706) = Phi(-2.8160) = .00243
    # n=40:   Phi(-sqrt(40/39) * 2.0227) = Phi(-2.0485) = .02026
    # n=1000: Phi(-1.00050     * 1.9623) = Phi(-1.9633) = .02480
    [(6, 0.00243), (40, 0.02026), (1000, 0.02480)],
)
def test_tails_shrink_as_the_t_table_says(num_items: int, tail: float) -> None:
    assert expanded_tail(confidence=0.95, num_items=num_items) == pytest.approx(tail, abs=2e-5)


def test_percentile_interval_takes_the_expanded_percentiles() -> None:
    # Replicates 0..10000 and a million items: the percentiles are 2.5% and 97.5% of the range.
    draws = np.arange(10_001.0)
    interval = expanded_percentile_interval(draws, confidence=0.95, num_items=1_000_000)
    assert interval is not None
    assert interval == pytest.approx(Interval(low=250, high=9750), abs=0.1)


def test_too_few_items_have_no_interval() -> None:
    draws = np.zeros(100)
    assert expanded_percentile_interval(draws, confidence=0.95, num_items=5) is None
    assert expanded_percentile_interval(draws, confidence=0.95, num_items=6) == (0.0, 0.0)


def test_resamples_without_a_scored_item_are_left_out() -> None:
    draws = np.array([np.nan, 1.0, np.nan, 1.0])
    assert expanded_percentile_interval(draws, confidence=0.95, num_items=9) == (1.0, 1.0)
    assert expanded_percentile_interval(np.full(4, np.nan), confidence=0.95, num_items=9) is None
    # Two resamples remain, both the estimate itself: pivots of 0. At 30% the rank is
    # int(3 * .35) = 1; at 50% it is int(3 * .25) = 0, too few for these tails.
    of_mean = {"estimate": 1.0, "variance": 4.0}
    assert studentised_interval(draws, np.ones(4), **of_mean, confidence=0.3) == (1.0, 1.0)
    assert studentised_interval(draws, np.ones(4), **of_mean, confidence=0.5) is None


def test_studentised_interval_reflects_the_pivots() -> None:
    # 19 replicates with pivots 1..19 around an estimate of 0: deviation 2k over a standard error of
    # 2. At 80% the ranks are (19 + 1) * .1 = 2 from each end: pivots 2 and 18. The estimate's own
    # error is 3: -3 * 18 and -3 * 2.
    k = np.arange(1.0, 20.0)
    interval = studentised_interval(2 * k, np.full(19, 4.0), estimate=0.0, variance=9.0, confidence=0.8)
    assert interval == Interval(low=-54.0, high=-6.0)


def test_studentised_interval_measures_each_resample_in_its_own_error() -> None:
    # Estimate 10 with a standard error of 2. Of 19 resamples 15 repeat it (pivot 0); the others:
    #   4 (error 3): -6 / 3 = -2      8 (error .5): -2 / .5 = -4
    #   22 (error 4): 12 / 4 = 3      13 (error .5): 3 / .5 = 6
    # At 80% the ranks are (19 + 1) * .1 = 2 from each end: pivots -2 and 3, which are not those of
    # the second furthest resamples (8 and 13). Reflected: 10 - 2 * 3 = 4 and 10 + 2 * 2 = 14.
    replicates = np.array([10.0] * 15 + [4.0, 8.0, 22.0, 13.0])
    variances = np.array([1.0] * 15 + [9.0, 0.25, 16.0, 0.25])
    interval = studentised_interval(replicates, variances, estimate=10.0, variance=4.0, confidence=0.8)
    assert interval == Interval(low=4.0, high=14.0)


@pytest.mark.parametrize(("degrees", "tolerance"), [(5, 3e-4), (20, 1e-6), (40, 1e-8), (359, 1e-12)])
def test_t_quantiles_are_those_of_scipy_to_the_digits_that_are_promised(degrees: int, tolerance: float) -> None:
    from scipy.stats import t

    assert _t_quantile(0.975, degrees=degrees) == pytest.approx(t.ppf(0.975, degrees), abs=tolerance)


def test_studentised_interval_has_none_where_an_end_would_be_infinite() -> None:
    # A fifth of the resamples holds one difference only, other than the mean: no error to measure
    # it by.
    replicates, variances = np.array([0.0] * 20 + [1.0] * 80), np.array([0.0] * 20 + [1.0] * 80)
    assert studentised_interval(replicates, variances, estimate=0.8, variance=1.0, confidence=0.95) is None
    # Nor where so few resamples reach so far into the tails: (19 + 1) * .025 is below 1.
    assert studentised_interval(np.arange(19.0), np.ones(19), estimate=9.0, variance=1.0, confidence=0.95) is None


def test_equal_differences_have_an_interval_of_one_point() -> None:
    interval = studentised_interval(np.full(50, 0.25), np.zeros(50), estimate=0.25, variance=0.0, confidence=0.95)
    assert interval == (0.25, 0.25)


def test_the_p_value_is_at_most_a_level_exactly_where_that_interval_leaves_out_0() -> None:
    generator = np.random.default_rng(5)
    for shift in np.linspace(-0.5, 0.5, 21):
        values = generator.exponential(size=40) - 1.0 + shift
        sums = bootstrap_sums(np.column_stack([values, values**2]), resamples=999, seed=[6])
        means = sums[:, 0] / 40
        given = {"estimate": float(values.mean()), "variance": float(values.var() / 40)}
        variances = (sums[:, 1] / 40 - means**2) / 40
        interval = studentised_interval(means, variances, confidence=0.95, **given)
        p = studentised_p(means, variances, **given)
        assert interval is not None
        assert p is not None
        assert (p <= 0.05) == (not interval.low <= 0 <= interval.high)
