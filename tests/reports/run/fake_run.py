"""Builds run folders that look like real ones, and odd ones, for the tests of the report.

    python -m tests.reports.run.fake_run OUT [plain|odd|wide|single_task|no_images|...]

The texts are made from attributes, the scores from the texts, so that the pages built from them can
be read.
"""

import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from grpo_mmpc.evaluation.metric_tables import find_metric
from grpo_mmpc.tasks import TASKS

CATEGORIES = (
    "All_Beauty",
    "Toys_and_Games",
    "Video_Games",
    "Home_and_Kitchen",
    "Electronics",
    "Industrial_and_Scientific",
    "Office_Products",
    "Musical_Instruments",
    "Arts_Crafts_and_Sewing",
)
TYPES = ("lipstick", "puzzle", "controller", "teapot", "headphones", "caliper", "notebook", "ukulele", "yarn")
COLORS = {"red": "#c8443c", "blue": "#3b6fb5", "green": "#4f9a5b", "black": "#2c2c30", "yellow": "#e0b53c"}
PATTERNS = ("striped", "dotted", "plain", "checked")
MATERIALS = ("cotton", "steel", "wood", "plastic")
SIZES = ("small", "medium", "large")
BRANDS = ("Velora", "Kestrel", "Nordvik", "Amaro")
KINDS = ("type", "color", "pattern", "material", "size", "pack", "brand")
TEXT_METRICS = (
    *("bleu", "chrf", "rouge_l", "token_f1", "jaccard", "tfidf_cosine", "bertscore_f1", "embedding_cosine"),
    *("attribute_recall", "parse_rate"),
)
IMAGE_METRICS = ("clip_image_image", "clip_text_image", "ssim", "parse_rate", "render_rate")
CONFIG = """run_dir: runs/fake
seed: 0
model:
  name_or_path: nano:qwen2_5_vl
adapter: {r: 16, lora_alpha: 32, target_modules: '.*language_model.*'}
data:
  catalogue: nano:catalogue
  held_out: 0.1
tasks: [image_to_text, text_to_image]
rewards:
  aggregation: normalize_then_sum
  mix:
  - {name: bleu, weight: 0.4}
  - {name: bertscore, weight: 0.4}
  - {name: clip_similarity, weight: 0.2, tasks: [text_to_image]}
  - {name: json_format, weight: 0.1}
  - {name: rouge_l, weight: 0.0}
trainer: {max_steps: 80, learning_rate: 0.0015, num_generations: 8}
"""

Row = dict[str, Any]
Edit = Callable[[list[Row]], list[Row]]
"""Changes the samples of one evaluation before they are written."""


