"""Training every weight (``adapter: null``): a checkpoint is a model of its own."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from grpo_mmpc.cli import main
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import AdapterError, ConfigError, TrainingError
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.models.policy import load_policy, whole_model
from grpo_mmpc.pipelines.evaluate import run_evaluation
from grpo_mmpc.pipelines.recipe import load_policy_recipe, load_recipe
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.training.arguments import check_sharded_policy

REWARDS = Path(__file__).parent / "counting_rewards.py"
STEPS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-4, "beta": 0.02}


@pytest.fixture(scope="module")
def config(config_in, tmp_path_factory):
    mix = {"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]}
    config = config_in(tmp_path_factory.mktemp("whole") / "run", adapter=None, rewards=mix, trainer=STEPS)
    assert run_training(config) == 0
    return config


def checkpoint(config: RunConfig, step: int = 2) -> Path:
    return Path(config.run_dir) / "checkpoints" / f"checkpoint-{step}"


def completions(folder: Path) -> list[str]:
    return [row["completion"] for row in pq.read_table(folder / "samples.parquet").to_pylist()]


def evaluated(config: RunConfig, name: str) -> list[str]:
    return completions(Path(config.run_dir) / "evaluations" / name / "cqbench")


def test_every_weight_moves_and_a_checkpoint_is_a_model_with_its_processor(config):
    before, after = load_policy(config.model), load_policy(whole_model(config.model, checkpoint(config)))
    still = [
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if torch.equal(old, new)
    ]
    assert still == []
    names = {path.name for path in checkpoint(config).iterdir()}
    assert names >= {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "reward_state.json"}
    as_base = config.model.model_copy(update={"name_or_path": str(checkpoint(config))})
    assert all(torch.equal(a, b) for a, b in zip(load_policy(as_base).parameters(), after.parameters(), strict=True))


def test_an_evaluation_of_the_checkpoint_is_that_of_the_run_and_is_known_by_content(config, tmp_path, capsys):
    moved = Path(shutil.copytree(checkpoint(config), tmp_path / "moved"))
    assert policy_identity(config, adapter=moved) == policy_identity(config, adapter=checkpoint(config))
    assert policy_identity(config, adapter=moved) != policy_identity(config, adapter=checkpoint(config, 1))
    folder = run_evaluation(config, checkpoint=moved, out=tmp_path / "out")
    assert completions(folder) == evaluated(config, "checkpoint-2") == evaluated(config, "final")
    run_evaluation(config, checkpoint=moved, out=tmp_path / "out")
    assert "all is evaluated; nothing was to do" in capsys.readouterr().out


def test_a_catalogue_is_completed_by_the_checkpoint_of_a_run_with_the_run_s_own_recipe(
    config, small_catalogue, tmp_path
):
    shop = Path(shutil.copytree(small_catalogue, tmp_path / "shop"))
    rows = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()][:4]
    (shop / "items.jsonl").write_text("".join(json.dumps(row | {"title": None}) + "\n" for row in rows))
    arguments = [str(shop), "--out", str(tmp_path / "out"), "--checkpoint", str(checkpoint(config, 1))]
    assert main(["complete", *arguments]) == 0
    proposals = [json.loads(line) for line in (tmp_path / "out" / "proposals.jsonl").read_text().splitlines()]
    expected = policy_identity(load_policy_recipe([], checkpoint=checkpoint(config, 1)), adapter=checkpoint(config, 1))
    assert proposals and {proposal["policy"] for proposal in proposals} == {expected}


def test_a_run_that_lost_evaluations_makes_them_again_with_the_weights_of_then(config, tmp_path):
    run = config.model_copy(update={"run_dir": str(shutil.copytree(config.run_dir, tmp_path / "run"))})
    for name in ("base", "checkpoint-1"):
        shutil.rmtree(tmp_path / "run" / "evaluations" / name)
    (tmp_path / "run" / "config.yaml").write_text(run.to_yaml())
    assert run_training(run) == 0
    for name in ("base", "checkpoint-1", "final"):
        assert evaluated(run, name) == evaluated(config, name)


def test_a_resumed_run_ends_with_the_weights_of_the_uninterrupted_one(config, tmp_path):
    run = config.model_copy(update={"run_dir": str(shutil.copytree(config.run_dir, tmp_path / "run"))})
    shutil.rmtree(checkpoint(run))
    (tmp_path / "run" / "config.yaml").write_text(run.to_yaml())
    assert run_training(run) == 0
    ours, theirs = (load_file(checkpoint(which) / "model.safetensors") for which in (run, config))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_whole_model_without_weights_is_refused_before_a_model_loads(config, tmp_path):
    broken = Path(shutil.copytree(checkpoint(config), tmp_path / "broken"))
    (broken / "model.safetensors").unlink()
    with pytest.raises(AdapterError, match="lacks weights; copy the whole folder"):
        run_evaluation(config, checkpoint=broken)
    elsewhere = {"weight_map": {"lm_head.weight": os.path.relpath(checkpoint(config) / "model.safetensors", broken)}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(elsewhere))
    with pytest.raises(AdapterError, match="lacks weights; copy the whole folder"):
        run_evaluation(config, checkpoint=broken)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.init_from=runs/x", "is an adapter, and adapter: null trains every weight"),
        ("model.quantization=nf4", "4-bit weights cannot be trained; give an adapter"),
    ],
)
def test_what_cannot_work_without_an_adapter_is_refused_by_name(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(["recipes/nano.yaml", "adapter=null", override])


def test_sharding_by_fsdp_is_refused_for_whole_models_and_for_weights_in_4_bits(make_config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for changes, message in (
        ({"adapter": None}, "adapter: null cannot be continued under FSDP"),
        ({"model": {"quantization": "nf4"}}, "weights in 4 bits are not sharded here; use launch/accelerate/ddp.yaml"),
    ):
        config = make_config(**changes)
        with pytest.raises(TrainingError, match=message):
            check_sharded_policy(config, SimpleNamespace(deepspeed_plugin=None))


def test_servers_are_refused_for_whole_models():
    with pytest.raises(ConfigError, match=r"only adapters travel to servers; set rollout\.mode=colocate"):
        load_recipe(["recipes/nano.yaml", "adapter=null", "rollout.backend=vllm", "rollout.mode=server"])


def test_a_vllm_gets_every_weight_after_each_update_and_is_the_base_model_when_asked(config_in, config, tmp_path):
    pytest.importorskip("vllm")
    mix = {"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]}
    rollout = {"backend": "vllm", "engine": {"max_model_len": 160}}
    trainer = STEPS | {"learning_rate": 1e-3}
    run = config_in(tmp_path / "run", adapter=None, rewards=mix, trainer=trainer, rollout=rollout)
    assert run_training(run) == 0
    reports = [json.loads(line) for line in (tmp_path / "run" / "parity.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports] == [0, 1, 2]
    assert all(report["problems"] == [] and report["max_difference"] < 1e-4 for report in reports)
    assert evaluated(run, "base") == evaluated(config, "base")
    # As Transformers answers with the same weights.
    folder = run_evaluation(
        run.model_copy(update={"rollout": config.rollout}), checkpoint=checkpoint(run), out=tmp_path / "out"
    )
    assert completions(folder) == evaluated(run, "checkpoint-2")


@pytest.mark.slow
def test_the_weights_of_another_architecture_arrive_too(config_in, tmp_path):
    pytest.importorskip("vllm")
    run = config_in(
        tmp_path / "run",
        "gemma3",
        adapter=None,
        model={"image_attention": "causal"},
        rewards={"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]},
        rollout={"backend": "vllm", "engine": {"max_model_len": 160}},
        trainer=STEPS | {"learning_rate": 1e-3, "save_strategy": "no"},
        evaluation={"before": False, "checkpoints": False},
    )
    assert run_training(run) == 0
    reports = [json.loads(line) for line in (tmp_path / "run" / "parity.jsonl").read_text().splitlines()]
    assert len(reports) == 3
    assert all(report["problems"] == [] and report["max_difference"] < 1e-4 for report in reports)
