"""The page of a calibration: the share right at each confidence, by curves without the item."""

from grpo_mmpc.completion.calibration import Judged
from grpo_mmpc.reports.catalogue.calibration_page import kind_views, write_calibration_page
from tests.reports.golden import visible_text

JUDGED = [
    *(Judged(f"a{i}", "type", 1.0, i >= 2) for i in range(100)),
    *(Judged(f"b{i}", "type", 0.25, i < 20) for i in range(100)),
    *(Judged(f"c{i}", "brand", 1.0, True) for i in range(10)),
]


def test_each_kind_with_enough_answers_has_its_accuracy_and_coverage(tmp_path):
    every, types = kind_views(JUDGED)
    assert (every.name, types.name) == ("", "type")
    assert (types.levels[0].right, types.levels[0].kept) == (118, 200)
    assert (types.levels[2].threshold, types.levels[2].right, types.levels[2].kept) == (0.8, 98, 100)
    # 98 x 80 pairs of right and wrong are in order, 98 x 2 and 20 x 80 are ties.
    assert types.auc == (98 * 80 + (98 * 2 + 20 * 80) / 2) / (118 * 82)
    page = write_calibration_page(tmp_path, JUDGED, samples=4)
    text = visible_text(page.read_text("utf-8"))
    assert "At confidence 0.8, 98 % of the 100 answers that state the type are right (59 % of all 200)." in text
    assert "Fewer than 30 answers state brand" in text
    assert "210 items of which a field could be judged" in text and "4 samples each" in text


def test_the_curve_of_what_is_kept_ends_with_all_answers_and_has_few_dots():
    _, types = kind_views([*JUDGED, *(Judged(f"d{i}", "type", i / 100, i > 50) for i in range(100))])
    assert "1.00: 0.56" in types.selective  # 167 of 300
    assert types.selective.count("<circle") <= 21


def test_with_too_few_answers_the_page_says_so_first(tmp_path):
    few = [Judged(f"d{i}", "color", 0.5, i > 2) for i in range(4)]
    text = visible_text(write_calibration_page(tmp_path, few, samples=8).read_text("utf-8"))
    assert "No field was stated in 30 answers or more: too few to say what a confidence is worth." in text
