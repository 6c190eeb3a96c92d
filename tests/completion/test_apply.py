"""The catalogue that a review leaves: what was decided is in it, and nothing else has changed."""

import json

import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.completion.apply import apply_decisions
from grpo_mmpc.completion.proposal import read_proposals
from grpo_mmpc.errors import CatalogueError
from tests.completion.completed import decision, lines_of, write_completed, write_lines

MUG, IMAGE = "Grand Mug", "images/generated/B5.png"


@pytest.fixture
def completed(tmp_path):
    return write_completed(tmp_path / "completed")


def fields(folder):
    return {row["item_id"]: (row["title"], row["image"], row["completed"]) for row in lines_of(folder / "items.jsonl")}


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_decisions_accepted_values_stay_and_waiting_ones_are_missing_again(completed, tmp_path):
    before = bytes_of(completed)
    done = apply_decisions(completed, tmp_path / "out")
    assert done.counts == {"accepted by the completion": 1, "waiting for review, left missing": 2, "failed": 1}
    after, was = fields(tmp_path / "out"), fields(completed)
    assert (after["B1"], after["B2"], after["B6"]) == (was["B1"], was["B2"], was["B6"])
    assert after["B3"] == (None, "images/B3.png", None)
    assert after["B5"] == ("Wool Hat", None, None)
    assert not (tmp_path / "out" / IMAGE).exists()
    assert bytes_of(completed) == before  # nothing can be lost


def test_undecided_keep_keeps_what_waits(completed, tmp_path):
    apply_decisions(completed, tmp_path / "out", undecided="keep")
    assert fields(tmp_path / "out") == fields(completed)
    assert [one.status for one in read_proposals(tmp_path / "out")] == ["accepted", "review", "failed", "review"]


def test_decisions_are_in_the_catalogue_and_each_says_who_decided_what(completed, tmp_path):
    mine = [
        decision("B2", "reject", "Acme Kettle, Blue"),
        decision("B3", "accept", MUG),
        decision("B4", "edit", "Tin Pot, 2 l"),
        decision("B5", "accept", IMAGE, field="image"),
    ]
    write_lines(completed / "decisions.jsonl", mine)
    done = apply_decisions(completed, tmp_path / "out")
    assert done.counts == {"rejected": 1, "accepted by a reviewer": 2, "edited": 1} and not done.left_out
    after = fields(tmp_path / "out")
    assert (after["B2"][0], after["B3"][0], after["B4"][0], after["B5"][1]) == (None, MUG, "Tin Pot, 2 l", IMAGE)
    assert [after[item][2] for item in ("B2", "B3", "B4", "B5")] == [None, "title", "title", "image"]
    rejected, accepted, edited, _ = read_proposals(tmp_path / "out")
    assert (rejected.value, rejected.status, rejected.reasons) == (None, "failed", ["rejected by Ann"])
    assert rejected.reviewed == {
        "decision": "reject",
        "by": "Ann",
        "when": "2026-01-31T12:00:00+00:00",
        "value": "Acme Kettle, Blue",
        "status": "accepted",
    }
    assert (accepted.status, accepted.source, accepted.reasons) == (
        "accepted",
        "model",
        ["color: too few samples agree"],
    )
    assert (edited.value, edited.status, edited.source) == ("Tin Pot, 2 l", "accepted", "person")
    (left,) = lines_of(tmp_path / "out/incomplete.jsonl")
    assert (left["item_id"], left["reason"]) == ("B2", "rejected")


def test_the_result_is_a_catalogue_with_all_its_columns_and_interactions(completed, tmp_path):
    write_lines(completed / "decisions.jsonl", [decision("B3", "accept", MUG)])
    first, *others = lines_of(completed / "items.jsonl")
    (completed / "images/B1-back.png").write_bytes((completed / "images/B1.png").read_bytes())
    write_lines(completed / "items.jsonl", [first | {"images": ["images/B1.png", "images/B1-back.png"]}, *others])
    apply_decisions(completed, tmp_path / "out")
    catalogue = load_catalogue(tmp_path / "out")
    assert len(catalogue) == 6 and not catalogue.quarantined
    assert catalogue.items["shelf"][:] == [f"AB{i}" for i in range(1, 7)]
    assert (tmp_path / "out/images/B1-back.png").read_bytes() == (completed / "images/B1-back.png").read_bytes()
    assert (tmp_path / "out/interactions.jsonl").read_bytes() == (completed / "interactions.jsonl").read_bytes()


