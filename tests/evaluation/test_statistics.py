"""The paired bootstrap: hand-worked numbers, coverage, small samples."""

import math

import numpy as np
import pytest

from grpo_mmpc.evaluation.statistics import (
    Interval,
    bootstrap_sums,
    expanded_percentile_interval,
    expanded_tail,
    min_items,
)


@pytest.mark.parametrize(
    ("confidence", "items"),
    # All differences of one sign happen by chance with probability 2 * 0.5**n:
    # n=6 gives .03125 <= .05 (n=5 gives .0625); n=8 gives .0078 <= .01 (n=7 gives .0156); n=5 gives .0625 <= .1.
    [(0.95, 6), (0.99, 8), (0.90, 5), (0.5, 2)],
)
def test_fewest_items_follow_the_sign_test(confidence: float, items: int) -> None:
    assert min_items(confidence) == items


def test_every_resample_draws_as_many_items_as_there_are() -> None:
    values = np.column_stack([np.ones(7), np.arange(7.0)])
    sums = bootstrap_sums(values, resamples=500, seed=[0])
    assert np.all(sums[:, 0] == 7)
    # A mean of 7 draws from 0..6 has expectation 3 and variance 4/7; over 500 resamples its standard error is 0.034.
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
    monkeypatch.setattr("grpo_mmpc.evaluation.statistics._CHUNK_CELLS", 150)
    np.testing.assert_allclose(bootstrap_sums(values, resamples=40, seed=[3]), whole)


def test_same_seed_same_draws_other_seed_other_draws() -> None:
    values = np.arange(10.0)[:, None]
    first = bootstrap_sums(values, resamples=20, seed=[4, 1])
    np.testing.assert_array_equal(first, bootstrap_sums(values, resamples=20, seed=[4, 1]))
    assert not np.array_equal(first, bootstrap_sums(values, resamples=20, seed=[4, 2]))


@pytest.mark.parametrize(
    ("num_items", "tail"),
    # t quantiles from a printed table: t(.975; 5) = 2.5706, t(.975; 39) = 2.0227, t(.975; 999) = 1.9623.
    # n=6:    Phi(-sqrt(6/5)   * 2.5706) = Phi(-2.8160) = .00243
    # n=40:   Phi(-sqrt(40/39) * 2.0227) = Phi(-2.0485) = .02026
    # n=1000: Phi(-1.00050     * 1.9623) = Phi(-1.9633) = .02480
    [(6, 0.00243), (40, 0.02026), (1000, 0.02480)],
)
def test_tails_shrink_as_the_t_table_says(num_items: int, tail: float) -> None:
    assert expanded_tail(confidence=0.95, num_items=num_items) == pytest.approx(tail, abs=2e-5)


def test_interval_takes_the_expanded_percentiles() -> None:
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


@pytest.mark.parametrize("bad", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(bad: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        min_items(bad)


def test_zero_items_or_zero_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="zero items"):
        bootstrap_sums(np.empty((0, 2)), resamples=10, seed=[0])
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_sums(np.ones((2, 2)), resamples=0, seed=[0])


@pytest.mark.parametrize("num_items", [10, 40, 300])
def test_intervals_cover_the_truth_95_times_in_100(num_items: int) -> None:
    # 2000 experiments with skewed differences (sum of an exponential and a normal, true mean 0.05) are the 2000 columns
    # of one bootstrap. Standard error of the coverage: sqrt(.95 * .05 / 2000) = 0.5 points.
    generator = np.random.default_rng(7)
    shape = (num_items, 2000)
    differences = 0.05 * generator.exponential(size=shape) + generator.normal(scale=0.1, size=shape)
    means = bootstrap_sums(differences, resamples=1000, seed=[8]) / num_items  # [R, experiments]
    covered = 0
    for column in range(means.shape[1]):
        interval = expanded_percentile_interval(means[:, column], confidence=0.95, num_items=num_items)
        assert interval is not None
        covered += interval.low <= 0.05 <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97
