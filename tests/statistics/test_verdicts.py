"""Verdicts, Holm's correction, effect size: hand-worked numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_mmpc.statistics.verdicts import Evidence, Interval, decide, effect_size, few_changed, holm, min_items, verdict


@pytest.mark.parametrize(
    ("confidence", "items"),
    # All differences of one sign happen by chance with probability 2 * 0.5**n:
    # n=6 gives .03125 <= .05 (n=5 gives .0625); n=8 gives .0078 <= .01 (n=7 gives .0156); n=5 gives
    # .0625 <= .1.
    [(0.95, 6), (0.99, 8), (0.90, 5), (0.5, 2)],
)
def test_fewest_items_follow_the_sign_test(confidence: float, items: int) -> None:
    assert min_items(confidence) == items


@pytest.mark.parametrize("bad", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(bad: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        min_items(bad)


@pytest.mark.parametrize(
    ("delta", "interval", "p_holm", "upward", "word"),
    [
        (0.1, (0.05, 0.15), 0.001, True, "better"),
        (0.1, (0.05, 0.15), 0.001, False, "worse"),
        (-0.1, (-0.15, -0.05), 0.05, True, "worse"),  # exactly at the level counts
        (0.1, (0.05, 0.15), 0.051, True, "no evidence"),  # the interval alone is not enough
        (0.1, (-0.01, 0.15), 0.001, True, "no evidence"),  # nor is the p-value alone
        (0.0, (0.0, 0.0), 1.0, True, "no evidence"),
        (0.1, None, None, True, "too few items"),
        (None, None, None, True, "unscored"),
    ],
)
def test_better_and_worse_need_the_corrected_p_and_the_interval(
    delta: float | None, interval: tuple[float, float] | None, p_holm: float | None, upward: bool, word: str
) -> None:
    assert verdict(delta, interval, p_holm, higher_is_better=upward, confidence=0.95) == word


def evidence(p: float | None, **changes: object) -> Evidence:
    fields: dict[str, object] = {"delta": 0.1, "interval": Interval(low=0.05, high=0.15), "p": p}
    return Evidence(**(fields | changes))  # type: ignore[arg-type]


def test_a_family_is_corrected_together_and_keeps_its_order() -> None:
    # Two p-values count: 2 * .02 = .04, then max(.04, 1 * .04) = .04. Those without one do not.
    family = [
        evidence(0.04, higher_is_better=False),
        evidence(None, interval=None, without_p="too few seeds"),
        evidence(0.02),
        evidence(None, delta=None, interval=None, without_p="too few seeds"),
    ]
    assert decide(family, confidence=0.95) == [
        (0.04, "worse"),
        (None, "too few seeds"),
        (0.04, "better"),
        (None, "unscored"),
    ]
    # A third one makes it 3 * .02 = .06, 2 * .04 = .08 and .9: nothing is found any more.
    found = decide([*family, evidence(0.9)], confidence=0.95)
    assert [one.verdict for one in found] == ["no evidence", "too few seeds", "no evidence", "unscored", "no evidence"]
    assert [one.p_holm for one in found] == [pytest.approx(0.08), None, pytest.approx(0.06), None, 0.9]


def test_one_question_that_is_asked_twice_is_tested_once_by_its_largest_p_value() -> None:
    # Two questions, .03 (the larger of .01 and .03) and .02: 2 * .02 = .04, 1 * .03 -> .04.
    family = [evidence(0.01, question="x"), evidence(0.02), evidence(0.03, question="x")]
    assert [one.p_holm for one in decide(family, confidence=0.95)] == pytest.approx([0.04] * 3)
    assert decide([], confidence=0.95) == []


def test_holm_steps_down_from_the_smallest() -> None:
    # m = 4, sorted .01 .02 .03 .5: 4 * .01 = .04; 3 * .02 = .06; 2 * .03 = .06; 1 * .5 = .5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # A later one never gets below an earlier one: 2 * .04 = .08, 1 * .05 = .05 -> .08. And none
    # exceeds 1.
    assert holm([0.05, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@settings(deadline=None, max_examples=200)
@given(p=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30), level=st.floats(0.001, 0.3))
def test_holm_rejects_what_the_textbook_procedure_rejects(p: list[float], level: float) -> None:
    # Holm 1979: walk up the sorted p-values, reject while p_(k) <= level / (m - k + 1), stop at the
    # first that is not.
    rejected = set()
    for k, position in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[position] > level / (len(p) - k):
            break
        rejected.add(position)
    corrected = holm(p)
    assert all(q >= raw for q, raw in zip(corrected, p, strict=True))
    # Compared by division there and by multiplication here: leave out what rounding decides.
    clear = [i for i, q in enumerate(corrected) if abs(q - level) > 1e-12]
    assert {i for i in clear if corrected[i] <= level} == rejected & set(clear)


def test_effect_size_is_the_mean_over_the_spread_with_the_sign_of_the_change() -> None:
    # Differences .1 .3 .5: mean .3, standard deviation (n - 1) sqrt((.04 + 0 + .04) / 2) = .2.
    assert effect_size(np.array([0.1, 0.3, 0.5])) == pytest.approx(1.5)
    assert effect_size(np.array([-0.1, -0.3, -0.5])) == pytest.approx(-1.5)


@pytest.mark.parametrize("differences", [[], [0.4], [0.0, 0.0, 0.0], [0.1 + 0.2, 0.3, 0.3]])
def test_effect_size_needs_a_spread(differences: list[float]) -> None:
    # .1 + .2 differs from .3 by 5.6e-17: equal but for rounding.
    assert effect_size(np.array(differences)) is None


def test_effect_size_is_the_t_statistic_over_the_root_of_n() -> None:
    from scipy.stats import ttest_rel

    generator = np.random.default_rng(0)
    before, after = generator.random(50), generator.random(50)
    expected = ttest_rel(after, before).statistic / math.sqrt(50)
    assert effect_size(after - before) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changed", "of", "few", "few_alike"),
    # 150, or fifteen by as much, or half of them where they are fewer.
    [
        (149, 1000, True, False),
        (150, 1000, False, False),
        (14, 1000, True, True),
        (19, 40, True, False),
        (20, 40, False, False),
        (6, 6, False, False),
        (0, 8, True, True),
    ],
)
def test_a_verdict_needs_units_that_changed(changed: int, of: int, few: bool, few_alike: bool) -> None:
    differences = np.zeros(of)
    differences[:changed] = np.linspace(0.1, 1.0, changed)
    assert few_changed(differences) == few
    assert few_changed(np.sign(differences)) == few_alike


def test_a_difference_on_too_few_changed_units_gets_no_verdict() -> None:
    [decision] = decide(
        [Evidence(delta=0.1, interval=Interval(0.05, 0.15), p=0.001, few_changed=True)], confidence=0.95
    )
    assert (decision.verdict, decision.p_holm) == ("too few changed", 0.001)
