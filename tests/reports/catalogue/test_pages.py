"""Pages of a checked and of a completed catalogue: what is there, what was filled, and why not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.cli import main
from grpo_mmpc.reports.catalogue.completion_page import write_completion_page
from tests.completion.test_proposal import TITLE
from tests.reports.golden import visible_text


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def folder_with(tmp_path: Path, rows: list[dict]) -> Path:
    """Return a catalogue folder; every image that a row names is there."""
    folder = tmp_path / "shop"
    for row in rows:
        if row.get("image"):
            (folder / row["image"]).parent.mkdir(parents=True, exist_ok=True)
            Image.radial_gradient("L").save(folder / row["image"])
    write_lines(folder / "items.jsonl", rows)
    return folder


def test_a_check_becomes_a_page_with_counts_reasons_and_near_duplicates(tmp_path, capsys):
    rows = [
        {"item_id": "a", "category": "Fruit", "title": "Pear <b>", "image": "images/a.png"},
        {"item_id": "b", "category": "Fruit", "title": None, "image": "images/b.png"},
        {"item_id": "c", "category": "Tools", "title": "Saw", "image": None},
        *({"item_id": f"d{i}", "category": "Tools", "title": None, "image": None} for i in range(3)),
    ]
    folder, page = folder_with(tmp_path, rows), tmp_path / "check.html"
    assert main(["data", "validate", str(folder), "--html", str(page)]) == 0
    assert f"Page: {page}" in capsys.readouterr().out
    html = page.read_text("utf-8")
    text = visible_text(html)
    assert "3 usable items of 6 rows; broken rows are left out." in text
    # items, no title, no description, no image, broken
    assert "Fruit | 2 | 1 | 2 | 0 | 0" in text and "Tools | 1 | 0 | 1 | 1 | 3" in text
    assert "3 | items.jsonl row 4 d0 | " in text  # three rows, one kind of fault
    assert "2 items in 1 group" in text and html.count("data:image/") == 2
    assert "<b>Pear" not in html and "Pear <b>" in text


def test_a_completion_shows_new_fields_beside_known_facts_and_every_reason(tmp_path):
    rows = [
        {"item_id": "a", "category": "Fruit", "title": "Red pear", "description": "A red one", "image": "images/a.png"},
        {
            "item_id": "b",
            "category": "Fruit",
            "title": "Plum",
            "image": "images/b.png",
            "attributes": {"brand": "Acme"},
        },
        {"item_id": "c", "category": "Tools", "title": "Saw", "image": None},
        {"item_id": "d", "category": "Tools", "title": "Axe", "image": "images/d.png"},
    ]
    for row, field in zip(rows, ("title", "image", None, "title"), strict=True):
        row["completed"] = field  # that of the last by a completion before this one
    folder = folder_with(tmp_path, rows)
    write_lines(folder / "incomplete.jsonl", [{"item_id": "c", "reason": "failed render", "detail": "black image"}])
    fault = {"file": "items.jsonl", "row": 5, "item_id": "e", "reason": "no title and no image"}
    write_lines(folder / "quarantine.jsonl", [fault])
    doubtful = replace(
        TITLE, item_id="a", value="Red pear", source="sibling", source_item="b", status="review", reasons=["size"]
    )
    image = replace(TITLE, item_id="b", field="image", value="images/b.png")
    failed = replace(image, item_id="c", value=None, status="failed")
    write_lines(folder / "proposals.jsonl", [one.to_json() for one in (doubtful, image, failed)])
    page = write_completion_page(folder, catalogue=Path("raw"), notes=["a caution"])
    html = page.read_text("utf-8")
    text = visible_text(html)
    assert "1 title and 1 image were filled; 1 item could not be." in text and "a caution" in text
    assert "The gate accepts 1 of them and leaves 1 to a review" in text and "1 title came from a variant" in text
    # items, titles filled, images filled, not filled
    assert "Fruit | 2 | 1 | 1 | 0" in text and "Tools | 2 | 0 | 0 | 1" in text
    assert "<mark>Red</mark> pear" in html  # its description has the word too
    assert "Acme" in text and "black image" in text and "no title and no image" in text
    assert "Axe" not in text and html.count("data:image/") == 2
    assert write_completion_page(folder, catalogue=Path("raw"), notes=["a caution"]).read_text("utf-8") == html


def test_examples_come_from_every_category_before_a_second_one_of_the_same(tmp_path):
    items = [("Many", f"m{i}") for i in range(50)] + [(f"Few {i}", f"f{i}") for i in range(6)]
    rows = [
        {"item_id": one, "category": name, "title": one, "image": None, "completed": "title"} for name, one in items
    ]
    folder = folder_with(tmp_path, [{"item_id": "x", "category": "x", "title": "x", "image": "images/x.png"}])
    write_lines(folder / "items.jsonl", rows)
    for name in ("incomplete.jsonl", "quarantine.jsonl"):
        (folder / name).write_text("")
    proposals = [replace(TITLE, item_id=one, value=one) for _, one in items]
    write_lines(folder / "proposals.jsonl", [one.to_json() for one in proposals])
    html = write_completion_page(folder, catalogue=Path("raw"), notes=[]).read_text("utf-8")
    cards = [name for name in dict.fromkeys(name for name, _ in items) if f"<bdi>{name}</bdi></span>" in html]
    assert cards == ["Many", *(f"Few {i}" for i in range(6))]
    assert "8 of 56" in visible_text(html)  # seven categories, then a second one of the only one that has it
