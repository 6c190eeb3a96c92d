import math

import pytest

from grpo_mmpc.rewards.signals import signals, zero_variance_groups

GROUPS = ["p", "p", "q", "q"]


def found(values, weights, *, lengths=(1, 2, 3, 4), aggregation="sum_then_normalize", groups=GROUPS, scale="none"):
    return signals(values, weights, groups=groups, lengths=list(lengths), aggregation=aggregation, scale_rewards=scale)


def test_a_group_has_zero_variance_when_every_trained_reward_is_constant_or_unscored_in_it():
    values = {"a": [1.0, 1.0, 1.0, 2.0], "b": [0.0, 0.0, None, 5.0], "watched": [1.0, 9.0, 1.0, 9.0]}
    assert zero_variance_groups(values, trained=["a", "b"], groups=GROUPS) == {"p"}
    assert zero_variance_groups(values, trained=["b"], groups=GROUPS) == {"p", "q"}
    assert zero_variance_groups({"a": [None] * 4}, trained=["a"], groups=GROUPS) == {"p", "q"}


def test_spread_is_taken_within_groups_and_not_between_prompts():
    result = found({"a": [0.0, 0.0, 9.0, 9.0], "b": [0.0, 2.0, 5.0, 5.0]}, {"a": 1.0, "b": 1.0})
    assert result["signal/a/within_group_std"] == 0.0
    assert result["signal/a/dead_groups"] == 1.0
    assert result["signal/b/within_group_std"] == pytest.approx(math.sqrt(2) / 2)  # sqrt(2) and 0
    assert result["signal/b/dead_groups"] == 0.5


def test_a_group_has_a_better_sample_when_its_best_is_well_above_its_median():
    # a: p's best is 0.5 above its median of 0.2, q's 0.05 above 0.75
    groups = ["p", "p", "p", "q", "q", "q", "r"]
    result = found(
        {"a": [0.2, 0.7, 0.2, 0.7, 0.75, 0.8, 1.0], "b": [0.0, None, 0.4, 0.2, 0.2, 0.2, None]},
        {"a": 1.0, "b": 1.0},
        lengths=range(7),
        groups=groups,
    )
    assert result["signal/a/better_groups"] == 0.5  # r holds one completion, which is above nothing
    assert result["signal/b/better_groups"] == 0.5  # 0.4 is 0.2 above the median of 0 and 0.4


def test_shares_of_the_advantages_variance_add_up_to_one_and_follow_weight_and_spread():
    # deviations a: -1, 1, -1, 1; b: -1, 1, 1, -1 (orthogonal); weights 2 and 1 -> 16 : 4 of 20
    result = found({"a": [0.0, 2.0, 0.0, 2.0], "b": [0.0, 2.0, 2.0, 0.0]}, {"a": 2.0, "b": 1.0})
    assert result["signal/a/advantage_share"] == pytest.approx(0.8)
    assert result["signal/b/advantage_share"] == pytest.approx(0.2)


def test_scaling_by_the_group_makes_up_for_small_spreads():
    # a moves p alone and b moves q alone, a hundred times less; divided by their groups' spread
    # they weigh the same
    values = {"a": [0.0, 1.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0, 0.01]}
    scaled = found(values, {"a": 1.0, "b": 1.0}, scale="group")
    assert scaled["signal/a/advantage_share"] == pytest.approx(0.5, abs=0.01)
    assert found(values, {"a": 1.0, "b": 1.0})["signal/a/advantage_share"] == pytest.approx(0.9999, abs=1e-4)


def test_under_normalize_then_sum_the_range_of_a_reward_does_not_buy_it_a_share():
    values = {"a": [0.0, 200.0, 0.0, 200.0], "b": [0.0, 2.0, 2.0, 0.0]}
    result = found(values, {"a": 1.0, "b": 1.0}, aggregation="normalize_then_sum")
    assert result["signal/a/advantage_share"] == pytest.approx(0.5, abs=1e-3)


def test_rewards_that_disagree_show_as_correlation_and_sign_conflict():
    result = found({"a": [0.0, 2.0, 0.0, 2.0], "b": [2.0, 0.0, 0.0, 2.0]}, {"a": 1.0, "b": 1.0})
    assert result["signal/a~b/correlation"] == pytest.approx(0.0)
    assert result["signal/a~b/sign_conflict"] == 0.5


def test_completions_without_an_opinion_of_both_do_not_count_as_conflict():
    result = found({"a": [0.0, 2.0, 3.0, 3.0], "b": [2.0, 0.0, None, 1.0]}, {"a": 1.0, "b": 1.0})
    assert result["signal/a~b/sign_conflict"] == 1.0


def test_length_correlation_is_that_of_deviations_within_the_group():
    # within p longer is better, within q too; between prompts longer is worse
    result = found({"a": [5.0, 6.0, 1.0, 2.0]}, {"a": 1.0}, lengths=(10, 20, 30, 40))
    assert result["signal/a/length_correlation"] == pytest.approx(1.0)


def test_a_monitor_has_no_share_but_a_correlation_with_what_is_trained():
    result = found({"a": [0.0, 2.0, 0.0, 2.0], "watched": [2.0, 0.0, 2.0, 0.0]}, {"a": 1.0, "watched": 0.0})
    assert "signal/watched/advantage_share" not in result
    assert result["signal/watched/with_total"] == pytest.approx(-1.0)
    assert "signal/a~watched/correlation" not in result


def test_what_cannot_be_computed_is_absent_and_not_zero():
    result = found({"a": [None, None, None, 1.0]}, {"a": 1.0})
    assert result == {}
