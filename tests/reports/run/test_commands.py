"""``grpo-mmpc report``."""

import argparse
import json
import shutil
import sys
from pathlib import Path

import pytest

from grpo_mmpc.cli import report
from tests.reports.run.fake_run import build_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "run"
    return build_run(folder, categories=["Toys", "Office"], items_per_category=20, images=False, compare=False)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def call(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    report.add_parser(commands)
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return int(parsed.func(parsed))


def test_report_makes_the_comparison_that_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", run) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"comparison: {run / 'comparison.json'}",
        f"report: {(run / 'report.html').resolve()}",
        f"summary to print: {(run / 'summary.html').resolve()}",
    ]
    assert "BLEU rose from" in (run / "report.html").read_text("utf-8")


def test_report_of_an_interrupted_run_compares_as_far_as_it_got(run: Path) -> None:
    shutil.rmtree(run / "evaluations" / "final")
    call("report", run)
    assert json.loads((run / "comparison.json").read_text())["after"] == "checkpoint-60"


def test_report_leaves_a_current_comparison_alone_and_renews_an_old_one(run: Path) -> None:
    call("report", run)
    path = run / "comparison.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"resamples": 77}))
    call("report", run)
    assert json.loads(path.read_text())["resamples"] == 77
    path.write_text(json.dumps(content | {"after": "checkpoint-20"}))
    call("report", run)
    assert json.loads(path.read_text())["after"] == "final"


def test_report_writes_page_and_tables_where_it_is_told(run: Path, tmp_path: Path) -> None:
    call("report", run, "--out", tmp_path / "pages" / "a.html", "--tables", tmp_path / "tables")
    assert (tmp_path / "pages" / "a.html").is_file()
    assert not (run / "report.html").exists()
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["results.csv", "results.tex"]


def test_report_of_a_run_without_evaluations_still_writes_the_page(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"command": "grpo-mmpc train recipe.yaml"}')
    assert call("report", tmp_path) == 0
    assert "No result yet" in (tmp_path / "report.html").read_text("utf-8")


def test_importing_the_command_loads_nothing_heavy() -> None:
    import subprocess

    heavy = "{'numpy', 'pyarrow', 'jinja2', 'PIL', 'torch'}"
    code = f"import sys, grpo_mmpc.cli.report; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
