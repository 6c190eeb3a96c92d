"""``grpo-mmpc compare``: tables, words, files, errors."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from grpo_mmpc.cli import main
from tests.reports.golden import check_golden
from tests.reports.run.fake_run import build_run

RESAMPLES = ("--resamples", "200")


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with two categories of 20 items: base, three checkpoints, final and a control."""
    folder = tmp_path_factory.mktemp("compare") / "run"
    run = build_run(folder, categories=["Toys", "Office_Products"], items_per_category=20, images=False, compare=False)
    shutil.copytree(run / "evaluations" / "base", run / "evaluations" / "control-other_title")
    return run / "evaluations"


def compare(*arguments: object) -> int:
    return main(["compare", *map(str, arguments), *RESAMPLES])


def test_there_is_a_table_per_task_and_words_below_within_110_columns(
    evaluations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(evaluations / "base", evaluations / "final" / "cqbench") == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert max(len(line) for line in lines if not line.startswith(("before: ", "after: "))) <= 110
    assert "image_to_text: 40 items" in lines
    assert "text_to_image: 40 items" in lines
    assert re.search(r"^metric +before +after +change +95% interval +p \(Holm\) +effect +items +verdict$", said, re.M)
    rows = {line.split()[0]: line for line in lines if line}
    plain, signed = r"\d\.\d{4}", r"\+\d\.\d{4}"
    expected = rf"bleu \* +{plain} +{plain} +{signed} +{signed} +{signed} +<?0\.\d+ +\+\d\.\d\d +40  better"
    assert re.fullmatch(expected, rows["bleu"])
    # One value of the whole corpus: no effect size, but an interval and a p-value.
    assert re.search(r"0\.\d+ +- +40  better$", rows["corpus_bleu"])
    assert not rows["chrf"].startswith("chrf *")
    assert "▲ After is better in bleu*, corpus_bleu*, chrf," in said
    # Of bleu, corpus_bleu, bertscore_f1 and parse_rate, which fails for two items only before
    # training.
    assert "! Rewards (*) are inflated by training on them: 3 better, 0 worse, 1 too few changed." in said


def test_at_80_columns_all_tables_show_before_and_after_and_one_line_separates_tasks(
    evaluations: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_mmpc.reports.common.tables.columns", lambda: 80)
    compare(evaluations / "base", evaluations / "final")
    said = capsys.readouterr().out
    heads = [line for line in said.splitlines() if line.startswith("metric ")]
    assert len(heads) == 2 and len(set(heads)) == 1
    assert heads[0].split() == ["metric", "before", "after", "95%", "interval", "verdict"]
    assert "\n\n\n" not in said


def test_golden_output(evaluations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(evaluations / "base", evaluations / "final", "--by-category")
    check_golden("compare", capsys.readouterr().out, replaced={re.escape(str(evaluations)): "RUN/evaluations"})


def test_what_got_worse_is_said_in_table_and_words(evaluations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The other way round everything that training improved got worse, and nothing is softened.
    compare(evaluations / "final", evaluations / "base")
    said = capsys.readouterr().out
    assert re.search(r"^bleu \* .* worse$", said, re.M)
    # The fake policy forgets the material while it trains.
    assert "▲ After is better in attribute_recall_material.\n▼ After is worse in bleu*," in said


def test_an_evaluation_compared_with_itself_supports_nothing(
    evaluations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(evaluations / "base", evaluations / "base")
    said = capsys.readouterr().out
    assert "After is" not in said
    assert " ".join(said.split()).count("(too few items changed)") == 2
    # The base model was trained on nothing.
    assert "*" not in said


def test_a_control_was_trained_on_nothing_and_marks_nothing(
    evaluations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(evaluations / "base", evaluations / "control-other_title")
    assert "*" not in capsys.readouterr().out
    # Beside a trained checkpoint, what that one was trained on is marked.
    compare(evaluations / "control-other_title", evaluations / "final")
    assert "bleu *" in capsys.readouterr().out


def test_categories_and_their_mean_are_shown_on_demand(evaluations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(evaluations / "base", evaluations / "final", "--by-category")
    lines = capsys.readouterr().out.splitlines()
    assert "image_to_text, mean over 2 categories" in lines
    assert "image_to_text, Office Products: 20 items" in lines
    assert max(len(line) for line in lines if not line.startswith(("before: ", "after: "))) <= 110
    assert not [line for line in lines if line.startswith("by category: add")]


def test_several_evaluations_are_each_compared_with_the_first_and_corrected_together(
    evaluations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [evaluations / name for name in ("checkpoint-20", "checkpoint-40", "final")]
    compare(evaluations / "base", *others, "--out", tmp_path / "all.json", "--csv", tmp_path / "all.csv")
    said = capsys.readouterr().out
    assert re.findall(r"^after:  .*/(\S+)/cqbench$", said, re.M) == ["checkpoint-20", "checkpoint-40", "final"]
    contents = json.loads((tmp_path / "all.json").read_text())["comparisons"]
    assert [content["after"] for content in contents] == ["checkpoint-20", "checkpoint-40", "final"]
    # 18 metrics of image_to_text in each of three comparisons.
    assert {content["tasks"]["image_to_text"]["families"]["metrics"] for content in contents} == {54}
    with (tmp_path / "all.csv").open(newline="") as file:
        after = {row["evaluation_after"] for row in csv.DictReader(file)}
    assert after == {str(folder / "cqbench") for folder in others}


def test_files_are_written_where_they_are_wanted(
    evaluations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table, latex = (tmp_path / "new" / name for name in ("c.json", "c.csv", "c.tex"))
    compare(evaluations / "base", evaluations / "final", "--out", out, "--csv", table, "--latex", latex)
    content = json.loads(out.read_text())
    assert (content["before"], content["after"]) == ("base", "final")
    assert set(content["tasks"]["image_to_text"]["categories"]) == {"Toys", "Office_Products"}
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    bleu = content["tasks"]["image_to_text"]["categories"]["Toys"]["bleu"]
    [row] = [row for row in rows if (row["category"], row["metric"]) == ("Toys", "bleu")]
    assert [float(row[key]) for key in ("p", "p_holm", "effect_size", "delta")] == [
        bleu[key] for key in ("p", "p_holm", "effect_size", "delta")
    ]
    assert r"\begin{tabular}" in latex.read_text()
    said = capsys.readouterr().out
    assert [f"written to {path}" in said for path in (out, table, latex)] == [True] * 3


def test_mistakes_are_answered_with_what_to_do(
    evaluations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(evaluations / "base"), str(evaluations / "final"), "--resamples", "10"]) == 2
    assert "--resamples is 10; an interval needs at least 100" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare(evaluations / "base", evaluations / "final", "--csv", tmp_path)
    assert f"{tmp_path}: a folder stands where a file is expected" in capsys.readouterr().err
    assert compare(evaluations / "base", evaluations / "finale") == 2
    said = capsys.readouterr().err
    assert "finale holds no evaluation" in said
    assert "as in RUN/evaluations/CHECKPOINT/SUITE" in said


def test_importing_the_command_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, grpo_mmpc.cli.compare; print(sorted({'numpy', 'pyarrow', 'jinja2', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
