"""A stand-in for training, ``fake_train.py -m grpo_mmpc train CONFIG``.

Writes what a run writes: recipe, a checkpoint and a line of metrics every step, rollouts, the final
evaluation, the manifest. Logs every start to ``starts.log`` of the ablation's folder, with its
process id and whether it continues. A file ``fail`` beside the recipe makes it fail.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from grpo_mmpc.training.checkpoint import seal

STEP_S = float(os.environ.get("FAKE_STEP_S", "0.1"))
ITEMS = 20


def write_evaluation(folder: Path, *, quality: float, checkpoint: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scores = [min(1.0, quality + 0.02 * (i % 5)) for i in range(ITEMS)]
    columns = {
        "item_id": [f"item-{i}" for i in range(ITEMS)],
        "category": [f"category-{i % 3}" for i in range(ITEMS)],
        "task": ["image_to_text"] * ITEMS,
        "reference": [f"red <b>mug</b> {i}" for i in range(ITEMS)],
        "image_path": [None] * ITEMS,
        "completion": [f"{checkpoint} <script>alert({i})</script>" for i in range(ITEMS)],
        "prediction": [f"{checkpoint} <script>alert({i})</script>" for i in range(ITEMS)],
        "rendered_image": pa.array([None] * ITEMS, pa.string()),
        "score/bleu": scores,
        "score/rouge_l": scores,
    }
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    summary = {
        "suite": "cqbench",
        "version": 2,
        "mode": "corrected",
        "settings": {},
        "checkpoint": checkpoint,
        "tasks": {},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def write_checkpoint(folder: Path) -> None:
    saving = folder.with_name(".saving")
    saving.mkdir(parents=True)
    (saving / "trainer_state.json").write_text(json.dumps({"global_step": int(folder.name.rpartition("-")[2])}))
    seal(saving, folder, reward_state={})


def main() -> int:
    *_, command, config_path = sys.argv
    assert command == "train"
    config = yaml.safe_load(Path(config_path).read_text())
    run, steps = Path(config["run_dir"]), config["trainer"]["max_steps"]
    checkpoints = run / "checkpoints"
    done = max((int(path.name.removeprefix("checkpoint-")) for path in checkpoints.glob("checkpoint-*")), default=0)
    with (run.parents[1] / "starts.log").open("a") as log:
        log.write(f"{run.parent.name}/{run.name} {os.getpid()}{' continues' if done else ''}\n")
    if (run.parent / "fail").exists():
        print("Traceback: the fake run has to fail")
        return 1
    shutil.rmtree(checkpoints / ".saving", ignore_errors=True)
    (run / "rollouts").mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(Path(config_path).read_text())
    for step in range(done + 1, steps + 1):
        time.sleep(STEP_S)
        table = pa.table({"prompt_id": [f"{config['seed']}-{step}-{i}" for i in range(3)]})
        pq.write_table(table, run / "rollouts" / f"step-{step:06d}.parquet")
        with (run / "metrics.jsonl").open("a") as metrics:
            row = {"step": step, "reward": 0.1 * step, "step_time": 0.5, "tokens_per_second": 100.0}
            metrics.write(json.dumps(row) + "\n")
        write_checkpoint(checkpoints / f"checkpoint-{step}")
    reward = config["rewards"]["mix"][0]["name"]
    quality = 0.3 + 0.001 * config["seed"] + (0.2 if reward == "token_f1" else 0.0)
    write_evaluation(run / "evaluations" / "final" / "cqbench", quality=quality, checkpoint="final")
    (run / "manifest.json").write_text(json.dumps({"finished": "now"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
