"""results.csv and results.tex."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.report import write_tables


def cell(**changes: Any) -> dict[str, Any]:
    fields = {"before": 0.25, "after": 0.5, "delta": 0.25, "ci95": [0.2, 0.3], "n": 40, "n_scored": 40}
    return fields | {"was_reward": False, "higher_is_better": True} | changes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    unscored = cell(before=None, after=None, delta=None, ci95=None, n_scored=0)
    metrics = {"bleu": cell(was_reward=True), "my_metric_50%": cell(delta=-0.25, ci95=None), "ssim": unscored}
    task = {
        "metrics": metrics,
        "macro": {"bleu": {"before": 0.2, "after": 0.4, "delta": 0.2, "ci95": [0.1, 0.3], "categories": 2}},
        "categories": {'A, "quoted"\nname': {"bleu": cell(ci95_corrected=[0.1, 0.4])}},
    }
    content = {"before": "base", "after": "final", "resamples": 1000, "tasks": {"image_to_text": task}}
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    return tmp_path


def test_every_cell_is_a_row_of_the_csv(run: Path, tmp_path: Path) -> None:
    path, _ = write_tables(run, folder=tmp_path / "tables")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["category"], row["metric"]) for row in rows] == [
        ("items", "", "bleu"),
        ("items", "", "my_metric_50%"),
        ("items", "", "ssim"),
        ("macro", "", "bleu"),
        ("category", 'A, "quoted"\nname', "bleu"),
    ]
    first, _, unscored, macro, category = rows
    assert (first["before"], first["low"], first["was_reward"], first["verdict"]) == ("0.25", "0.2", "true", "better")
    # Nothing scored: empty, not zero.
    assert (unscored["before"], unscored["delta"], unscored["low"], unscored["n_scored"]) == ("", "", "", "0")
    assert (macro["delta"], macro["n"]) == ("0.2", "2")
    assert (category["low_corrected"], category["high_corrected"]) == ("0.1", "0.4")


def test_latex_marks_rewards_escapes_names_and_leaves_unscored_metrics_out(run: Path, tmp_path: Path) -> None:
    _, path = write_tables(run, folder=tmp_path / "tables")
    lines = path.read_text().splitlines()
    assert r"BLEU$^{*}$ & 0.250 & 0.500 & $+0.250$ & $[+0.200, +0.300]$ \\" in lines
    assert r"my metric 50\% & 0.250 & 0.500 & $-0.250$ & too few items \\" in lines
    assert not [line for line in lines if "SSIM" in line]
    assert lines.count(r"\begin{tabular}{lrrrl}") == lines.count(r"\end{tabular}") == 1


def test_a_run_without_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no readable comparison\.json"):
        write_tables(tmp_path, folder=tmp_path)
