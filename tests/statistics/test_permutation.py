"""The paired permutation test: hand-worked numbers, and scipy as independent implementation."""

import numpy as np
import pytest

from grpo_mmpc.statistics.permutation import every_flip, flipped_sums, num_flips, permutation_p


def test_all_flips_of_three_items() -> None:
    # 1, 2, 4 with signs: all odd numbers from -7 to 7, each once.
    sums = every_flip(np.array([[1.0], [2.0], [4.0]]))
    assert sorted(sums.ravel()) == [-7, -5, -3, -1, 1, 3, 5, 7]
    # |sum| >= 5 holds for 4 of 8; >= 7 for 2 of 8.
    assert permutation_p(sums, np.array([5.0]), exact=True) == 0.5
    assert permutation_p(sums, np.array([-7.0]), exact=True) == 0.25


def test_going_through_all_flips_is_refused_where_there_are_too_many() -> None:
    with pytest.raises(ValueError, match=r"14 items have 2\*\*14 flips; .* up to 13 items"):
        every_flip(np.ones((14, 1)))


def test_random_flips_draw_each_sign_half_of_the_time_and_items_apart() -> None:
    # Sums of 1 and 10 under signs: -11, -9, 9, 11, a quarter each; standard error over 8,000 flips
    # 0.5 points.
    sums = flipped_sums(np.array([[1.0], [10.0]]), flips=8000, seed=[0])[:, 0]
    for value in (-11, -9, 9, 11):
        assert np.mean(sums == value) == pytest.approx(0.25, abs=0.02)


def test_columns_of_an_item_flip_together() -> None:
    column = np.array([1.0, 5.0, 7.0])
    sums = flipped_sums(np.column_stack([column, 2 * column]), flips=50, seed=[1])
    np.testing.assert_allclose(sums[:, 1], 2 * sums[:, 0])


def test_chunking_does_not_change_the_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((70, 3))
    whole = flipped_sums(values, flips=40, seed=[3])
    monkeypatch.setattr("grpo_mmpc.statistics.permutation._CHUNK_CELLS", 210)
    np.testing.assert_allclose(flipped_sums(values, flips=40, seed=[3]), whole)


def test_random_flips_count_the_observed_one_among_them() -> None:
    # 2 of 9 flips are at least as far from 0 as 3: (2 + 1) / (9 + 1). None is as far as 9: 1 / 10,
    # never 0.
    draws = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -4.0, 0.5, 0.0])
    np.testing.assert_allclose(permutation_p(draws, np.array(3.0), exact=False), 0.3)
    np.testing.assert_allclose(permutation_p(draws, np.array(9.0), exact=False), 0.1)


def test_no_difference_at_all_has_a_p_value_of_one() -> None:
    assert permutation_p(np.zeros(99), np.array(0.0), exact=False) == 1.0
    assert permutation_p(np.zeros(8), np.array(0.0), exact=True) == 1.0


def test_ties_that_differ_by_rounding_are_ties() -> None:
    # .1 + .2 + .3 depends on the order of summation by 1e-16.
    assert permutation_p(np.array([0.1 + 0.2 + 0.3, 0.0]), np.array(0.3 + 0.2 + 0.1), exact=True) == 0.5


def test_a_flip_without_a_value_counts_against_the_finding() -> None:
    assert permutation_p(np.array([np.nan, 0.0, 0.0]), np.array(1.0), exact=False) == 0.5


def test_large_families_get_flips_that_can_tell() -> None:
    # 108 comparisons at 5%: 5 * 108 / .05 = 10,800 flips, smallest corrected value 108 / 10,801 =
    # .01.
    assert num_flips(at_least=200, family=108, confidence=0.95) == 10_800
    assert num_flips(at_least=10_000, family=12, confidence=0.95) == 10_000


@pytest.mark.parametrize("num_items", [7, 12])
def test_few_items_have_the_exact_p_value_of_scipy(num_items: int) -> None:
    from scipy.stats import permutation_test

    differences = np.random.default_rng(num_items).normal(0.4, 1.0, num_items)
    theirs = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    ours = permutation_p(every_flip(differences[:, None]), np.array([differences.sum()]), exact=True)
    assert ours == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.35])
def test_many_items_agree_with_scipys_permutation_test_and_t_test(shift: float) -> None:
    from scipy.stats import permutation_test, ttest_1samp

    differences = np.random.default_rng(1).normal(shift, 1.0, 80)
    draws = flipped_sums(differences[:, None], flips=20_000, seed=[2])
    [ours] = permutation_p(draws, np.array([differences.sum()]), exact=False)
    theirs = permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(3),
    )
    # Standard error of a p-value from 20,000 flips: at most .0035, of the difference of two .005.
    # The t-test is as near as normal data make it.
    assert ours == pytest.approx(theirs.pvalue, abs=0.015)
    assert ours == pytest.approx(ttest_1samp(differences, 0.0).pvalue, abs=0.015)


def test_a_corpus_level_metric_swaps_whole_items() -> None:
    from scipy.stats import permutation_test

    from grpo_mmpc.evaluation.measures import Measure
    from grpo_mmpc.evaluation.resampling import Resampling, differences_of, units_of

    # Hits over tries on either side. scipy permutes items between the sides with a statistic of two
    # index arrays.
    generator = np.random.default_rng(4)
    tries = generator.integers(3, 10, size=(12, 2)).astype(float)
    hits = np.floor(tries * generator.random((12, 2)))
    pairs = np.concatenate([np.column_stack([hits[:, s], tries[:, s]]) for s in (0, 1)])  # [24, 2]

    def statistic(before: np.ndarray, after: np.ndarray) -> float:
        sides = [pairs[side.astype(int)].sum(axis=0) for side in (before, after)]
        return float(sides[1][0] / sides[1][1] - sides[0][0] / sides[0][1])

    theirs = permutation_test(
        (np.arange(12), np.arange(12, 24)), statistic, permutation_type="samples", n_resamples=np.inf
    )
    ours = Measure(
        name="ratio",
        higher_is_better=True,
        before=pairs[:12],
        after=pairs[12:],
        scored=np.ones(12, dtype=bool),
        aggregate=lambda sums, _: sums[..., 0] / sums[..., 1],
        is_mean=False,
    )
    settings = Resampling(resamples=10, flips=10, seed=0)
    units = units_of(np.arange(12), None, settings, stream="x")
    [difference] = differences_of(units, [ours], settings, stream="x")
    assert difference.p_value() == pytest.approx(theirs.pvalue)
