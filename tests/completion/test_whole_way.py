"""A shop's file to a completed catalogue, through recbench, score, report and review, and back."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from grpo_mmpc.cli import main
from grpo_mmpc.pipelines import complete
from tests.pipelines.writer import Writer, rows_of
from tests.recbench.catalogues import OFFLINE, small_catalogue

HEADER = "SKU;Name;Kind;Photo"
FILLED = 8


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return small_catalogue(tmp_path / "truth", categories=("Bags",)).folder


@pytest.fixture
def shop(truth: Path) -> Path:
    """The shop's file: every fourth item has no title."""
    lines = [
        ";".join([row["item_id"], row["title"] if number % 4 else "", row["category"], row["image"]])
        for number, row in enumerate(rows_of(truth))
    ]
    (truth / "shop.csv").write_bytes("\r\n".join([HEADER, *lines, ""]).encode())
    return truth / "shop.csv"


@pytest.fixture
def completed(tmp_path: Path, truth: Path, shop: Path, make_config, monkeypatch) -> Path:
    """What ``complete`` makes of the imported file, with the shop's interactions beside it."""
    assert main(["data", "import", str(shop), "--out", str(tmp_path / "imported")]) == 0
    shutil.copy(truth / "interactions.jsonl", tmp_path / "imported")
    monkeypatch.setattr("grpo_mmpc.rollout.engines.offline_engine", lambda *args, **kwargs: nullcontext(Writer()))
    out = tmp_path / "completed"
    complete.complete_catalogue(make_config(), catalogue=tmp_path / "imported", out=out, checkpoint=None)
    return out


def recbench(tmp_path: Path, catalogue: Path, *words: str) -> int:
    fast = [*OFFLINE, "seeds=[0]", "fills=[zeros,no_missing,completed]", "training.max_epochs=1"]
    return main(
        ["recbench", *fast, "--catalogue", str(catalogue), "--out", str(tmp_path / "out"), "--parallel", "1", *words]
    )


def test_score_report_review_and_the_shop_s_file_take_a_completed_catalogue(completed, truth, shop, tmp_path, capsys):
    scores = tmp_path / "scores.json"
    command = ["score", "--predictions", str(completed), "--metrics", "token_f1", "--out", str(scores), "--references"]
    assert main([*command, str(truth)]) == 0
    assert json.loads(scores.read_text())["items"] == FILLED  # only what was filled is asked of the references
    assert main([*command, str(completed)]) == 2
    assert "is the completed catalogue itself; give the one that has the true titles" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "imported")]) == 2
    assert "true titles known: grpo-mmpc data mask takes some away" in capsys.readouterr().err
    assert main(["report", str(completed)]) == 0
    decided = {"item_id": "Bags-00", "field": "title", "decision": "edit", "value": "Bag; red", "by": "Ann"}
    (completed / "decisions.jsonl").write_text(json.dumps({**decided, "when": "2026-01-31T12:00:00+00:00"}) + "\n")
    assert main(["review", str(completed), "--apply", str(tmp_path / "reviewed")]) == 0
    assert f"next: grpo-mmpc data export {tmp_path / 'reviewed'} --out FILE" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "reviewed")]) == 0  # a person's title beside what was proposed
    assert f"nobody reviewed it: 7 titles of {tmp_path / 'reviewed'}" in capsys.readouterr().out
    written = tmp_path / "with_titles.csv"
    assert main(["data", "export", str(tmp_path / "reviewed"), "--out", str(written)]) == 0
    expected = shop.read_bytes().decode().replace("Bags-00;;", 'Bags-00;"Bag; red";')
    for row in rows_of(completed):
        expected = expected.replace(f"{row['item_id']};;", f"{row['item_id']};red mug {row['item_id']};")
    assert written.read_bytes().decode() == expected


def test_recbench_takes_it_as_a_completion_and_as_a_catalogue_and_says_whose_words_are_true(
    completed, truth, tmp_path, capsys
):
    assert recbench(tmp_path, truth, "--completed", f"mine={completed}") == 0
    said = capsys.readouterr().out
    assert f"mine: {FILLED} of 32 missing titles completed" in said and "nobody reviewed it" not in said
    assert recbench(tmp_path / "itself", completed) == 0
    assert f"nobody reviewed it: {FILLED} titles of {completed}" in capsys.readouterr().out


def test_a_training_says_that_it_learns_from_titles_that_nobody_reviewed(completed, truth, tmp_path, capsys):
    recipe = str(Path(__file__).parents[2] / "recipes/nano.yaml")
    for folder, says in ((completed, True), (truth, False)):
        command = ["train", recipe, f"data.catalogue={folder}", f"run_dir={tmp_path / 'run'}", "--check"]
        assert main(command) == 0
        assert (f"nobody reviewed it: {FILLED} titles of {folder}" in capsys.readouterr().err) is says


def test_recbench_refuses_a_completion_of_nothing_that_it_takes_away(completed, tmp_path, capsys):
    """Of the catalogue with gaps no true titles are known where it was filled."""
    assert recbench(tmp_path, tmp_path / "imported", "--completed", str(completed)) == 2
    said = capsys.readouterr().err
    assert "completes nothing that the benchmark takes away (24 because its title is not marked as completed)" in said
    assert "grpo-mmpc data mask CATALOGUE --out MASKED, and complete MASKED" in said
    assert not (tmp_path / "out/results.json").exists()
