"""results.csv and results.tex."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.reports.common.tables import escape_latex
from grpo_mmpc.reports.run.export import write_latex, write_tables


def cell(**changes: Any) -> dict[str, Any]:
    fields = {"before": 0.25, "after": 0.5, "delta": 0.25, "ci95": [0.2, 0.3], "n": 40, "n_scored": 40}
    fields |= {"p": 0.0001, "p_holm": 0.0002, "effect_size": 0.75, "verdict": "better"}
    return fields | {"was_reward": False, "higher_is_better": True} | changes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    untold = {"ci95": None, "p": None, "p_holm": None, "effect_size": None}
    unscored = cell(before=None, after=None, delta=None, n_scored=0, verdict="unscored", **untold)
    few = cell(delta=-0.25, verdict="too few items", **untold)
    of_set = cell(before=30.0, after=24.0, delta=-6.0, verdict="no interval", **untold)
    metrics = {"bleu": cell(was_reward=True), "my_metric_50%": few, "ssim": unscored, "fid": of_set}
    task = {
        "metrics": metrics,
        "macro": {"bleu": cell(before=0.2, after=0.4, delta=0.2, ci95=[0.1, 0.3], p_holm=0.012, n=2, n_scored=2)},
        "families": {"metrics": 1, "macro": 1, "categories": 1},
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
        ("items", "", "fid"),
        ("macro", "", "bleu"),
        ("category", 'A, "quoted"\nname', "bleu"),
    ]
    first, _, unscored, _, macro, category = rows
    assert (first["before"], first["low"], first["was_reward"], first["verdict"]) == ("0.25", "0.2", "true", "better")
    assert (first["p"], first["p_holm"], first["effect_size"]) == ("0.0001", "0.0002", "0.75")
    assert (first["evaluation_before"], first["evaluation_after"]) == ("base", "final")
    # Nothing scored: empty, not zero.
    assert (unscored["before"], unscored["delta"], unscored["low"], unscored["n_scored"]) == ("", "", "", "0")
    assert (macro["delta"], macro["n"]) == ("0.2", "2")
    assert (category["low_corrected"], category["high_corrected"]) == ("0.1", "0.4")


def test_latex_marks_rewards_escapes_names_and_leaves_unscored_metrics_out(run: Path, tmp_path: Path) -> None:
    _, path = write_tables(run, folder=tmp_path / "tables")
    lines = path.read_text().splitlines()
    assert r"BLEU$^{*}$ & 0.250 & 0.500 & $+0.250$ & $[+0.200, +0.300]$ & $<0.001$ & $+0.75$ & 40 \\" in lines
    assert r"my metric 50\% & 0.250 & 0.500 & $-0.250$ & too few items & -- & -- & 40 \\" in lines
    assert r"FID & 30.000 & 24.000 & $-6.000$ & none & -- & -- & 40 \\" in lines
    assert not [line for line in lines if "SSIM" in line]
    assert lines.count(r"\begin{tabular}{lrrrlrrr}") == lines.count(r"\end{tabular}") == 1


def test_latex_by_category_has_a_table_per_group_and_every_row_its_columns(run: Path, tmp_path: Path) -> None:
    comparison = RunFolder(run).comparison
    assert comparison is not None
    write_latex(tmp_path / "new" / "all.tex", [comparison, comparison], by_category=True)
    text = (tmp_path / "new" / "all.tex").read_text()
    # Items, mean over categories, one category; twice.
    assert text.count(r"\begin{tabular}{lrrrlrrr}") == text.count(r"\end{tabular}") == 6
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 6
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {7}
    assert r"Image to text, A, \textquotedbl{}quoted\textquotedbl{} name & Before" in text


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a&b_c%d$e#f{g}", r"a\&b\_c\%d\$e\#f\{g\}"),
        (r"x\y~z^w", r"x\textbackslash{}y\textasciitilde{}z\textasciicircum{}w"),
        ("<b>|</b>", r"\textless{}b\textgreater{}\textbar{}\textless{}/b\textgreater{}"),
        # At the start of a row, after \\, these would be read as its argument.
        ("[2] *new*", r"{[}2] {*}new{*}"),
        ("two\nlines", "two lines"),
    ],
)
def test_names_are_escaped_for_latex(name: str, escaped: str) -> None:
    assert escape_latex(name) == escaped


def test_a_run_without_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no readable comparison\.json"):
        write_tables(tmp_path, folder=tmp_path)
