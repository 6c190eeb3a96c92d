"""The agreement of two mixes, on groups small enough to judge by eye."""

import random

import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from grpo_mmpc.analysis.replay.agreement import GroupPair, agreement, by_stretch, spearman, winners
from grpo_mmpc.analysis.replay.result import Contender, Example, Replay
from grpo_mmpc.config.rewards import RewardSpec, RewardsSection


def pair(old: list[float], new: list[float], *, step: int = 1, **dead: bool) -> GroupPair:
    return GroupPair(step=step, old=old, new=new, **{"old_dead": False, "new_dead": False, **dead})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * (1 + 1 + 1 + 1) / (4 * 15)
        ([1, 2, 3, 4], [2, 1, 4, 3], 0.6),
        # ranks 1.5 1.5 3 and 1 2 3: 1.5 / sqrt(1.5 * 2)
        ([0, 0, 5], [1, 2, 3], 1.5 / 3**0.5),
        ([1, 1, 1], [1, 2, 3], None),
        ([1], [2], None),
    ],
)
def test_rank_correlation(first, second, expected):
    assert spearman(first, second) == (None if expected is None else pytest.approx(expected))


def test_rank_correlation_is_that_of_scipy_with_and_without_ties():
    rng = random.Random(0)
    for values in (lambda: rng.gauss(0, 1), lambda: float(rng.randrange(4))):
        a, b = [values() for _ in range(50)], [values() for _ in range(50)]
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_completions_that_tie_for_the_best_all_win():
    assert winners([0.5, 1.0, 1.0, -2.5]) == {1, 2}


def test_a_winner_changes_only_if_no_completion_is_the_best_under_both():
    same, tied, other = pair([1, -1, 0], [2, 0, -2]), pair([1, 1, -2], [2, -1, -1]), pair([1, -1, 0], [-1, 1, 0])
    assert agreement([same, tied, other]).winner_changes == pytest.approx(1 / 3)


def test_signs_count_completions_that_both_mixes_have_an_opinion_on_with_opposite_ones():
    found = agreement([pair([1, -1, 0, 0], [-1, -1, 2, 0])])
    assert found.sign_changes == pytest.approx(1 / 4)


def test_zero_variance_groups_are_counted_and_have_no_winner():
    groups = [
        pair([1, -1], [0, 0], new_dead=True),
        pair([0, 0], [1, -1], old_dead=True),
        pair([1, -1], [-1, 1]),
        pair([0, 0], [0, 0], old_dead=True, new_dead=True),
    ]
    found = agreement(groups)
    assert (found.old_dead, found.new_dead, found.died, found.revived) == (0.5, 0.5, 1, 1)
    assert found.winner_changes == 1.0  # of the one group that has variance under both
    assert found.rank_correlation_in_group == pytest.approx(-1.0)


def test_shares_of_nothing_are_none_and_not_zero():
    found = agreement([pair([0, 0], [0, 0], old_dead=True, new_dead=True)])
    assert (found.winner_changes, found.sign_changes, found.rank_correlation) == (None, None, None)


def test_stretches_cover_all_steps_once_in_at_most_five_stretches():
    found = by_stretch([pair([1, -1], [1, -1], step=step) for step in range(1, 13)])
    assert list(found) == [(1, 2), (3, 5), (6, 7), (8, 10), (11, 12)]
    assert sum(agreed.groups for agreed in found.values()) == 12
    assert len(by_stretch([pair([1, -1], [1, -1], step=7)])) == 1


def contender(old: float, new: float) -> Contender:
    return Contender(text="x", old_advantage=old, new_advantage=new, rewards={}, old_rewards={})


def test_the_clearest_examples_are_kept_one_of_each_prompt():
    def example(prompt: str, margin: float) -> Example:
        return Example(
            step=1, prompt_id=prompt, title="t", old_winner=contender(margin, 0), new_winner=contender(0, margin)
        )

    mix = RewardsSection(mix=[RewardSpec(name="bleu", weight=1.0)])
    replay = Replay(run="r", name="n", key="k", old=mix, new=mix)
    for prompt, margin in (("a", 1.0), ("b", 3.0), ("a", 2.0), ("c", 0.5), ("b", 1.0)):
        replay.offer(example(prompt, margin))
    for extra in "defg":
        replay.offer(example(extra, 0.25))
    kept = [(one.prompt_id, one.margin) for one in replay.examples]
    assert kept == [("b", 6.0), ("a", 4.0), ("c", 1.0), ("d", 0.5), ("e", 0.5)]
