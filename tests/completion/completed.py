"""A completed catalogue of six items, written by hand."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from grpo_mmpc.completion.proposal import Proposal

ASKED: dict[str, Any] = {"policy": "1f", "model": "nano:gemma3", "adapter": None, "prompt": "9a", "sampling": {}}


def write_completed(folder: Path) -> Path:
    """Two whole items, three titles (accepted, waiting, failed) and one waiting image.

    B1 has a title of words that B2 shares; B6 holds a title as markup.
    """
    (folder / "images/generated").mkdir(parents=True)
    rows = [
        item("B1", "Acme Kettle, Red, 1.7 l"),
        item("B2", "Acme Kettle, Blue", completed="title", attributes={"brand": "Acme", "color": "blue"}),
        item("B3", "Grand Mug", completed="title", category="Home_Garden"),
        item("B4", None),
        item("B5", "Wool Hat", completed="image", image="images/generated/B5.png"),
        item("B6", "<img src=x onerror=\"document.body.dataset.owned='1'\"> & Spoon"),
    ]
    for number, row in enumerate(rows):
        Image.new("RGB", (64, 48), (30 * number, 90, 160)).save(folder / row["image"])
    proposals = [
        Proposal(item_id="B2", field="title", value=rows[1]["title"], status="accepted", confidence=0.9, **ASKED),
        Proposal(
            item_id="B3",
            field="title",
            value="Grand Mug",
            status="review",
            confidence=0.4,
            signals={"agreement": 0.4},
            reasons=["color: too few samples agree"],
            **ASKED,
        ),
        Proposal(item_id="B4", field="title", value=None, status="failed", reasons=["malformed completion"], **ASKED),
        Proposal(item_id="B5", field="image", value=rows[4]["image"], status="review", **ASKED),
    ]
    write_lines(folder / "items.jsonl", rows)
    write_lines(folder / "proposals.jsonl", [one.to_json() for one in proposals])
    write_lines(folder / "interactions.jsonl", [{"user_id": "u", "item_id": "B1", "timestamp": 1, "rating": 5}])
    (folder / "quarantine.jsonl").write_text("")
    return folder


def item(item_id: str, title: str | None, **more: Any) -> dict[str, Any]:
    row = {"item_id": item_id, "category": "Kitchen", "title": title, "description": None, "attributes": None}
    return row | {"image": f"images/{item_id}.png", "completed": None, "shelf": f"A{item_id}"} | more


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def decision(item_id: str, kind: str, value: str | None, *, field: str = "title", by: str = "Ann") -> dict[str, Any]:
    when = "2026-01-31T12:00:00+00:00"
    return {"item_id": item_id, "field": field, "decision": kind, "value": value, "when": when, "by": by}
