"""The smallest runs of the long commands that still do everything that a long one does."""

import json
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from grpo_mmpc.nano.catalogue import build_catalogue
from tests.drills.disturbing import Drill
from tests.recbench.catalogues import OFFLINE, small_catalogue

RECIPE = {
    "run_dir": "out",
    "model": {"name_or_path": "nano:qwen2_5_vl", "init_kwargs": {"dtype": "float32"}},
    "adapter": {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*\.(q|v)_proj"},
    "data": {"catalogue": "shop", "held_out": 0.2},
    "rewards": {"mix": [{"name": "bleu", "weight": 1.0}, {"name": "token_f1", "weight": 0.0}]},
    "trainer": {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_steps": 6,
        "max_completion_length": 24,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "ddp_find_unused_parameters": False,
    },
    "evaluation": {
        "max_items": 6,
        "metrics": ["bleu", "token_f1", "parse_rate"],
        "controls": ["other_title", "blank_image"],
        "encoders": dict.fromkeys(("bertscore", "clip", "sentence", "dinov2", "lpips", "inception")),
        "resamples": 100,
    },
}


def _recipe(folder: Path, **sections: dict[str, object]) -> None:
    content = {
        key: {**value, **sections.get(key, {})} if isinstance(value, dict) else value for key, value in RECIPE.items()
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))


def train(folder: Path, *, processes: int = 1) -> Drill:
    """Three checkpoints, each evaluated as the untrained model is; two controls and a report."""
    build_catalogue(folder / "shop", num_items=90, seed=11)
    _recipe(folder, trainer={"per_device_train_batch_size": 8 // processes})
    return Drill(
        folder=folder,
        command=["train", "recipe.yaml"],
        processes=processes,
        dated=("report.html", "summary.html"),
        added=lambda name: "/checkpoint-" in name,  # that of the step in which it was stopped
    )


def ablate(folder: Path) -> Drill:
    """Two mixes and the untrained model, two runs at a time, compared on one page."""
    build_catalogue(folder / "shop", num_items=90, seed=11)
    _recipe(folder, trainer={"max_steps": 2, "save_steps": 1}, evaluation={"checkpoints": False, "controls": []})
    content = {
        "name": "mixes",
        "base": ["recipe.yaml"],
        "overrides": {"report.enabled": False},
        "reference": "bleu",
        "axes": {"mix": {"bleu": {}, "token_f1": {"set": {"rewards.mix": [{"name": "token_f1", "weight": 1.0}]}}}},
        "seeds": [0],
    }
    (folder / "ablation.yaml").write_text(yaml.safe_dump(content))
    return Drill(
        folder=folder,
        command=["ablate", "ablation.yaml", "--out", "out", "--parallel", "2", "--run-anyway"],
        records=(".log", ".attempts.jsonl"),
        dated=("ablation.html",),
        added=lambda name: "/checkpoint-" in name,
    )


def evaluate(folder: Path) -> Drill:
    """Titles and images of many items, with every control."""
    build_catalogue(folder / "shop", num_items=300, seed=11)
    _recipe(
        folder,
        data={"held_out": 0.5},
        evaluation={
            "max_items": 48,
            "batch_size": 8,
            "tasks": ["image_to_text", "text_to_image"],
            "renderer": "nano",
            "controls": ["other_title", "blank_image", "shuffled_image", "raw_title"],
        },
    )
    return Drill(folder=folder, command=["evaluate", "recipe.yaml", "--base"])


def complete(folder: Path, *options: str) -> Drill:
    """A catalogue with many gaps."""
    build_catalogue(folder / "shop", num_items=120, seed=5)
    lines = (folder / "shop" / "items.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {0: {"title": None}, 1: {"image": None}}.get(i % 4, {}) for i, line in enumerate(lines)]
    (folder / "shop" / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    _recipe(folder, evaluation={"batch_size": 8, "renderer": "nano"})
    return Drill(
        folder=folder,
        command=["complete", "shop", "--out", "out", "--base", "--recipe", "recipe.yaml", *options],
        unordered=("renders.jsonl",),
    )


def data_amazon(folder: Path) -> Drill:
    """Metadata and reviews of many products."""
    with (folder / "meta_A.jsonl").open("w") as items, (folder / "A.jsonl").open("w") as reviews:
        for i in range(120_000):
            item = {
                "parent_asin": f"B{i}",
                "title": f"Mug &amp; Cup {i}",
                "description": ["<p>Holds.</p>"],
                "details": {},
            }
            items.write(json.dumps(item) + "\n")
            review = {"user_id": f"u{i % 900}", "parent_asin": f"B{i}", "timestamp": 1588687728923 + i, "rating": 4}
            reviews.write(json.dumps(review) + "\n")
    return Drill(folder=folder, command=["data", "amazon", "meta_A.jsonl", "--out", "out", "--reviews", "A.jsonl"])


def data_import(folder: Path) -> Drill:
    """An export of many rows, some with an image, here or on the web, some no items."""
    build_catalogue(folder / "photos", num_items=40, seed=5)
    images = sorted(path.relative_to(folder).as_posix() for path in (folder / "photos" / "images").iterdir())
    web = _serve(folder)
    places = [*images, *(f"{web}/{number}/{image}" for number in range(40) for image in [*images, "gone.jpg"])]
    lines = [f'{i};"Mug &amp; Cup {i}";{places[i // 9 % len(places)] if i % 9 == 0 else ""}\r\n' for i in range(30_000)]
    (folder / "shop.csv").write_text("id;name;photo\r\n" + "".join(lines) + ";;\r\n", newline="")
    return Drill(
        folder=folder,
        command=["data", "import", "shop.csv", "--out", "out", "--allow-host", "127.0.0.1"],
        unordered=("images_not_there.jsonl",),
    )


def _serve(folder: Path) -> str:
    """Serve a folder on the loopback, under any number, until this process ends; return where."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return super().translate_path("/" + path.split("/", 2)[2])

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Be silent about who was killed while it was answered."""

    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def recbench(folder: Path) -> Drill:
    """Two recommenders, three fills, two rates, two seeds, two processes."""
    small_catalogue(folder / "shop")
    grid = ("recommenders=[vbpr,most_popular]", "fills=[no_missing,zeros,random_matched]", "rates=[0.5,1.0]")
    settings = (*OFFLINE, "training.max_epochs=40", *grid, "training.parallel=2")
    return Drill(folder=folder, command=["recbench", *settings, "--catalogue", "shop", "--out", "out"])


COMMANDS: dict[str, Callable[[Path], Drill]] = {
    "train": train,
    "launched": lambda folder: train(folder, processes=2),
    "ablate": ablate,
    "evaluate": evaluate,
    "complete": complete,
    "recbench": recbench,
    "data_amazon": data_amazon,
    "data_import": data_import,
}
