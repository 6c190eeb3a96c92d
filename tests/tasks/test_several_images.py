"""Several images an item: from the catalogue to the prompt and to what an engine is asked."""

import json
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.evaluation.completions import completion_key
from grpo_mmpc.evaluation.controls import changed_rows
from grpo_mmpc.rollout.prompts import conversation
from grpo_mmpc.tasks import IMAGE_TO_TEXT, Task
from grpo_mmpc.tasks.prompt_rows import prompt_rows
from grpo_mmpc.types import SamplingConfig

SEVERAL = Task(name="several", source=["images"], target="title", instruction="Name it.", max_images=3)
KNOWN = {"several": SEVERAL, "image_to_text": IMAGE_TO_TEXT}


@pytest.fixture
def catalogue(tmp_path):
    for name, color in (("a", "red"), ("b", "blue"), ("c", "green"), ("d", "white")):
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{name}.png")
    rows: list[dict[str, Any]] = [
        {"item_id": "1", "images": ["a.png", "b.png", "c.png", "d.png"]},
        {"item_id": "2", "images": ["../outside.png", "gone.png", 7, "b.png"]},
        {"item_id": "3", "images": None},
    ]
    rows = [row | {"category": "c", "title": f"Item {row['item_id']}", "image": "a.png"} for row in rows]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return load_catalogue(tmp_path)


def test_the_image_comes_first_and_further_ones_follow_up_to_the_tasks_number(catalogue):
    first, second, third = prompt_rows(catalogue, range(3), ["several"], known=KNOWN)
    colours = [
        part["image"].getpixel((0, 0)) for part in conversation(first, None)[0]["content"] if part["type"] == "image"
    ]
    assert colours == [(255, 0, 0), (0, 0, 255), (0, 128, 0)]
    assert [path.rpartition("/")[2] for path in second.shown_images] == ["a.png", "b.png"]
    assert [len(row.shown_images) for row in (first, second, third)] == [3, 2, 1]
    assert [part["type"] for part in third.messages[0]["content"]] == ["image", "text"]


def test_a_task_of_one_image_shows_one_whatever_the_item_has(catalogue):
    (row,) = prompt_rows(catalogue, [0], ["image_to_text"], known=KNOWN)
    assert (len(row.shown_images), row.messages) == (1, IMAGE_TO_TEXT.messages())


def test_a_completion_belongs_to_all_its_images(catalogue):
    (row,) = prompt_rows(catalogue, [0], ["several"], known=KNOWN)
    sampling = SamplingConfig(max_tokens=8, temperature=0.0)
    other = replace(row, more_image_paths=row.more_image_paths[::-1])
    assert completion_key(row, sampling, policy="p") != completion_key(other, sampling, policy="p")


def test_controls_change_every_image_and_keep_their_number(catalogue, tmp_path):
    rows = prompt_rows(catalogue, range(3), ["several"], known=KNOWN)
    for name in ("blank_image", "shuffled_image"):
        changed = changed_rows(name, rows, folder=tmp_path / "shown")
        assert [len(row.shown_images) for row in changed] == [3, 2, 1]
        assert [len(conversation(row, None)[0]["content"]) for row in changed] == [4, 3, 2]
    blank = changed_rows("blank_image", rows, folder=tmp_path)
    assert all("blank" in path for row in blank for path in row.shown_images)


def test_a_prompt_whose_images_are_not_as_many_as_its_placeholders_is_refused(catalogue):
    (row,) = prompt_rows(catalogue, [0], ["several"], known=KNOWN)
    with pytest.raises(ValueError, match="another number of image placeholders"):
        conversation(replace(row, more_image_paths=()), None)
