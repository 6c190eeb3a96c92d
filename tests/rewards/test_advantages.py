"""Hand-computed advantages, with the 1e-4 that TRL adds to each standard deviation."""

import math

import pytest

from grpo_mmpc.rewards import advantages

E = 1e-4


def test_sum_then_normalize_scales_by_the_groups_own_spread():
    found = advantages(
        {"a": [1.0, 3.0, 0.0, 4.0], "b": [0.0, 0.0, 2.0, 2.0]},
        {"a": 1.0, "b": 0.5},
        groups=["p", "p", "q", "q"],
        aggregation="sum_then_normalize",
    )
    # p: 1, 3 -> -1, 1 over sqrt(2); q: 1, 5 -> -2, 2 over sqrt(8)
    one, two = 1 / (math.sqrt(2) + E), 2 / (math.sqrt(8) + E)
    assert found == pytest.approx([-one, one, -two, two], abs=1e-12)


def test_sum_then_normalize_can_scale_by_the_batch_or_not_at_all():
    rewards, groups = {"a": [1.0, 3.0, 1.0, 5.0]}, ["p", "p", "q", "q"]
    options = {"groups": groups, "aggregation": "sum_then_normalize"}
    assert advantages(rewards, {"a": 1.0}, scale_rewards="none", **options) == [-1.0, 1.0, -2.0, 2.0]
    # 1, 3, 1, 5: mean 2.5, squares 2.25 + .25 + 2.25 + 6.25 = 11
    std = math.sqrt(11 / 3) + E
    batch = advantages(rewards, {"a": 1.0}, scale_rewards="batch", **options)
    assert batch == pytest.approx([-1 / std, 1 / std, -2 / std, 2 / std], abs=1e-12)


def test_normalize_then_sum_gives_every_reward_the_same_scale_whatever_its_range():
    found = advantages(
        {"a": [0.0, 2.0, 0.0, 2.0], "b": [100.0, 0.0, 0.0, 100.0]},
        {"a": 1.0, "b": 1.0},
        groups=["p", "p", "q", "q"],
        aggregation="normalize_then_sum",
    )
    # within groups: a -> -x, x, -x, x; b -> y, -y, -y, y with x and y nearly 1/sqrt(2): p nearly
    # cancels, q adds up
    x, y = 1 / (math.sqrt(2) + E), 50 / (math.sqrt(5000) + E)
    summed = [y - x, x - y, -x - y, x + y]
    std = math.sqrt(sum(v * v for v in summed) / 3) + E  # their mean is 0
    assert found == pytest.approx([v / std for v in summed], abs=1e-12)


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_constant_batch_gives_exactly_zero(aggregation, scale):
    found = advantages(
        {"a": [0.1] * 4}, {"a": 0.3}, groups=["p", "p", "q", "q"], aggregation=aggregation, scale_rewards=scale
    )
    assert found == [0.0] * 4


def test_a_completion_without_any_value_has_no_advantage_and_moves_no_mean():
    found = advantages(
        {"a": [1.0, None, 3.0]},
        {"a": 1.0},
        groups=["p"] * 3,
        aggregation="sum_then_normalize",
        scale_rewards="none",
    )
    assert found == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_the_order_of_the_mix_and_monitors_change_nothing(aggregation):
    values = {"a": [0.1, 0.9, 0.4, 0.3], "b": [5.0, 1.0, 2.0, 2.5], "watched": [9.0, 1.0, -4.0, 0.0]}
    weights = {"a": 0.7, "b": 0.1, "watched": 0.0}
    options = {"groups": ["p", "p", "q", "q"], "aggregation": aggregation}
    expected = advantages({"a": values["a"], "b": values["b"]}, weights, **options)
    for order in (["a", "b", "watched"], ["watched", "b", "a"]):
        found = advantages({name: values[name] for name in order}, weights, **options)
        assert found == pytest.approx(expected, abs=1e-12)
    assert max(map(abs, expected)) > 0.5


@pytest.mark.parametrize(
    "wrong", [{"aggregation": "sum"}, {"aggregation": "sum_then_normalize", "scale_rewards": "all"}]
)
def test_unknown_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        advantages({"a": [1.0]}, {"a": 1.0}, groups=["p"], **wrong)
