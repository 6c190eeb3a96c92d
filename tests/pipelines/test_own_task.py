"""A task of a stranger's own, from two YAML files to the report, on the nano policy."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from grpo_mmpc.completion.plan import completing_tasks
from grpo_mmpc.config import load_config
from grpo_mmpc.pipelines.train import run_training

GERMAN = """
source: [images, category]
target: description
language: German
instruction: 'Beschreibe dieses Produkt auf Deutsch, als {"description": "..."}.'
max_tokens: 12
max_images: 2
"""
FACTS = """
base: image_to_attributes
properties: {color: {}, pack: {type: integer}}
max_tokens: 12
"""
RECIPE = {
    "tasks": ["german.yaml", "facts.yaml"],
    "rewards": {"mix": [{"name": "chrf", "weight": 1.0}, {"name": "attribute_f1", "weight": 1.0}]},
    "trainer": {
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 12,
        "save_steps": 1,
    },
    "evaluation": {
        "tasks": None,
        "max_items": 9,
        "max_tokens": {},
        "renderer": None,
        "controls": ["other_title", "shuffled_image"],
        "checkpoints": False,
        "encoders": dict.fromkeys(("bertscore", "clip", "sentence", "dinov2", "lpips", "inception")),
    },
}


@pytest.mark.slow
def test_a_task_of_ones_own_is_trained_measured_and_reported_from_yaml_alone(small_catalogue, tmp_path):
    catalogue = tmp_path / "catalogue"
    shutil.copytree(small_catalogue, catalogue)
    (items,) = catalogue.glob("items.*")
    rows = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
    for row, other in zip(rows, rows[::-1], strict=True):
        row["images"] = [other["image"]]
    items.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "german.yaml").write_text(GERMAN, encoding="utf-8")
    (tmp_path / "facts.yaml").write_text(FACTS, encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    nano = os.path.relpath(Path(__file__).parents[2] / "recipes/nano.yaml", tmp_path)
    own = {"base": nano, "run_dir": str(tmp_path / "run"), "data": {"catalogue": str(catalogue)}}
    recipe.write_text(yaml.safe_dump(own | RECIPE), encoding="utf-8")

    assert run_training([str(recipe)]) == 0

    run = tmp_path / "run"
    recorded = load_config([run / "config.yaml"])
    assert recorded.known_tasks["german"].language == "German", "config.yaml is whole by itself"
    folder = run / "evaluations/final/cqbench"
    tasks = json.loads((folder / "summary.json").read_text())["tasks"]
    assert {"chrf", "parse_rate"} <= set(tasks["german"]["metrics"])
    assert {"attribute_f1", "attribute_recall_color", "attribute_exact_pack"} <= set(tasks["facts"]["metrics"])
    assert "bleu" not in tasks["facts"]["metrics"]
    truth = {row["item_id"]: row for row in rows}
    for sample in pq.read_table(folder / "samples.parquet").to_pylist():
        row = truth[sample["item_id"]]
        expected = row["description"] if sample["task"] == "german" else {"color": row["attributes"]["color"]}
        if sample["task"] == "german":
            assert sample["reference"] == expected
        else:
            assert json.loads(sample["reference"]).items() >= expected.items()
    rollouts = pq.read_table(next((run / "rollouts").glob("*.parquet")))
    assert set(rollouts["task"].to_pylist()) <= {"german", "facts"}
    control = json.loads((run / "evaluations/control-other_title/cqbench/summary.json").read_text())["tasks"]
    assert control["german"]["metrics"]["parse_rate"]["mean"] == 1.0, "another item's description is a valid answer"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "German" in page
    assert "Attribute F1" in page
    assert list(completing_tasks(recorded)) == ["german", "facts"]
