"""The interval of a mean over items that hang together."""

import math

import pytest

from grpo_mmpc.statistics.clustered import mean_interval


def test_items_of_one_group_count_together() -> None:
    values = [0.0, 0.0, 1.0, 1.0] * 4
    alone = mean_interval(values, [str(i) for i in range(16)])
    # Mean 0.5, standard deviation 0.516, t of 15 degrees 2.131: 0.275 either side.
    assert alone == (pytest.approx(0.225, abs=1e-3), pytest.approx(0.775, abs=1e-3))
    # Eight pairs that agree within: as eight items. 2.365 * 0.535 / sqrt(8) = 0.447 either side.
    pairs = mean_interval(values, [str(i // 2) for i in range(16)])
    assert pairs == (pytest.approx(0.053, abs=1e-3), pytest.approx(0.947, abs=1e-3))
    assert mean_interval(values, ["a", "b"] * 8) is None


def test_no_interval_leaves_the_range_of_the_metric_and_unscored_values_are_left_out() -> None:
    values = [0.0] * 14 + [1.0, 1.0]
    groups = range(16)
    # 0.125 either side 2.131 * 0.342 / sqrt(16) = 0.182.
    assert mean_interval(values, groups) == (pytest.approx(-0.057, abs=1e-3), pytest.approx(0.307, abs=1e-3))
    assert mean_interval(values, groups, bounds=(0.0, 1.0)) == (0.0, pytest.approx(0.307, abs=1e-3))
    assert mean_interval([*values, math.nan], range(17)) == mean_interval(values, groups)
    # An unbiased estimate, as KID, may lie outside; it stays inside its own interval.
    assert mean_interval([-0.1] * 16, groups, bounds=(0.0, math.inf)) == (pytest.approx(-0.1), pytest.approx(-0.1))
