"""Run folders as a run writes them while it goes on, for the tests of the live view."""

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CONFIG = """run_dir: {folder}
method: grpo
model: {{name_or_path: nano:qwen2_5_vl}}
data: {{catalogue: {catalogue}}}
tasks: [image_to_text]
rewards:
  mix:
  - {{name: bleu, weight: 0.5}}
  - {{name: "mine.py:brand", weight: 0.5}}
  - {{name: rouge_l, weight: 0.0}}
trainer: {{max_steps: 10}}
"""


def begin(folder: Path, *, finished: bool = False) -> Path:
    """Write what a run writes before its first step: recipe, manifest, catalogue."""
    catalogue = folder.parent / "catalogue"
    (catalogue / "images").mkdir(parents=True, exist_ok=True)
    (catalogue / "items.jsonl").write_text("")
    Image.new("RGB", (8, 8), "red").save(catalogue / "images" / "a.png")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder, catalogue=catalogue))
    manifest = {"started": "2026-01-01T00:00:00+00:00", "suite": {"items": 40}}
    if finished:
        manifest |= {"finished": "2026-01-01T01:00:00+00:00", "seconds": 3600.0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def hold(folder: Path, *, pid: int | None = None, machine: str | None = None) -> None:
    """Write the words of the process that trains: this one, unless another is named."""
    words = f"process {pid or os.getpid()} on {machine or os.uname().nodename}\n"
    (folder / ".train.lock").write_text(words)


def row(step: int, **more: float | str | None) -> dict:
    """Return a line of metrics: the reward is a hundredth of the step."""
    return {
        "step": step,
        "reward": step / 100,
        "reward_std": 0.25,
        "rewards/bleu/mean": step / 50,
        "signal/bleu/within_group_std": 0.125,
        "signal/bleu/dead_groups": 0.5,
        "rewards/brand/mean": None,
        "dead_group_share": 0.5,
        "step_time": 3.0,
        "memory/peak_gib": 1.75,
    } | more


def log(folder: Path, *rows: dict) -> None:
    """Append lines to ``metrics.jsonl``."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(one)}\n" for one in rows)


def record(folder: Path, step: int, *, texts: tuple[str, ...] = ("a red mug", "a red mug", "{"), **columns) -> Path:
    """Write the rollouts of a step, one group, the later texts of the smaller advantage."""
    count = len(texts)
    values = {
        "step": [step] * count,
        "prompt_id": ["image_to_text:a"] * count,
        "item_id": ["a"] * count,
        "category": ["Mugs"] * count,
        "task": ["image_to_text"] * count,
        "prompt": ["Write the title."] * count,
        "completion": list(texts),
        "prediction": [None if text == "{" else text for text in texts],
        "reward/bleu": [0.5 if text != "{" else 0.0 for text in texts],
        "reward/brand": [None] * count,
        "weighted/bleu": [0.25 if text != "{" else 0.0 for text in texts],
        "weighted/brand": [None] * count,
        "advantage": [0.5 if text != "{" else -1.0 for text in texts],
        "image_path": [str(folder.parent / "catalogue" / "images" / "a.png")] * count,
    } | {name: [value] * count for name, value in columns.items()}
    path = folder / "rollouts" / f"step-{step:06d}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(values), path)
    return path


def written(path: Path, *, ago_s: float) -> None:
    """Make a file or folder look as if it had been written a while ago."""
    os.utime(path, (time.time() - ago_s,) * 2)
