"""Fills against each other: which users and seeds count, what recovery is, what may be called better."""

import numpy as np
import pytest

from grpo_mmpc.recbench.judgement import judge, with_verdicts

USERS = 60


def runs_of(levels: dict[str, float], *, seeds=(0, 1, 2), categories=("a", "b"), noise=0.05):
    """Scores around a level; users and seeds have luck that all fills share, and each a little of its own."""
    rng = np.random.default_rng(0)
    users = {name: rng.normal(scale=0.2, size=USERS) for name in categories}
    return {
        fill: {
            seed: {name: level + users[name] + rng.normal(scale=noise, size=USERS) for name in categories}
            for seed in seeds
        }
        for fill, level in levels.items()
    }


def judged(runs, **options):
    settings = {"metric": "recall@20", "reference": "zeros", "ceiling": "no_missing", "resamples": 500}
    return judge(runs, **(settings | options))


def test_a_level_is_the_mean_over_categories_of_the_mean_over_users_and_seeds():
    scores = {"zeros": {0: {"a": np.array([0.0, 1.0]), "b": np.array([1.0, 1.0, 1.0, 1.0])}}}
    found = judged(scores)
    assert found.of("zeros").level.value == pytest.approx((0.5 + 1.0) / 2)
    assert found.num_users == 6


def test_recovery_is_the_share_of_the_way_from_the_reference_to_the_ceiling():
    found = judged(runs_of({"zeros": 0.2, "completed:x": 0.35, "no_missing": 0.4}))
    one = found.of("completed:x")
    gain = one.level.value - found.of("zeros").level.value
    gap = found.of("no_missing").level.value - found.of("zeros").level.value
    assert one.recovery.value == pytest.approx(gain / gap)
    assert one.recovery.interval.low < 0.75 < one.recovery.interval.high
    assert one.recovery.interval.high - one.recovery.interval.low < 0.4


def test_recovery_of_the_reference_is_none_and_of_the_ceiling_would_say_nothing():
    found = judged(runs_of({"zeros": 0.2, "no_missing": 0.4}))
    assert found.of("zeros").recovery is None
    assert found.of("no_missing").recovery is None


def test_where_the_true_values_do_not_help_recovery_is_not_given():
    found = judged(runs_of({"zeros": 0.2, "completed:x": 0.3, "no_missing": 0.2}))
    assert found.of("completed:x").recovery is None


def test_fills_far_apart_get_verdicts_and_equal_ones_do_not():
    levels = {"zeros": 0.2, "better": 0.3, "worse": 0.1, "same": 0.2}
    [found] = with_verdicts([judged(runs_of(levels))])
    assert {one.fill: one.verdict for one in found.fills} == {
        "zeros": "",
        "better": "better",
        "worse": "worse",
        "same": "no evidence",
    }


def test_p_values_are_corrected_for_all_groups_together():
    alone = judged(runs_of({"zeros": 0.2, "other": 0.205}, noise=0.02))
    [once] = with_verdicts([alone])
    twice = with_verdicts([alone, judged(runs_of({"zeros": 0.2, "other": 0.2}))])[0]
    assert once.of("other").p_holm == pytest.approx(once.of("other").difference.p)
    assert twice.of("other").p_holm == pytest.approx(min(1.0, 2 * once.of("other").p_holm))


def test_a_fill_without_all_cells_is_left_out_and_named():
    runs = runs_of({"zeros": 0.2, "half": 0.3})
    del runs["half"][1]["b"]
    found = judged(runs)
    assert [one.fill for one in found.fills] == ["zeros"]
    assert found.left_out == {"half": "no result for 1 cells, b with seed 1 among them"}


def test_without_the_reference_nothing_is_compared():
    assert judged(runs_of({"mean": 0.2})) is None


def test_users_are_resampled_within_their_category():
    """All users of a category agree: no luck of users is left, however different the categories are."""
    scores = {
        fill: {seed: {"a": np.full(USERS, level), "b": np.full(USERS, level + 5)} for seed in (0, 1)}
        for fill, level in (("zeros", 0.0), ("other", 1.0))
    }
    found = judged(scores)
    assert found.of("other").level.se_items == pytest.approx(0.0)
    assert found.of("other").difference.value == pytest.approx(1.0)


def test_pairing_by_user_sees_a_difference_that_levels_alone_would_hide():
    found = judged(runs_of({"zeros": 0.2, "other": 0.22}, noise=0.01))
    one = found.of("other")
    assert one.difference.interval.low > 0
    assert one.level.interval.low < found.of("zeros").level.interval.high