def test_given_again_it_writes_the_same_and_follows_newer_decisions(completed, tmp_path):
    write_lines(completed / "decisions.jsonl", [decision("B5", "accept", IMAGE, field="image")])
    apply_decisions(completed, tmp_path / "out")
    first = bytes_of(tmp_path / "out")
    apply_decisions(completed, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == first
    write_lines(completed / "decisions.jsonl", [decision("B5", "reject", IMAGE, field="image")])
    apply_decisions(completed, tmp_path / "out")
    assert fields(tmp_path / "out")["B5"] == ("Wool Hat", None, None)
    assert not (tmp_path / "out" / IMAGE).exists() and (completed / IMAGE).exists()


def test_the_last_decision_holds_and_undo_takes_it_back(completed, tmp_path):
    mine = [decision("B3", "accept", MUG), decision("B3", "reject", MUG), decision("B3", "undo", None)]
    write_lines(completed / "decisions.jsonl", [*mine, decision("B2", "undo", None)])
    apply_decisions(completed, tmp_path / "out")
    after = fields(tmp_path / "out")
    assert (after["B3"][0], after["B2"][0]) == (MUG, "Acme Kettle, Blue")


def test_a_value_that_nobody_has_seen_is_not_accepted_by_an_older_decision(completed, tmp_path):
    write_lines(completed / "decisions.jsonl", [decision("B3", "accept", "Petty Mug"), decision("B9", "accept", "x")])
    done = apply_decisions(completed, tmp_path / "out")
    assert fields(tmp_path / "out")["B3"][0] is None
    assert done.left_out == [
        "the title of B3 was decided when another value was proposed; review it again",
        "the title of B9 has no proposal any more",
    ]


def test_a_file_from_elsewhere_comes_after_the_folder_s_own_and_its_unknown_items_are_named(completed, tmp_path):
    write_lines(completed / "decisions.jsonl", [decision("B3", "accept", MUG)])
    theirs = tmp_path / "decisions.jsonl"
    write_lines(
        theirs,
        [
            decision("B9", "accept", "Pan"),
            decision("B3", "reject", MUG, by="Bo"),
            decision("B2", "reject", "Acme Kettle, Blue"),
            decision("B2", "undo", None),
        ],
    )
    done = apply_decisions(completed, tmp_path / "out", files=[theirs])
    assert done.left_out == [f"{theirs}, line 1: {completed} has no proposal for the title of B9"]
    after = fields(tmp_path / "out")
    assert (after["B3"][0], after["B2"][0]) == (None, "Acme Kettle, Blue")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"decision": "delete"}, "decision is 'delete', expected one of accept, edit, reject, undo"),
        ({"decision": "edit", "value": "two\nlines"}, "not one line"),
        ({"decision": "edit", "value": ""}, "not one line"),
        ({"decision": "edit", "value": "x" * 2_001}, "not one line of 1 to 2000"),
        ({"decision": "edit", "field": "image"}, "only titles can be edited, not this image"),
        ({"decision": "undo"}, "only undo has none"),
        ({"value": None}, "only undo has none"),
        ({"value": 3}, "value is 3, expected text"),
        ({"when": "yesterday"}, "Invalid isoformat"),
        ({"when": "2026-01-31T12:00:00"}, "expected a time with its offset"),
        ({"by": "a\x1b[31m"}, "by is no name"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_line_from_elsewhere_that_is_no_decision_is_refused_before_anything_is_written(
    completed, tmp_path, changes, problem
):
    theirs = tmp_path / "decisions.jsonl"
    write_lines(theirs, [decision("B3", "accept", MUG), decision("B3", "accept", MUG) | changes])
    with pytest.raises(CatalogueError, match=f"line 2: .*{problem}"):
        apply_decisions(completed, tmp_path / "out", files=[theirs])
    assert not (tmp_path / "out").exists()


def test_half_a_line_of_a_killed_review_costs_that_one_only(completed, tmp_path):
    whole = json.dumps(decision("B3", "accept", MUG))
    (completed / "decisions.jsonl").write_text(f"{whole}\n{whole[:40]}")
    apply_decisions(completed, tmp_path / "out")
    assert fields(tmp_path / "out")["B3"][0] == MUG


def test_what_a_killed_beginning_left_is_not_in_the_way(completed, tmp_path):
    (tmp_path / "out").mkdir()
    for name in (".lock", ".reviewed.json.1.partial"):
        (tmp_path / "out" / name).touch()
    apply_decisions(completed, tmp_path / "out")
    assert not (tmp_path / "out/.reviewed.json.1.partial").exists()


def test_a_folder_that_holds_something_else_is_refused(completed, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("dear")
    with pytest.raises(CatalogueError, match="not empty and holds no review of"):
        apply_decisions(completed, tmp_path / "out")
    with pytest.raises(CatalogueError, match="not empty and holds no review of"):
        apply_decisions(completed, completed)


def test_a_value_that_is_not_the_proposed_one_is_not_overwritten(completed, tmp_path):
    rows = lines_of(completed / "items.jsonl")
    write_lines(completed / "items.jsonl", [*rows[:2], rows[2] | {"title": "Mine"}, *rows[3:]])
    write_lines(completed / "decisions.jsonl", [decision("B3", "reject", MUG)])
    with pytest.raises(CatalogueError, match="differ in the title of B3"):
        apply_decisions(completed, tmp_path / "out")
    assert not (tmp_path / "out/items.jsonl").exists()


def test_what_a_review_has_left_is_not_reviewed_itself(completed, tmp_path):
    apply_decisions(completed, tmp_path / "out")
    with pytest.raises(CatalogueError, match=f"is what the review of {completed} has left; give {completed}"):
        apply_decisions(tmp_path / "out", tmp_path / "again")


def test_an_image_outside_the_folder_is_not_taken(completed, tmp_path):
    (tmp_path / "secret.png").write_bytes((completed / "images/B1.png").read_bytes())
    rows = lines_of(completed / "items.jsonl")
    write_lines(completed / "items.jsonl", [rows[0] | {"image": "../secret.png"}, *rows[1:]])
    with pytest.raises(Exception, match="outside the catalogue folder"):
        apply_decisions(completed, tmp_path / "out")
