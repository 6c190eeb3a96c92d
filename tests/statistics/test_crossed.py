"""Means over seeds and items: golden numbers, coverage and false findings by simulation."""

import numpy as np
import pytest

from grpo_mmpc.statistics.crossed import (
    ItemEvidence,
    SeedVariance,
    estimate,
    item_evidence,
    pooled_variance,
    replicate_values,
    seed_weights,
)

R = 500


def mean(sums, count):
    return sums[..., 0] / count


def judge(matrix, *, seed, pooled=None, items=None):
    """Estimate of ``[S, N]`` values."""
    replicates = replicate_values(
        matrix[:, :, None], counts=np.ones(matrix.shape[1]), aggregate=mean, resamples=R, seed=[seed]
    )
    weights = seed_weights(num_seeds=len(matrix), resamples=R, seed=[seed, 1])
    return estimate(matrix.mean(axis=1), replicates, weights, num_items=matrix.shape[1], pooled=pooled, items=items)


def test_standard_errors_of_seeds_and_items_by_hand():
    # Seeds add 0, 1, 2: variance 1, of their mean 1/3. Items add -3 .. 3 (7 items): sample variance
    # 28/6, of their mean 28/42.
    matrix = np.array([[0.0], [1.0], [2.0]]) + np.arange(-3.0, 4.0)
    found = judge(matrix, seed=0)
    assert found.value == pytest.approx(1.0)
    assert found.se_seeds == pytest.approx((1 / 3) ** 0.5)
    assert found.se_items == pytest.approx((28 / 42) ** 0.5, rel=0.1)
    # Satterthwaite: (1/3 + 2/3)^2 / ((1/3)^2 / 2 + (2/3)^2 / 6) = 1 / (1/18 + 2/27) = 7.71
    assert found.degrees == pytest.approx(7.71, rel=0.15)


def test_when_seeds_alone_differ_the_interval_is_that_of_t_with_two_degrees():
    # Means 0, 1, 2: standard error 0.577, t quantile 4.303, so 1 +- 2.48 - and p of t = 1.732 with
    # 2 degrees is 0.225.
    matrix = np.array([[0.0], [1.0], [2.0]]) + 1e-6 * np.arange(-3.0, 4.0)
    found = judge(matrix, seed=1)
    assert found.degrees == pytest.approx(2.0, rel=1e-3)
    assert found.p == pytest.approx(0.225, abs=0.001)
    assert found.interval.low < 0 < 1 < 2 < found.interval.high
    assert found.interval.high - found.interval.low == pytest.approx(2 * 2.48, rel=0.15)


def test_one_seed_gives_an_interval_over_items_and_says_so():
    found = judge(np.arange(30.0)[None] / 30, seed=2)
    assert found.se_seeds is None
    assert found.degrees == pytest.approx(29)


def test_equal_runs_are_no_finding_and_too_few_items_have_no_interval():
    same = judge(np.zeros((3, 20)), seed=3)
    assert (same.value, same.p, tuple(same.interval)) == (0.0, 1.0, (0.0, 0.0))
    few = judge(np.ones((3, 5)), seed=3)
    assert (few.interval, few.p) == (None, None)


def test_a_mix_that_never_varies_is_not_surer_than_what_the_others_tell_of_seeds():
    pooled = SeedVariance(variance=0.01, degrees=4)
    found = judge(np.zeros((3, 20)), seed=6, pooled=pooled)
    assert tuple(found.interval) == pytest.approx(
        (-0.2776, 0.2776), abs=1e-3
    )  # 0.1 x the t quantile of 4 degrees, 2.776
    assert found.p == 1.0


def test_pooled_variance_of_differences_leaves_out_what_a_seed_does_to_all_mixes():
    # Two mixes, three seeds. The difference is 1, 1, 4: variance 3, of its mean 3/3 = 1. Adding 10
    # to a seed changes nothing.
    values = np.array([[0.0, 10.0, 0.0], [1.0, 11.0, 4.0]])
    pooled = pooled_variance(values, num_seeds=3, of_difference=True)
    assert (pooled.variance, pooled.degrees) == (pytest.approx(1.0), 2)
    # Of a level: mean of both mixes' variances (100/3 and 79/3 = 26.33), by three seeds.
    level = pooled_variance(values, num_seeds=3, of_difference=False)
    assert (level.variance, level.degrees) == (pytest.approx((100 / 3 + 79 / 3) / 2 / 3), 4)
    assert pooled_variance(values[:, :1], num_seeds=1, of_difference=True) is None


