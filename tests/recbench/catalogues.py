"""Catalogue folders small enough to benchmark in seconds."""

import json
from pathlib import Path

from PIL import Image

from grpo_mmpc.catalogue import Catalogue, load_catalogue
from grpo_mmpc.config import load_as
from grpo_mmpc.recbench.settings import RecBenchSection

COLORS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 30), "black": (20, 20, 20)}
OFFLINE = (
    'encoders={text: {model: "nano:minilm"}, image: {model: "nano:clip"}}',
    "training.max_epochs=3",
    "seeds=[0,1]",
)


def settings_for(*overrides: str) -> RecBenchSection:
    """Settings of a benchmark with embedded encoders and little training."""
    return load_as(RecBenchSection, [], [*OFFLINE, *overrides])


def small_catalogue(
    folder: Path, *, categories: tuple[str, ...] = ("Bags", "Mugs"), per_category: int = 32
) -> Catalogue:
    """Items in four colours; each category's twelve users take eight items of one colour each."""
    (folder / "images").mkdir(parents=True)
    items, interactions = [], []
    for category in categories:
        for number in range(per_category):
            color, item_id = list(COLORS)[number % 4], f"{category}-{number:02d}"
            Image.new("RGB", (32, 32), COLORS[color]).save(folder / "images" / f"{item_id}.png")
            items.append(
                {
                    "item_id": item_id,
                    "category": category,
                    "title": f"{color} {category.lower()} number {number}",
                    "image": f"images/{item_id}.png",
                    "attributes": {"brand": "Acme" if number % 2 else "Nord"},
                }
            )
        interactions += [
            {
                "user_id": f"{category}-user-{user}",
                "item_id": f"{category}-{number:02d}",
                "timestamp": step,
                "rating": 5,
            }
            for user in range(12)
            for step, number in enumerate(range(user % 4, per_category, 4))
        ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    (folder / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in interactions), "utf-8")
    return load_catalogue(folder)
