"""P-values of a comparison, corrected for all that is compared."""

from pathlib import Path

import numpy as np
import pytest

from grpo_mmpc.evaluation.comparison import compare_evaluations
from tests.evaluation.compared import NAN, compare, write_evaluation


def test_p_values_are_corrected_for_all_metrics_of_the_task(tmp_path: Path) -> None:
    # Eight items, 2**8 flips. bleu: all differences .1, so only all-plus and all-minus are as
    # extreme: 2/256. chrf: seven of .1 and one of -.1, sum .6: one minus (8 flips) or none (1),
    # both ways: 18/256. rouge_l: unscored. Holm over two: 2 * 2/256 and 18/256.
    zeros = [0.0] * 8
    before = write_evaluation(tmp_path / "a", scores={"bleu": zeros, "chrf": zeros, "rouge_l": [NAN] * 8})
    scores = {"bleu": [0.1] * 8, "chrf": [0.1] * 7 + [-0.1], "rouge_l": [0.5] * 8}
    task = compare(before, write_evaluation(tmp_path / "b", scores=scores))
    bleu, chrf, rouge = (task["metrics"][name] for name in ("bleu", "chrf", "rouge_l"))
    assert (bleu["p"], bleu["p_holm"], bleu["verdict"]) == (2 / 256, 4 / 256, "better")
    assert (chrf["p"], chrf["p_holm"], chrf["verdict"]) == (18 / 256, 18 / 256, "no evidence")
    assert (rouge["p"], rouge["p_holm"], rouge["verdict"]) == (None, None, "unscored")
    # Mean .075, standard deviation (n - 1) of seven .1 and one -.1: sqrt((7 * .025**2 + .175**2) /
    # 7) = .0707.
    assert chrf["effect_size"] == pytest.approx(0.075 / 0.0707107, rel=1e-5)
    assert bleu["effect_size"] is None  # no spread
    assert task["families"] == {"metrics": 2, "macro": 2, "categories": 2}


def test_a_difference_that_is_clear_alone_can_be_lost_among_many_comparisons(tmp_path: Path) -> None:
    # Six items, all better: p = 2/64 = .03125. Alone that is a finding; with a second metric that
    # did not change it is corrected to .0625, and the interval above 0 no longer makes it one.
    after = {"bleu": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
    alone = compare(
        write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 6}), write_evaluation(tmp_path / "b", scores=after)
    )
    both = compare(
        write_evaluation(tmp_path / "c", scores={"bleu": [0.0] * 6, "chrf": [0.0] * 6}),
        write_evaluation(tmp_path / "d", scores=after | {"chrf": [0.0] * 6}),
    )
    assert alone["metrics"]["bleu"]["verdict"] == "better"
    assert both["metrics"]["bleu"]["p_holm"] == 0.0625
    assert both["metrics"]["bleu"]["ci95"][0] > 0
    assert both["metrics"]["bleu"]["verdict"] == "no evidence"


def test_a_metric_with_too_few_items_has_no_p_value_and_no_part_in_the_correction(tmp_path: Path) -> None:
    few = [0.0] * 5 + [NAN] * 3
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 8, "chrf": few})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1] * 8, "chrf": [0.5] * 8})
    task = compare(before, after)
    assert (task["metrics"]["chrf"]["p"], task["metrics"]["chrf"]["verdict"]) == (None, "too few items")
    assert task["metrics"]["bleu"]["p_holm"] == 2 / 256
    assert task["families"]["metrics"] == 1


def test_categories_are_one_family_with_all_metrics(tmp_path: Path) -> None:
    # Two categories of eight items: bleu all up in A and B, chrf unchanged. Four comparisons, p =
    # 2/256 twice: 4 * 2/256 and 3 * 2/256, which may not be below the first.
    before = write_evaluation(
        tmp_path / "a", scores={"bleu": [0.0] * 16, "chrf": [0.0] * 16}, categories=list("AB") * 8
    )
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1] * 16, "chrf": [0.0] * 16}, categories=list("AB") * 8)
    task = compare(before, after)
    assert task["families"]["categories"] == 4
    for category in ("A", "B"):
        assert task["categories"][category]["bleu"]["p_holm"] == 8 / 256
        assert task["categories"][category]["chrf"]["p_holm"] == 1.0


def test_several_comparisons_with_one_evaluation_are_corrected_together(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 8})
    others = [
        write_evaluation(tmp_path / name, scores={"bleu": [0.1] * 8}, checkpoint=name) for name in ("b", "c", "d")
    ]
    contents = [one.to_json() for one in compare_evaluations(before, others, resamples=200)]
    assert [content["after"] for content in contents] == ["b", "c", "d"]
    for content in contents:
        cell = content["tasks"]["image_to_text"]["metrics"]["bleu"]
        assert (cell["p"], cell["p_holm"]) == (2 / 256, 6 / 256)


def test_p_values_of_many_items_do_not_depend_on_what_else_is_compared(tmp_path: Path) -> None:
    values = np.random.default_rng(4).normal(0.1, 1.0, 40)
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 40})
    after = write_evaluation(tmp_path / "b", scores={"bleu": values, "chrf": values})
    again = write_evaluation(tmp_path / "c", scores={"bleu": values})
    first, second = compare(before, after)["metrics"]["bleu"], compare(before, again)["metrics"]["bleu"]
    assert first == second


def test_category_intervals_are_also_given_corrected_for_their_number(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    categories = [name for name in ("A", "B", "C", "D", "E") for _ in range(20)]
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 100}, categories=categories)
    after = write_evaluation(tmp_path / "b", scores={"bleu": generator.normal(size=100)}, categories=categories)
    categories_at_95 = compare(before, after)["categories"]
    for cell in categories_at_95.values():
        (low, high), (wide_low, wide_high) = cell["bleu"]["ci95"], cell["bleu"]["ci95_corrected"]
        assert wide_low < low < high < wide_high
    # Five comparisons: the corrected interval is the 99% one.
    at_99 = compare(before, after, confidence=0.99)["categories"]
    for name, cell in categories_at_95.items():
        expected = at_99[name]["bleu"]["ci99"]
        assert cell["bleu"]["ci95_corrected"] == pytest.approx(expected)