def test_units_of_several_items_count_by_their_items():
    # One item of 0 and three of 1: resamples hold the first unit twice, each once, or the second
    # twice: 0 / 2, 3 / 4, 6 / 6.
    sums = np.array([[[0.0], [3.0]]])
    draws = replicate_values(sums, counts=np.array([1.0, 3.0]), aggregate=mean, resamples=200, seed=[7])
    assert sorted(set(draws.ravel())) == [0.0, 0.75, 1.0]


def test_five_copies_of_every_item_tell_no_more_than_one():
    sums = np.random.default_rng(8).normal(size=(2, 15, 1))
    alone = replicate_values(sums, counts=np.ones(15), aggregate=mean, resamples=50, seed=[9])
    copies = replicate_values(5 * sums, counts=np.full(15, 5.0), aggregate=mean, resamples=50, seed=[9])
    assert copies == pytest.approx(alone)


def test_all_runs_see_the_same_resampled_items_and_the_same_entropy_repeats_them():
    sums = np.random.default_rng(0).normal(size=(2, 12, 1))
    sums[1] = sums[0]
    draws = replicate_values(sums, counts=np.ones(12), aggregate=mean, resamples=50, seed=[4])
    assert np.array_equal(draws[:, 0], draws[:, 1])
    assert np.array_equal(draws, replicate_values(sums, counts=np.ones(12), aggregate=mean, resamples=50, seed=[4]))


@pytest.mark.parametrize(
    ("of_seeds", "of_items", "of_answers"), [(0.0, 1.0, 1.0), (0.1, 1.0, 1.0), (0.3, 0.3, 1.0), (1.0, 0.1, 0.1)]
)
def test_intervals_of_three_seeds_cover_the_truth_about_95_times_in_100(of_seeds, of_items, of_answers):
    generator, covered, false = np.random.default_rng(5), 0, 0
    repeats, mixes, items = 250, 4, 60
    for repeat in range(repeats):
        # Two mixes differ by nothing: what is left of seed, item and answer in their difference;
        # two more tell of seeds.
        seeds = of_seeds * generator.normal(size=(mixes, 3)) / 2**0.5
        parts = of_items * generator.normal(size=items) + of_answers * generator.normal(size=(3, items))
        matrix = (seeds[0] - seeds[1])[:, None] + parts
        found = judge(matrix, seed=repeat, pooled=pooled_variance(seeds, num_seeds=3, of_difference=True))
        covered += found.interval.low <= 0 <= found.interval.high
        false += found.p <= 0.05
    # 250 draws: the standard error of 95 % is 1.4 %; wide is allowed, narrow is not.
    assert covered / repeats >= 0.92
    assert false / repeats <= 0.08


def test_the_larger_p_value_of_t_and_of_the_items_counts():
    matrix = np.tile(np.arange(-14.0, 16.0), (3, 1))  # mean 0.5 of 30, standard error 1.6: p of t 0.76
    alone = judge(matrix, seed=2)
    for p, expected in ((0.9, 0.9), (0.1, alone.p), (None, alone.p)):
        found = judge(matrix, seed=2, items=ItemEvidence(p=p, few_changed=True))
        assert (found.p, found.few_changed, alone.few_changed) == (expected, True, False)
    # A p-value is no help where there are too few items for any.
    assert judge(matrix[:, :5], seed=2, items=ItemEvidence(p=0.9, few_changed=False)).p is None


def test_items_speak_of_every_difference_by_the_same_resamples():
    # 40 items rise by 1 or 2 in turn; 10 of 40 rise; 40 are skewed and have the mean 0.
    skewed = np.array([-1.0] * 36 + [9.0] * 4)
    sums = np.column_stack([[1.0, 2.0] * 20, [0.5, 1.0] * 5 + [0.0] * 30, skewed])
    found = item_evidence(sums, np.ones(40), changes=np.abs(sums), resamples=500, seed=[0])
    assert [one.few_changed for one in found] == [False, True, False]
    assert found[0].p == 0.0 and found[2].p == 1.0
    # Units of two items each: the mean halves, and so does everything it is measured by.
    [halved, *_] = item_evidence(sums, np.full(40, 2.0), changes=np.abs(sums), resamples=500, seed=[0])
    assert halved == found[0]
    assert item_evidence(sums[:, :0], np.ones(40), changes=sums[:, :0], resamples=500, seed=[0]) == []
