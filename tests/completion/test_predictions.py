"""A completed catalogue goes straight into score and report."""

import json

import pytest

from grpo_mmpc.cli import main
from grpo_mmpc.completion.apply import apply_decisions
from grpo_mmpc.completion.predictions import completed_predictions, words_of_a_policy
from grpo_mmpc.errors import EvaluationError
from tests.completion.completed import item, write_completed, write_lines


@pytest.fixture
def completed(tmp_path):
    return write_completed(tmp_path / "completed")


@pytest.fixture
def truth(completed, tmp_path):
    """The same items with their true titles, and one that was never asked."""
    folder = tmp_path / "truth"
    titles = {"B1": "Acme Kettle, Red, 1.7 l", "B2": "Acme Kettle, Blue", "B3": "Big Mug", "B4": "Tin", "B9": "Vase"}
    folder.mkdir()
    write_lines(folder / "items.jsonl", [item(key, title, image=None) for key, title in titles.items()])
    return folder


def test_only_what_was_missing_is_scored_and_what_stayed_missing_is_wrong(completed, truth, tmp_path, capsys):
    out = tmp_path / "scores.json"
    command = ["score", "--predictions", str(completed), "--references", str(truth), "--out", str(out)]
    assert main([*command, "--metrics", "token_f1,parse_rate"]) == 0
    summary = json.loads(out.read_text())
    assert summary["items"] == 3 and summary["malformed"] == 1
    # Equal, one word of two in both directions, nothing: (1 + 1/2 + 0) / 3.
    assert summary["metrics"]["token_f1"]["mean"] == pytest.approx(0.5)
    assert summary["metrics"]["parse_rate"]["mean"] == pytest.approx(2 / 3)
    assert summary["references_without_prediction"] == 0


def test_images_are_predictions_of_the_other_task_and_none_outside_the_folder_is_taken(completed):
    [image] = completed_predictions(completed, task="text_to_image").by_item.values()
    assert (image.item_id, image.image) == ("B5", completed / "images/generated/B5.png")
    lines = (completed / "proposals.jsonl").read_text()
    (completed / "proposals.jsonl").write_text(lines.replace("images/generated/B5.png", "../truth.png"))
    (completed.parent / "truth.png").write_bytes(b"")
    [image] = completed_predictions(completed, task="text_to_image").by_item.values()
    assert image.image is None


def test_a_catalogue_that_lacked_no_title_has_none_to_score(completed):
    lines = (completed / "proposals.jsonl").read_text().splitlines(keepends=True)
    (completed / "proposals.jsonl").write_text(lines[-1])
    with pytest.raises(EvaluationError, match="has filled no title; --task"):
        completed_predictions(completed, task="image_to_text")


def test_report_writes_the_page_of_a_completed_catalogue_again(completed, capsys):
    for name in ("incomplete.jsonl", "quarantine.jsonl"):
        (completed / name).touch()
    (completed / "completion.json").write_text(json.dumps({"catalogue": "shop", "model": "nano:gemma3"}))
    assert main(["report", str(completed)]) == 0
    assert "completion.html" in capsys.readouterr().out
    page = (completed / "completion.html").read_text()
    assert "Grand Mug" in page and "completion of shop" in page and "only the products of the nano" in page
    assert main(["report", str(completed), "--tables", str(completed / "tables")]) == 2


def test_a_title_that_a_review_has_left_out_is_missing_whatever_was_proposed(completed, truth, tmp_path):
    apply_decisions(completed, tmp_path / "reviewed")  # nobody has decided about B3, which waits
    titles = completed_predictions(tmp_path / "reviewed", task="image_to_text").by_item
    assert {key: one.prediction for key, one in titles.items()} == {"B2": "Acme Kettle, Blue", "B3": None, "B4": None}
    note = "! true here though a completion wrote it and nobody reviewed it:"
    assert words_of_a_policy(completed) == f"{note} 2 titles and 1 image of {completed}"
    reviewed = tmp_path / "reviewed"
    assert words_of_a_policy(reviewed) == f"{note} 1 title of {reviewed}"
    assert words_of_a_policy(truth) is None
