"""Completing a catalogue: every gap is filled or named, nothing else changes, no kill costs."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.pipelines import complete as module
from grpo_mmpc.pipelines.complete import complete_catalogue
from grpo_mmpc.tasks import TASKS


@pytest.fixture
def gappy(small_catalogue, tmp_path) -> Path:
    """Nine items of the nano catalogue: three without title, three without image, three whole."""
    folder = tmp_path / "gappy"
    folder.mkdir()
    rows = [json.loads(line) for line in (small_catalogue / "items.jsonl").read_text().splitlines()[:9]]
    for i, row in enumerate(rows):
        (folder / row["image"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["image"]).write_bytes((small_catalogue / row["image"]).read_bytes())
        row["shelf"] = f"A{i}"
        if i % 3 == 0:
            row["title"] = None
        if i % 3 == 1:
            row["image"] = None
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "interactions.jsonl").write_text('{"user_id": "u", "item_id": "i", "timestamp": 1, "rating": 5}\n')
    return folder


class Writer:
    """Stands for a policy: answers with the item's id."""

    rows_at_once = 1

    def __init__(self, answer=None, *, dies_after: int = 1_000) -> None:
        self.answer = answer or (lambda row: TASKS[row.task].answer(f"red mug {row.item_id}"))
        self.left = dies_after
        self.asked: list[str] = []

    def generate(self, rows, sampling) -> list[str]:
        assert sampling.temperature == 0
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += [row.prompt_id for row in rows]
        return [self.answer(row) for row in rows]


@pytest.fixture
def fill(make_config, gappy, tmp_path, monkeypatch):
    def run(writer: Writer, **evaluation) -> Path:
        @contextmanager
        def engine(config, *, checkpoint):
            yield writer

        monkeypatch.setattr(module, "offline_engine", engine)
        config = make_config(evaluation=evaluation)
        complete_catalogue(config, catalogue=gappy, out=tmp_path / "filled", checkpoint=None)
        return tmp_path / "filled"

    return run


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def test_every_gap_is_filled_and_nothing_else_changes(fill, gappy):
    out = fill(Writer())
    for i, (before, after) in enumerate(zip(rows_of(gappy), rows_of(out), strict=True)):
        field = ("title", "image", None)[i % 3]
        assert after["completed"] == field
        assert {k: v for k, v in after.items() if k not in ("completed", field)} == {
            k: v for k, v in before.items() if k != field
        }
        if field == "title":
            assert after["title"] == f"red mug {before['item_id']}"
    completed = load_catalogue(out)
    assert len(completed) == 9 and completed.quarantined == []
    assert all(record.title and record.image for record in completed.records())
    assert (out / "interactions.jsonl").read_bytes() == (gappy / "interactions.jsonl").read_bytes()


def test_what_cannot_be_filled_stays_missing_and_is_listed_with_its_reason(fill, gappy, capsys):
    broken = rows_of(gappy)[0]["item_id"]
    out = fill(Writer(lambda row: "oops" if row.item_id == broken else TASKS[row.task].answer("mug")))
    assert rows_of(out)[0]["title"] is None and rows_of(out)[0]["completed"] is None
    assert [json.loads(line) for line in (out / "incomplete.jsonl").read_text().splitlines()] == [
        {"item_id": broken, "reason": "malformed completion", "detail": "oops"}
    ]
    assert "1 x malformed completion" in capsys.readouterr().out


def test_a_killed_completion_goes_on_with_the_items_that_are_missing(fill):
    first = Writer(dies_after=4)
    with pytest.raises(KeyboardInterrupt):
        fill(first)
    second = Writer()
    out = fill(second)
    assert len(first.asked) == 4 and len(second.asked) == 2
    assert not set(first.asked) & set(second.asked)
    assert sum(row["completed"] is not None for row in rows_of(out)) == 6


def test_without_a_renderer_titles_are_filled_and_images_listed(fill, capsys):
    out = fill(Writer(), renderer=None)
    assert [row["completed"] for row in rows_of(out)] == ["title", None, None] * 3
    listed = [json.loads(line) for line in (out / "incomplete.jsonl").read_text().splitlines()]
    assert [entry["reason"] for entry in listed] == ["no renderer"] * 3
    assert "evaluation.renderer=diffusers" in capsys.readouterr().out


def test_a_folder_belongs_to_one_catalogue_and_one_policy(fill, make_config, small_catalogue, tmp_path, monkeypatch):
    out = fill(Writer())
    with pytest.raises(CatalogueError, match="holds the completion of"):
        complete_catalogue(make_config(), catalogue=small_catalogue, out=out, checkpoint=None)
    other = make_config(model={"init_kwargs": {"dtype": "bfloat16"}})
    with pytest.raises(CatalogueError, match="by another policy"):
        complete_catalogue(other, catalogue=tmp_path / "gappy", out=out, checkpoint=None)


def test_neither_the_catalogue_nor_a_strangers_folder_is_written_into(make_config, gappy, tmp_path):
    with pytest.raises(CatalogueError, match="the catalogue itself"):
        complete_catalogue(make_config(), catalogue=gappy, out=gappy, checkpoint=None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(CatalogueError, match="not empty"):
        complete_catalogue(make_config(), catalogue=gappy, out=tmp_path / "mine", checkpoint=None)


def test_the_embedded_policy_completes_a_catalogue_from_the_command_line(gappy, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["complete", str(gappy), "--out", str(out), "--base", "--recipe", "recipes/nano.yaml"]
    assert main(command) == 0
    assert "filled 3 titles and 3 images" in capsys.readouterr().out
    assert len(load_catalogue(out)) == 9


def test_the_base_model_needs_a_recipe(gappy, tmp_path, capsys):
    assert main(["complete", str(gappy), "--out", str(tmp_path / "out"), "--base"]) == 2
    assert "--recipe is needed" in capsys.readouterr().err
