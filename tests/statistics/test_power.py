"""The least difference that items can show."""

import numpy as np
import pytest

from grpo_mmpc.statistics.power import least_difference, what_items_show


def test_the_least_difference_is_shown_in_80_of_100_data_sets() -> None:
    # 1.96 + .84 standard errors; a standard error of .1 gives .28.
    least = least_difference(0.1)
    assert least == pytest.approx(0.28016, abs=1e-4)
    estimates = np.random.default_rng(0).normal(least, 0.1, 20_000)
    assert np.mean(np.abs(estimates) > 1.95996 * 0.1) == pytest.approx(0.8, abs=0.01)
    assert least_difference(0.1, comparisons=20) > least


def test_products_count_where_items_hang_together() -> None:
    # 2.8 * .3 / sqrt(400) and / sqrt(48)
    assert "400 held-out items can show a difference of about 0.042 " in what_items_show(400, confidence=0.95)
    shown = what_items_show(262, products=48, confidence=0.95)
    assert "262 held-out items of 48 products can show a difference of about 0.121 " in shown
    assert "4 held-out items are too few for any verdict" in what_items_show(4, confidence=0.95)
