"""The calibration: agreement becomes the share of such answers that is right, by kind of field."""

import math

import pytest
from scipy.stats import binomtest

from grpo_mmpc.completion.calibration import (
    ALL,
    Calibration,
    Judged,
    accuracy_interval,
    fit,
    held_out_probabilities,
    judge_fields,
    ranking,
    read_calibration,
    selected,
)
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.metrics.fields import Fields

FIELDS = Fields([{"type": "kettle", "brand": "nordvik"}, {"type": "mug", "brand": "zibbo"}])


def many(kind: str, share: float, *, right: int, of: int) -> list[Judged]:
    return [Judged(f"{kind}{share}{i}", kind, share, i < right) for i in range(of)]


JUDGED = many("type", 0.25, right=10, of=40) + many("type", 1.0, right=36, of=40) + many("brand", 1.0, right=2, of=4)


def test_agreement_becomes_the_share_that_is_right():
    calibration = fit(JUDGED, policy="p", samples=4)
    # Half an answer more at agreement 0, which pools with the lower 40: (10 + .5) / 41; at 1 also:
    # (36 + .5) / 41.
    assert calibration.probability("type", 0.25) == pytest.approx(10.5 / 41)
    assert calibration.probability("type", 1.0) == pytest.approx(36.5 / 41)
    assert calibration.probability("type", 0.625) == pytest.approx((10.5 + 36.5) / 82)
    # Four brands are too few: all 84 answers decide, 38.5 of 45 at 1.
    assert set(calibration.curves) == {ALL, "type"}
    assert calibration.probability("brand", 1.0) == pytest.approx(38.5 / 45)


def test_nothing_that_could_be_judged_is_an_error_in_words():
    with pytest.raises(CatalogueError, match="no field of the answers could be judged"):
        fit([], policy="p", samples=4)


def test_a_calibration_survives_its_file_and_is_of_one_policy_and_number_of_samples(tmp_path):
    calibration = fit(JUDGED, policy="p", samples=4)
    calibration.write(tmp_path)
    path = tmp_path / "calibration.json"
    assert read_calibration(path, policy="p", samples=4).probability("type", 1.0) == calibration.probability(
        "type", 1.0
    )
    with pytest.raises(CatalogueError, match="of another policy or of 4 samples, not 8"):
        read_calibration(path, policy="p", samples=8)
    path.write_text("{}")
    with pytest.raises(CatalogueError, match="is no calibration"):
        read_calibration(path, policy="p", samples=4)


def test_attributes_judge_before_the_true_title_and_what_neither_says_is_left_out():
    title, shares = "Zibbo Mug, 12 oz", {"type": 0.5, "brand": 1.0, "size": 0.25}
    judged = judge_fields("i", title, shares, true_title="Zibbo Pot", attributes={"type": "kettle"}, fields=FIELDS)
    assert judged == [Judged("i", "type", 0.5, False), Judged("i", "brand", 1.0, True)]


def test_the_chance_of_an_item_comes_from_others():
    judged = [Judged("only", "type", 1.0, True), *(Judged(f"o{i}", "type", 1.0, False) for i in range(40))]
    # Without "only" nothing is right but half an answer at each end, beside some 32 others.
    assert held_out_probabilities(judged)[0] < 1 / 20


def test_thresholds_keep_fewer_answers_and_their_accuracy_is_counted():
    kept = selected(JUDGED[:80], [one.agreement for one in JUDGED[:80]], (0.0, 0.5, 1.1))
    assert [(one.stated, one.kept, one.right) for one in kept] == [(80, 80, 46), (80, 40, 36), (80, 0, 0)]
    assert kept[1].accuracy == 0.9 and math.isnan(kept[2].accuracy)


def test_ranking_is_the_chance_that_a_right_answer_has_more_agreement_than_a_wrong_one():
    # 10 + 36 right, 30 + 4 wrong; pairs: 36 x 30 better, 10 x 30 and 36 x 4 equal, 10 x 4 worse.
    assert ranking(JUDGED[:80]) == pytest.approx((36 * 30 + (10 * 30 + 36 * 4) / 2) / (46 * 34))
    assert math.isnan(ranking(many("type", 1.0, right=3, of=3)))


def test_the_interval_of_nine_items_right_in_ten_is_wilsons():
    assert accuracy_interval(many("type", 1.0, right=9, of=10)) == pytest.approx((0.596, 0.982), abs=5e-4)
    assert accuracy_interval([]) == (0.0, 1.0)


@pytest.mark.parametrize("right", [9, 10])
def test_fields_that_are_right_or_wrong_together_count_once_in_the_interval(right):
    one = [Judged(f"i{i}", "type", 1.0, i < right) for i in range(10)]
    four = [Judged(f"i{i}", kind, 1.0, i < right) for i in range(10) for kind in ("type", "brand", "size", "color")]
    assert accuracy_interval(four) == pytest.approx(accuracy_interval(one))
    expected = binomtest(right, 10).proportion_ci(method="wilson")
    assert accuracy_interval(one) == pytest.approx((expected.low, expected.high))


def test_a_calibration_knows_no_other_kinds_than_its_curves():
    calibration = Calibration(policy="", samples=1, items=1, curves={ALL: ([0.0, 1.0], [0.2, 0.8])})
    assert calibration.probability("anything", 0.5) == pytest.approx(0.5)
