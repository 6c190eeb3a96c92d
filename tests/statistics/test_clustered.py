"""The interval of a mean over items that hang together."""

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
