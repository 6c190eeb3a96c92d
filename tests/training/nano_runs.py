"""Runs of the nano policy with rewards of this folder: how tests make them and look at them."""

from pathlib import Path

import pyarrow.parquet as pq
import torch

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.training.session import TrainingSession

REWARDS = Path(__file__).parent / "counting_rewards.py"
QUIET = {"before": False, "checkpoints": False}
SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


def mix(**weights: float) -> dict:
    """A reward mix of this folder's own rewards."""
    return {"mix": [{"name": f"{REWARDS}:{name}", "weight": weight} for name, weight in weights.items()]}


def rollouts(config: RunConfig) -> list[dict]:
    files = sorted((Path(config.run_dir) / "rollouts").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def session_for(config: RunConfig) -> TrainingSession:
    data = RunData(config)
    Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    return TrainingSession(config, data)


def assert_same_result(a: RunConfig, b: RunConfig) -> None:
    last = "checkpoints/checkpoint-4"
    first, second = adapter(Path(a.run_dir) / last), adapter(Path(b.run_dir) / last)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert [(r["step"], r["completion"]) for r in rollouts(a)] == [(r["step"], r["completion"]) for r in rollouts(b)]
