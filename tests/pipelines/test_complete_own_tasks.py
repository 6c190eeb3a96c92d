"""Completing a catalogue by tasks of one's own: the fields that they ask for, and nothing else."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.completion.apply import apply_decisions
from grpo_mmpc.completion.decisions import decide
from grpo_mmpc.completion.proposal import read_proposals
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.pipelines.complete import Workers, audit_catalogue, complete_catalogue
from grpo_mmpc.reports.catalogue.review_entries import Review
from tests.pipelines.writer import rows_of

TASKS = {
    "german": {"source": ["images", "category"], "target": "description", "instruction": "Beschreibe es."},
    "facts": {
        "source": ["images", "description"],
        "target": "attributes",
        "instruction": "State {keys}.",
        "properties": {"color": {}, "material": {}},
    },
}
ITEMS: list[dict] = [
    {"item_id": "no description", "description": None, "attributes": {"color": "red"}},
    {"item_id": "no material", "description": "Well made.", "attributes": {"color": "red", "size": "L"}},
    {"item_id": "whole", "description": "Well made.", "attributes": {"Color": "red", "material": "wood"}},
    {"item_id": "no image", "description": None, "attributes": None, "image": None},
]


class Policy:
    """Answers each task; attributes contradict what the catalogue says of the colour."""

    rows_at_once = 2

    def __init__(self, facts: str = '{"color": "blue", "material": "wood"}') -> None:
        self.facts = facts
        self.asked: list[str] = []

    def generate(self, rows, sampling) -> list[str]:
        if sampling.temperature == 0:
            self.asked += [row.prompt_id for row in rows]
        answers = {"german": '{"description": "Ein rotes Ding.\\nSehr schön."}', "facts": self.facts}
        return [answers[row.task] for row in rows]


@pytest.fixture
def shop(tmp_path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    rows = [{"category": "Mugs", "title": f"Mug {i}", "image": "a.png"} | row for i, row in enumerate(ITEMS)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def config(make_config):
    def make(*tasks: str, **changes):
        return make_config(tasks=list(tasks), own_tasks={name: TASKS[name] for name in tasks}, **changes)

    return make


@pytest.fixture
def fill(shop, tmp_path, monkeypatch):
    def run(config, policy: Policy | None = None, **options) -> Path:
        @contextmanager
        def engine(config, *, checkpoint):
            yield policy or Policy()

        monkeypatch.setattr("grpo_mmpc.rollout.engines.offline_engine", engine)
        complete_catalogue(config, catalogue=shop, out=tmp_path / "filled", checkpoint=None, **options)
        return tmp_path / "filled"

    return run


def test_each_task_fills_its_field_and_true_values_stay(fill, shop, config, capsys):
    policy = Policy()
    out = fill(config("german", "facts"), policy)
    assert sorted(policy.asked) == ["facts:no material", "german:no description"]
    before, after = rows_of(shop), rows_of(out)
    assert after[0] == before[0] | {"description": "Ein rotes Ding.\nSehr schön.", "completed": "description"}
    attributes = {"color": "red", "size": "L", "material": "wood"}  # the true colour, not the policy's
    assert after[1] == before[1] | {"attributes": attributes, "completed": "attributes"}
    assert after[2:] == [row | {"completed": None} for row in before[2:]]
    description, facts = read_proposals(out)
    assert (description.field, description.status, description.adapter) == ("description", "accepted", None)
    assert (facts.field, facts.value, facts.status) == ("attributes", '{"material": "wood"}', "accepted")
    assert facts.prompt == config("facts").known_tasks["facts"].version
    output = capsys.readouterr().out
    assert "4 rows, 1 without description, 1 without color or material; 0 set aside" in output
    assert "filled 1 description and 1 attribute set; 0 items could not be filled" in output
    page = (out / "completion.html").read_text("utf-8")
    assert "1 description and 1 attribute set were filled" in page and "Descriptions filled" in page
    assert "<dt>Description, new</dt><dd>Ein rotes Ding." in page
    assert "<dt>Material, new</dt><dd>wood</dd><dt>Color</dt><dd>red</dd>" in page
    assert next(record.description for record in load_catalogue(out).records()) == "Ein rotes Ding.\nSehr schön."


def test_of_an_item_that_lacks_two_fields_each_run_fills_the_next(fill, shop, config, tmp_path):
    rows = rows_of(shop)
    rows[0]["attributes"] = None
    (shop / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first = rows_of(fill(config("german", "facts")))[0]
    assert (first["completed"], first["attributes"]) == ("description", None)
    (tmp_path / "filled").rename(tmp_path / "once")
    for name in ("items.jsonl",):
        (shop / name).write_bytes((tmp_path / "once" / name).read_bytes())
    out = fill(config("german", "facts"))
    second = rows_of(out)[0]
    assert (second["completed"], second["description"]) == ("description, attributes", first["description"])
    assert second["attributes"] == {"color": "blue", "material": "wood"}
    # Of the first run's fields the page counts none, and a review takes none of them back.
    page = (out / "completion.html").read_text()
    assert 'id="filled-attributes"' in page and 'id="filled-description"' not in page
    review = Review(out)
    [facts] = [one for one in review.proposals if one.item_id == second["item_id"]]
    review.record(decide(facts, "reject", None, by="me"))
    review.close()
    apply_decisions(out, tmp_path / "reviewed")
    rejected = rows_of(tmp_path / "reviewed")[0]
    assert (rejected["completed"], rejected["attributes"]) == ("description", None)
    assert rejected["description"] == first["description"]


def test_attributes_of_which_none_is_new_stay_missing_and_are_listed(fill, config):
    out = fill(config("facts"), Policy('{"color": "blue"}'))
    assert [json.loads(line) for line in (out / "incomplete.jsonl").read_text().splitlines()] == [
        {"item_id": "no material", "reason": "no missing value was given", "detail": '{"color": "blue"}'}
    ]


def test_what_was_asked_for_is_named_where_none_of_it_could_be_filled(fill, config, capsys):
    fill(config("facts"), Policy('{"color": "blue"}'))
    assert "filled 0 attribute sets; 1 item could not be filled" in capsys.readouterr().out


def test_the_gate_asks_samples_and_the_title(fill, shop, config):
    rows = rows_of(shop)
    rows[1] |= {"title": "Blue Wooden Mug", "attributes": {"size": "L"}}
    (shop / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))

    class Unsure(Policy):
        def generate(self, rows, sampling) -> list[str]:
            self.facts = '{"color": "red", "material": "%s"}' % ("wood" if sampling.temperature == 0 else "steel")
            return super().generate(rows, sampling)

    out = fill(config("facts", gate={"confidence": 0.5}), Unsure(), samples=2)
    (proposal,) = (one for one in read_proposals(out) if one.item_id == "no material")
    assert proposal.signals == {"agreement.color": 1.0, "agreement.material": 0.0, "conflict.color": 1.0}
    assert (proposal.status, proposal.confidence) == ("review", 0.0)
    assert proposal.reasons == [
        "low confidence in material: 0.00, below 0.50",
        "color is not what the item's title says",
    ]


def test_shares_of_a_completion_are_merged_by_the_last(fill, config):
    whole = config("german", "facts")
    fill(whole, workers=Workers(share=(1, 2)))
    out = fill(whole, workers=Workers(share=(2, 2)))
    assert [row["completed"] for row in rows_of(out)] == ["description", "attributes", None, None]


def test_a_task_that_shows_more_is_asked_anew(fill, config, make_config):
    fill(config("german"))
    policy = Policy()
    task = TASKS["german"] | {"source": ["images", "category", "title"]}
    fill(make_config(tasks=["german"], own_tasks={"german": task}), policy)
    assert policy.asked == ["german:no description"]


def test_a_review_keeps_true_attributes_and_takes_back_proposed_ones(fill, config, tmp_path):
    out = fill(config("german", "facts"))
    review = Review(out)
    description, facts = review.proposals
    entry = review.entry(review.number_of("no material", "attributes"))
    assert ("color", "red") in entry["facts"] and ("material", "wood") not in entry["facts"]
    assert entry["title"] == "Mug 1"
    assert entry["pieces"] == [("material: wood", False)]  # not the JSON of the file
    assert not any(name == "description" for name, _ in review.entry(0)["facts"])
    with pytest.raises(ValueError, match="only titles can be edited, not this description"):
        decide(description, "edit", "Something", by="me")
    review.record(decide(facts, "reject", None, by="me"))
    review.close()
    apply_decisions(out, tmp_path / "reviewed")
    rows = rows_of(tmp_path / "reviewed")
    assert rows[0]["description"] == "Ein rotes Ding.\nSehr schön."
    assert (rows[1]["attributes"], rows[1]["completed"]) == ({"color": "red", "size": "L"}, None)


def test_what_cannot_be_done_by_other_tasks_is_refused_in_words(fill, shop, config, tmp_path):
    with pytest.raises(ConfigError, match="--calibrate needs a task that asks images for titles; german does not"):
        fill(config("german"), samples=2, calibrate_on=2)
    with pytest.raises(ConfigError, match="--audit needs a task that asks images for titles; german, facts does not"):
        audit_catalogue(config("german", "facts"), catalogue=shop, out=tmp_path / "audit", checkpoint=None, samples=2)