def build_run(
    folder: Path,
    *,
    categories: Sequence[str] = CATEGORIES,
    items_per_category: int | Sequence[int] = 40,
    tasks: Sequence[str] = ("image_to_text", "text_to_image"),
    steps: int = 80,
    checkpoints: Sequence[str] = ("base", "checkpoint-20", "checkpoint-40", "checkpoint-60", "final"),
    images: bool = True,
    edit: Edit | None = None,
    config: str = CONFIG,
    compare: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> Path:
    """Write a whole run folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = [items_per_category] * len(categories) if isinstance(items_per_category, int) else items_per_category
    products = _products(folder / "catalogue", categories, counts, images=images, seed=seed)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    _write_manifest(
        folder, train_items=len(products) * 9, held_out_items=len(products), finished="final" in checkpoints
    )
    _write_metrics(folder / "metrics.jsonl", steps=steps, seed=seed)
    for position, checkpoint in enumerate(checkpoints):
        skill = 1.0 if checkpoint == "final" else 1 - math.exp(-1.1 * position)
        suite = folder / "evaluations" / checkpoint / "cqbench"
        suite.mkdir(parents=True)
        rows = [
            row
            for task in tasks
            for row in _samples(products, task, skill=skill, suite=suite, checkpoint=checkpoint, images=images)
        ]
        _write_evaluation(suite, edit(rows) if edit else rows, checkpoint=checkpoint)
    if compare and len(checkpoints) > 1:
        from grpo_mmpc.evaluation.comparison import write_comparison

        write_comparison(folder, resamples=resamples)
    return folder


def odd_run(folder: Path) -> Path:
    """A category of one item, an unscored metric, 5,000-character titles, right-to-left text,
    emoji, markup."""

    def edit(rows: list[Row]) -> list[Row]:
        for number, row in enumerate(rows):
            row["score/bertscore_f1"] = None
            if number % 7 == 0:
                row["reference"] = "حقيبة ظهر زرقاء مقاومة للماء مقاس كبير"
                row["prediction"] = row["prediction"] and "حقيبة زرقاء"
            elif number % 7 == 1:
                row["reference"] = f"🎸🔥 {row['reference']} 🇳🇴👩‍🔬"
            elif number % 7 == 2:
                row["reference"] = "word " * 1000
                row["prediction"] = "x" * 5000
            elif number % 7 == 3:
                row["reference"] = "<script>alert('title')</script>"
                row["completion"] = '"><img src=x onerror=alert(1)>'
                row["prediction"] = None if number % 2 else '"><img src=x onerror=alert(2)>'
                row["format"] = "malformed" if number % 2 else "json"
        return rows

    return build_run(
        folder,
        categories=('<b>Bold</b> & "quoted" category\'', "Lonely", "ألعاب", "🧸 Toys"),
        items_per_category=(12, 1, 8, 8),
        edit=edit,
        config=CONFIG + "note: '<script>alert(\"config\")</script>'\n",
    )


def wide_run(folder: Path) -> Path:
    """Forty categories with long names."""
    names = [f"Industrial_and_Scientific_Laboratory_Equipment_and_Consumables_of_Kind_{n:02d}" for n in range(40)]
    return build_run(folder, categories=names, items_per_category=8)


VARIANTS: dict[str, Callable[[Path], Path]] = {
    "plain": build_run,
    "odd": odd_run,
    "wide": wide_run,
    "single_task": lambda folder: build_run(folder, tasks=["image_to_text"]),
    "no_images": lambda folder: build_run(folder, images=False, items_per_category=8),
    "interrupted": lambda folder: build_run(folder, checkpoints=[], steps=23),
    "empty": lambda folder: ((folder / "evaluations").mkdir(parents=True, exist_ok=True), folder)[1],
}


def _products(
    catalogue: Path, categories: Sequence[str], counts: Sequence[int], *, images: bool, seed: int
) -> list[Row]:
    generator = random.Random(seed)
    products = []
    (catalogue / "images").mkdir(parents=True, exist_ok=True)
    for index, (category, count) in enumerate(zip(categories, counts, strict=True)):
        for number in range(count):
            attributes = {
                "type": TYPES[index % len(TYPES)],
                "color": generator.choice(list(COLORS)),
                "pattern": generator.choice(PATTERNS),
                "material": generator.choice(MATERIALS),
                "size": generator.choice(SIZES),
                "pack": str(generator.choice([1, 2, 4])),
                "brand": generator.choice(BRANDS),
            }
            path = catalogue / "images" / f"{index:02d}-{number:03d}.png"
            if images:
                _draw(attributes, path)
            products.append(
                {
                    "item_id": f"P{index:02d}{number:04d}",
                    "category": category,
                    "attributes": attributes,
                    "title": _title(attributes),
                    "image_path": str(path.resolve()) if images else None,
                }
            )
    return products


def _title(attributes: dict[str, str]) -> str:
    a = attributes
    pack = "" if a["pack"] == "1" else f", Pack of {a['pack']}"
    return (
        f"{a['brand']} {a['material'].title()} {a['type'].title()}, {a['pattern'].title()} {a['color'].title()}, "
        f"{a['size'].title()}{pack}"
    )


def _draw(attributes: dict[str, str], path: Path, *, color: str | None = None) -> None:
    picture = Image.new("RGB", (168, 168), "white")
    draw = ImageDraw.Draw(picture)
    half = {"small": 34, "medium": 48, "large": 64}[attributes["size"]]
    fill = color or COLORS[attributes["color"]]
    box = (84 - half, 84 - half, 84 + half, 84 + half)
    shape = TYPES.index(attributes["type"]) % 3
    if shape == 0:
        draw.rounded_rectangle(box, radius=18, fill=fill)
    elif shape == 1:
        draw.ellipse(box, fill=fill)
    else:
        draw.polygon([(84, 84 - half), (84 + half, 84 + half), (84 - half, 84 + half)], fill=fill)
    if attributes["pattern"] in ("striped", "checked"):
        for y in range(84 - half // 2, 84 + half // 2, 14):
            draw.line((84 - half // 2, y, 84 + half // 2, y), fill="white", width=4)
    if attributes["pattern"] == "checked":
        for x in range(84 - half // 2, 84 + half // 2, 14):
            draw.line((x, 84 - half // 2, x, 84 + half // 2), fill="white", width=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _samples(products: list[Row], task: str, *, skill: float, suite: Path, checkpoint: str, images: bool) -> list[Row]:
    rows = []
    for number, product in enumerate(products):
        # One stream per item, the same for every checkpoint: items differ, checkpoints move
        # together.
        generator = random.Random(f"{task}/{number}")
        malformed = generator.random() < 0.06 * (1 - skill)
        named = _named_attributes(product["attributes"], task, skill=skill, generator=generator)
        text = _prediction(named, task, skill=skill, generator=generator)
        prediction = None if malformed else text
        key = "title" if task == "image_to_text" else "prompt"
        rendered = None
        if task == "text_to_image" and prediction and images:
            rendered = f"rendered/{product['item_id']}.png"
            color = COLORS[named["color"]] if "color" in named else "#9a9a9a"
            _draw(product["attributes"] | {"size": named.get("size", "medium")}, suite / rendered, color=color)
        rows.append(
            {
                "item_id": product["item_id"],
                "category": product["category"],
                "task": task,
                "reference": product["title"],
                "image_path": product["image_path"],
                "completion": f"{text} It is" if malformed else json.dumps({key: text}),
                "prediction": prediction,
                "format": "malformed" if malformed else "json",
                "rendered_image": rendered,
                **_scores(product, prediction, task, rendered=rendered is not None),
            }
        )
    return rows


def _named_attributes(
    attributes: dict[str, str], task: str, *, skill: float, generator: random.Random
) -> dict[str, str]:
    """Attributes that the policy gets right; training helps with all of them but the material,
    which it forgets."""
    base = {"type": 0.93, "color": 0.62, "pattern": 0.3, "material": 0.42, "size": 0.15, "pack": 0.12, "brand": 0.3}
    gain = {"type": 0.02, "color": 0.25, "pattern": 0.3, "material": -0.2, "size": 0.35, "pack": 0.3, "brand": 0.25}
    scale = 1.0 if task == "image_to_text" else 0.25
    return {
        kind: value
        for kind, value in attributes.items()
        if generator.random() < base[kind] + scale * skill * gain[kind]
    }


def _prediction(named: dict[str, str], task: str, *, skill: float, generator: random.Random) -> str:
    if task == "text_to_image":
        words = [named.get(kind, "") for kind in ("size", "color", "pattern", "material", "type")]
        return "catalogue photo of a " + " ".join(filter(None, words)) + ", white background, studio light"
    if generator.random() < 1.1 - skill:
        words = [named.get(kind, "") for kind in ("color", "pattern", "material", "type")]
        return "A nice " + " ".join(filter(None, words)) + " on a white background"
    fillers = {"brand": "Generic", "type": "Item", "color": "Multicolor", "size": "One Size"}
    parts = fillers | named
    pack = f", Pack of {parts['pack']}" if parts.get("pack", "1") != "1" else ""
    look = f"{parts.get('pattern', '')} {parts['color']}".strip().title()
    what = f"{parts.get('material', '')} {parts['type']}".strip().title()
    return f"{parts['brand']} {what}, {look}, {parts['size'].title()}{pack}"


def _scores(product: Row, prediction: str | None, task: str, *, rendered: bool) -> Row:
    names = TEXT_METRICS if task == "image_to_text" else IMAGE_METRICS
    recall_names = [f"attribute_recall_{kind}" for kind in KINDS]
    scores: Row = {f"score/{name}": None for name in dict.fromkeys([*TEXT_METRICS, *IMAGE_METRICS, *recall_names])}
    reference = set(product["title"].lower().replace(",", "").split())
    words = set((prediction or "").lower().replace(",", "").split())
    overlap = len(reference & words)
    f1 = 2 * overlap / (len(reference) + len(words)) if prediction else 0.0
    wobble = (hash_share(product["item_id"]) - 0.5) * 0.04
    values = {
        "bleu": f1**1.6,
        "chrf": 0.15 + 0.75 * f1 if prediction else 0.0,
        "rouge_l": 0.96 * f1,
        "token_f1": f1,
        "jaccard": f1 / (2 - f1),
        "tfidf_cosine": f1**1.2,
        "bertscore_f1": 0.35 + 0.55 * f1 + wobble if prediction else 0.0,
        "embedding_cosine": 0.45 + 0.45 * f1 + wobble if prediction else 0.0,
        "parse_rate": float(prediction is not None),
        "render_rate": float(rendered),
        "clip_image_image": 0.62 + 0.3 * f1 + wobble if rendered else 0.0,
        "clip_text_image": 0.24 + 0.08 * f1 + wobble if rendered else 0.0,
        "ssim": 0.5 + 4 * wobble if rendered else 0.0,
    }
    hits = {kind: float(value.lower() in words) for kind, value in product["attributes"].items()}
    values["attribute_recall"] = sum(hits.values()) / len(hits)
    scores |= {f"score/{name}": values[name] for name in names}
    if task == "image_to_text":
        scores |= {f"score/attribute_recall_{kind}": hit for kind, hit in hits.items()}
    return scores


def hash_share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return random.Random(text).random()


def _write_evaluation(suite: Path, rows: list[Row], *, checkpoint: str) -> None:
    if not rows:
        return
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {
        name: pa.array(values, pa.float64() if name.startswith("score/") else pa.string())
        for name, values in columns.items()
    }
    statistics = _corpus_bleu_statistics(columns)
    arrays |= {"stat/corpus_bleu": pa.array(statistics, pa.list_(pa.float64()))}
    pq.write_table(pa.table(arrays), suite / "samples.parquet")
    tasks: dict[str, Any] = {}
    for task in dict.fromkeys(columns["task"]):
        of_task = [row for row in rows if row["task"] == task]
        tasks[task] = {
            "metrics": _means(of_task),
            "categories": {
                category: _means([row for row in of_task if row["category"] == category])
                for category in dict.fromkeys(row["category"] for row in of_task)
            },
        }
    summary = {"suite": "cqbench", "version": "1", "checkpoint": checkpoint, "key": "0" * 16, "seconds": 9.5}
    (suite / "summary.json").write_text(json.dumps(summary | {"tasks": tasks}))


def _corpus_bleu_statistics(columns: dict[str, list[Any]]) -> list[list[float] | None]:
    from grpo_mmpc.metrics.metric import MetricInputs
    from grpo_mmpc.metrics.table import METRICS

    inputs = MetricInputs(task="image_to_text", predictions=columns["prediction"], references=columns["reference"])
    score = METRICS["corpus_bleu"].statistics
    assert score is not None
    rows = score(inputs).tolist()
    return [row if task == "image_to_text" else None for row, task in zip(rows, columns["task"], strict=True)]


def _means(rows: list[Row]) -> Row:
    means = {}
    for name in (name for name in rows[0] if name.startswith("score/")):
        scored = [row[name] for row in rows if row[name] is not None]
        mean = sum(scored) / len(scored) if scored else None
        means[name.removeprefix("score/")] = {"mean": mean, "n": len(rows), "n_scored": len(scored)}
    kind = TASKS[rows[0]["task"]].kind
    own = {name for name in means if kind in find_metric(name, mode="corrected").targets}
    corpus_level = {"corpus_bleu": {"mean": None, "n": len(rows), "n_scored": len(rows)}} if kind == "text" else {}
    return {name: cell for name, cell in means.items() if name in own} | corpus_level


def _write_manifest(folder: Path, *, train_items: int, held_out_items: int, finished: bool) -> None:
    manifest = {
        "command": "grpo-mmpc train recipes/nano.yaml recipes/mixes/bleu_bertscore.yaml run_dir=runs/fake",
        "started": "2026-11-22T08:14:03+00:00",
        "finished": "2026-11-22T08:18:50+00:00" if finished else None,
        "seconds": 287.4 if finished else None,
        "seed": 0,
        "git_revision": "3f1c2ab9d0e4",
        "versions": {"grpo_mmpc": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "trl": "1.16.0", "peft": "0.19.1"},
        "hardware": {"cpu": "2 cores", "memory_gib": 15.6, "accelerator": None},
        "data": {
            "catalogue": "nano:catalogue",
            "fingerprint": "9b2e61f0c7d85a34",
            "train_items": train_items,
            "held_out_items": held_out_items,
            "quarantined": 3,
        },
        "trainable_parameters": 245_760,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _write_metrics(path: Path, *, steps: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    lines = []
    for step in range(1, steps + 1):
        progress = 1 - math.exp(-step / 25)
        noise = generator.normal(size=6)
        lines.append(
            json.dumps(
                {
                    "step": step,
                    "reward": 0.32 + 0.3 * progress + 0.03 * noise[0],
                    "reward_std": 0.18 - 0.05 * progress,
                    "rewards/bleu/mean": 0.18 + 0.33 * progress + 0.04 * noise[1],
                    "rewards/bertscore/mean": 0.48 + 0.22 * progress + 0.03 * noise[2],
                    "rewards/clip_similarity/mean": 0.7 + 0.06 * progress + 0.02 * noise[3],
                    "rewards/json_format/mean": min(1.0, 0.93 + 0.07 * progress + 0.01 * noise[4]),
                    "rewards/rouge_l/mean": None if step % 10 == 0 else 0.33 + 0.3 * progress + 0.03 * noise[5],
                    "rewards/bleu/std": 0.2,
                    "loss": 0.01 * noise[0],
                    "completions/mean_length": 19 + 4 * progress + noise[1],
                    "dead_group_share": max(0.0, 0.02 + 0.2 * progress + 0.05 * noise[2]),
                    "learning_rate": 0.0015 * (1 - step / steps),
                    "step_time": 1.9 + 0.1 * noise[3],
                    "tokens_per_second": 640 + 20 * noise[4],
                }
            )
        )
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    VARIANTS[sys.argv[2] if len(sys.argv) > 2 else "plain"](Path(sys.argv[1]))
