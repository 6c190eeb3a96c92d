"""Learning curves: what never changes is a line of text, axes end where values do."""

from pathlib import Path

from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.reports.common.curves import curve
from grpo_mmpc.reports.common.figures import scale_for
from grpo_mmpc.reports.run.curves import CurveGroup, curve_groups
from tests.reports.run.fake_run import build_run


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
    folder = build_run(tmp_path / "run", items_per_category=8, images=False, resamples=100)
    with_reference = curve([(0, 0.1), (5, 0.4)], title="x", smooth=False, ends=[(0, 0.0, 0.2)], reference=0.3)
    assert with_reference.count('class="reach"') == 1 and with_reference.count('class="base"') == 1
    [_, held_out, *_] = curve_groups(RunFolder(folder), weights={"bleu": 1.0})
    bleu = next(figure for figure in held_out.curves if figure.title == "BLEU")
    assert bleu.svg.count('class="reach"') == bleu.svg.count("<circle") >= 2  # base and every checkpoint
