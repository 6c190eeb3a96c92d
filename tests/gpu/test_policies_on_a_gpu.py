"""GRPO runs of the nano policies on a GPU, in both architectures and both tasks."""

import json
import math
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import ModelSection
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.rollout.transformers_engine import TransformersEngine
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_rows
from grpo_mmpc.types import SamplingConfig
from tests.gpu.conftest import DEVICE

BOTH = pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])
ON_GPU = {"use_cpu": False, "bf16": True}


def completions(run_dir: str) -> list[list[str]]:
    files = sorted((Path(run_dir) / "rollouts").glob("*.parquet"))
    return [pq.read_table(file)["completion"].to_pylist() for file in files]


@BOTH
def test_greedy_answers_in_fp32_are_those_of_a_cpu(make_config, architecture):
    data = RunData(make_config(architecture))
    rows = prompt_rows(data.catalogue, data.train[:8], list(TASKS))
    section = ModelSection(name_or_path=f"nano:{architecture}", init_kwargs={"dtype": "float32"})
    sampling = SamplingConfig(max_tokens=48, temperature=0.0)
    said = {}
    for device in ("cpu", DEVICE):
        model = load_policy(section).to(device)
        said[device] = TransformersEngine(model, load_processor(section), batch_size=8).generate(rows, sampling)
    assert said[DEVICE] == said["cpu"]
    assert len(set(said["cpu"])) > len(rows) / 2


@BOTH
def test_a_run_in_bf16_moves_adapters_only_and_compares_before_with_after(make_config, architecture):
    config = make_config(
        architecture,
        tasks=list(TASKS),
        rewards={
            "mix": [
                {"name": "bleu", "weight": 0.6},
                {"name": "clip_similarity", "weight": 0.4, "kwargs": {"model": "nano:clip", "floor": -1.0}},
            ]
        },
        trainer={
            **ON_GPU,
            "max_steps": 4,
            "per_device_train_batch_size": 16,
            "save_strategy": "steps",
            "save_steps": 2,
        },
        evaluation={
            "encoders": {"clip": {"model": "nano:clip"}},
            "controls": ["blank_image"],
            "before": True,
            "checkpoints": True,
        },
        report={"enabled": True},
    )
    run_training(config)
    run_dir = Path(config.run_dir)
    logged = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(logged) >= 4
    assert all(math.isfinite(entry["loss"]) for entry in logged if "loss" in entry)
    assert any(entry.get("grad_norm", 0.0) > 0.0 for entry in logged)
    compared = json.loads((run_dir / "comparison.json").read_text())["tasks"]
    assert set(compared) == set(TASKS)
    assert compared["image_to_text"]["metrics"]["bleu"]["n_scored"] == 6
    assert compared["text_to_image"]["metrics"]["clip_image_image"]["n_scored"] == 6
    assert (run_dir / "report.html").is_file()


def test_evaluations_move_no_random_state_of_the_gpu(make_config, tmp_path):
    runs = []
    for name, before in (("with", True), ("without", False)):
        config = make_config(
            run_dir=str(tmp_path / name),
            trainer={**ON_GPU, "bf16": False, "max_steps": 2, "save_strategy": "steps", "save_steps": 1},
            evaluation={"before": before, "checkpoints": before},
        )
        run_training(config)
        runs.append(completions(config.run_dir))
    assert runs[0] == runs[1]
    assert len(runs[0]) == 2


def test_a_resumed_run_continues_as_the_uninterrupted_one(make_config, tmp_path):
    whole = make_config(
        run_dir=str(tmp_path / "whole"),
        trainer={**ON_GPU, "bf16": False, "max_steps": 4, "save_strategy": "steps", "save_steps": 2},
        evaluation={"before": False, "checkpoints": False},
    )
    run_training(whole)
    resumed = whole.model_copy(update={"run_dir": str(tmp_path / "resumed")})
    shutil.copytree(whole.run_dir, resumed.run_dir)
    shutil.rmtree(Path(resumed.run_dir) / "checkpoints/checkpoint-4")
    (Path(resumed.run_dir) / "config.yaml").write_text(resumed.to_yaml())
    run_training(resumed)
    assert completions(resumed.run_dir) == completions(whole.run_dir)
    assert len(completions(whole.run_dir)) == 4
