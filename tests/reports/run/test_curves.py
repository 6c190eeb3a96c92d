"""Learning curves: what never changes is a line of text, axes end where values do."""

import re
import shutil
from pathlib import Path

from grpo_mmpc.evaluation.comparison import write_comparison
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.reports.common.figures import scale_for
from grpo_mmpc.reports.run.curves import CurveGroup, curve_groups, mean_intervals
from grpo_mmpc.statistics.verdicts import Interval
from tests.reports.run.fake_run import Edit, Row, build_run

TASK = "image_to_text"


def test_a_curve_that_never_changes_is_a_line_of_text() -> None:
    group = CurveGroup(title="While training", note="")
    group.add([(1, 1.0), (2, None), (3, 1.0)], title="Parse rate", smooth=True)
    group.add([(1, 0.25), (2, 0.5)], title="Reward", smooth=True)
    group.add([(1, None)], title="KL", smooth=True)
    assert group.constant == ["Parse rate 1.000"]
    assert [figure.title for figure in group.curves] == ["Reward"]


def test_an_axis_ends_where_the_metric_does() -> None:
    values, wide = [0.02, 0.98], (-0.1, 1.1)  # nearly constant curves ask for more room than there is
    held = scale_for(values, include=wide, bounds=(0.0, 1.0))
    free = scale_for(values, include=wide)
    assert (held.low, held.high) == (0.0, 1.0)
    assert free.low < 0.0 and free.high > 1.0


def test_held_out_curves_have_an_interval_each_and_the_line_of_the_best_control(tmp_path: Path) -> None:
    folder = build_run(tmp_path / "run", items_per_category=4, tasks=[TASK], images=False, compare=False)
    evaluations = folder / "evaluations"
    # What the controls answer: as the base model did, as the policy after 20 steps and after 60.
    for control, as_did in {
        "other_title": "base",
        "nearest_title": "checkpoint-20",
        "blank_image-final": "checkpoint-60",  # asks the policy: no answer without one
    }.items():
        shutil.copytree(evaluations / as_did, evaluations / f"control-{control}")
    write_comparison(folder, resamples=100)
    [_, held_out, *_] = curve_groups(RunFolder(folder), weights={"bleu": 1.0})
    bleu = next(figure for figure in held_out.curves if figure.title == "BLEU")
    assert bleu.svg.count('class="reach"') == bleu.svg.count("<circle") == 5  # base and every checkpoint
    assert (bleu.note, bleu.svg.count('class="base"')) == ("dashed: nearest image's title", 1)
    [level] = re.findall(r'class="base"[^>]* y1="([\d.]+)"', bleu.svg)
    assert level == re.findall(r'<circle[^>]* cy="([\d.]+)"', bleu.svg)[1]  # of checkpoint-20


def test_items_of_one_product_count_once_in_the_intervals_of_a_curve(tmp_path: Path) -> None:
    # An interval takes six items that stand alone: 18 are enough, five products are not.
    def of_five_products(rows: list[Row]) -> list[Row]:
        return [row | {"group": f"product {number % 5}"} for number, row in enumerate(rows)]

    def intervals(name: str, edit: Edit | None) -> dict[str, Interval]:
        folder = build_run(
            tmp_path / name, items_per_category=2, checkpoints=["base"], images=False, compare=False, edit=edit
        )
        return mean_intervals(RunFolder(folder).samples("base"), TASK, ["bleu"], mode="corrected")

    assert set(intervals("alone", None)) == {"bleu"}
    assert intervals("products", of_five_products) == {}
