"""The record of a filled field: it survives its file, and never contradicts itself."""

import json
from dataclasses import replace

import pytest

from grpo_mmpc.completion.proposal import PROPOSALS_FILE, Proposal, read_proposals
from grpo_mmpc.errors import CatalogueError

TITLE = Proposal(
    item_id="B1",
    field="title",
    value="Acme Kettle",
    policy="1f",
    model="nano:gemma3",
    adapter=None,
    prompt="9a",
    sampling={"temperature": 0.0},
    status="accepted",
)


def test_a_record_is_the_same_after_its_file(tmp_path):
    failed = replace(TITLE, value=None, status="failed", reasons=["malformed completion", "oops"])
    (tmp_path / PROPOSALS_FILE).write_text("".join(json.dumps(one.to_json()) + "\n" for one in (TITLE, failed)))
    assert list(read_proposals(tmp_path)) == [replace(TITLE, reasons=[]), failed]


def test_its_keys_are_those_that_gate_and_review_read():
    assert TITLE.to_json() == {
        "item_id": "B1",
        "field": "title",
        "value": "Acme Kettle",
        "source": "model",
        "source_item": None,
        "policy": "1f",
        "model": "nano:gemma3",
        "adapter": None,
        "prompt": "9a",
        "sampling": {"temperature": 0.0},
        "confidence": None,
        "signals": {},
        "status": "accepted",
        "reasons": [],
        "reviewed": None,
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"status": "done"}, "status is 'done', expected one of accepted, review, failed"),
        ({"source": "guess"}, "source is 'guess', expected one of model, sibling, same image, own field"),
        ({"value": None}, "only a failed one has none"),
        ({"status": "failed"}, "only a failed one has none"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, changes, problem):
    (tmp_path / PROPOSALS_FILE).write_text(
        json.dumps(TITLE.to_json()) + "\n" + json.dumps(TITLE.to_json() | changes) + "\n"
    )
    with pytest.raises(CatalogueError, match=f"line 2: .*{problem}"):
        list(read_proposals(tmp_path))


def test_a_folder_without_records_says_what_writes_them(tmp_path):
    with pytest.raises(CatalogueError, match=r"no proposals\.jsonl; give a folder that grpo-mmpc complete has written"):
        list(read_proposals(tmp_path))
