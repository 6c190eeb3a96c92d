"""What a grid can show, told before it runs."""

import pytest

from grpo_mmpc.ablation.comparison import compare
from grpo_mmpc.ablation.power import why_nothing_can_be_shown
from grpo_mmpc.ablation.results import collect
from grpo_mmpc.ablation.spec import load_ablation
from grpo_mmpc.cli import ablate, main

THREE = {"mix": {name: {} for name in ("bleu", "token_f1", "clip")}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "2 mixes over 2 seeds cannot show any difference"),  # (2 - 1) * (2 - 1) degrees of freedom
        ({"seeds": [0]}, ""),
        ({"seeds": [0, 1, 2]}, ""),  # (2 - 1) * (3 - 1)
        ({"axes": THREE}, ""),  # (3 - 1) * (2 - 1)
        ({"reference": "base"}, ""),  # 2 * (2 - 1)
        ({"axes": {"mix": {"bleu": {}}}}, "its only combination is the reference"),
        ({"axes": {"mix": {"bleu": {}}}, "reference": "base"}, "1 mixes over 2 seeds cannot"),
    ],
)
def test_a_grid_that_can_show_nothing_is_told_by_its_shape(ablation, changes, said):
    told = why_nothing_can_be_shown(load_ablation(ablation(**changes)))
    assert said in told and bool(said) == bool(told)


def test_such_a_grid_is_refused_unless_told_to_run_it(ablation, tmp_path, load_without_trl, monkeypatch, capsys):
    monkeypatch.setattr(ablate, "_load", load_without_trl)
    command = ["ablate", str(ablation()), "--out", str(tmp_path / "out")]
    assert main([*command, "--check"]) == 2
    said = capsys.readouterr()
    assert "power: 18 held-out items can show a difference of about 0.198" in said.out  # 2.8 * 0.3 / sqrt(18)
    assert "cannot show any difference" in said.err and "--run-anyway" in said.err
    assert main(command) == 2
    assert not (tmp_path / "out").exists()
    assert main([*command, "--check", "--run-anyway"]) == 0


def test_no_interval_leaves_the_range_of_its_metric(planned, monkeypatch):
    """20 items of 1.0 in all runs but one, which three seeds pull below."""
    from tests.ablation.test_running import run_all

    _, runs, jobs = planned(seeds=[0, 1, 2])
    run_all(jobs[1:])
    results = collect(runs, jobs)
    for run in results.runs:
        scores = run.evaluation.tasks["image_to_text"].scores["rouge_l"]
        scores[:] = 0.99 if run.seed else 0.6
    comparison = compare(
        results, mixes=["bleu", "token_f1"], reference="bleu", metrics=["image_to_text.rouge_l"], resamples=200
    )
    for cell in comparison.rows[0].cells:
        assert cell.level is not None and cell.level.interval is not None
        assert cell.level.interval.high == 1.0  # 0.86 + 4.3 standard errors of 0.13 would be 1.4
        assert cell.level.interval.low >= 0.0
