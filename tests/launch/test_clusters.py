"""Files for clusters: linted, and started with stand-ins for Slurm's commands and two CPU nodes."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from grpo_mmpc.analysis.plan.hardware import DEVICES, GIB
from grpo_mmpc.analysis.plan.plan import make_plan
from grpo_mmpc.cli import parse_arguments
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.loading import merge_layers, validate
from grpo_mmpc.models.shapes import read_shape

ROOT = Path(__file__).parents[2]
SLURM = sorted((ROOT / "launch/slurm").iterdir())
README = (ROOT / "launch/README.md").read_text("utf-8")
SKYPILOT = yaml.safe_load((ROOT / "launch/skypilot/train.yaml").read_text("utf-8"))
TINY = (
    *("trainer.max_steps=2", "trainer.save_steps=1", "trainer.per_device_train_batch_size=4"),
    *("trainer.num_generations=4", "data.held_out=0.2", "evaluation.max_items=3", "evaluation.resamples=100"),
    "rewards.mix=[{name: bleu, weight: 1.0}]",  # encoders round by what else is in their batch
    *("evaluation.on_error=raise", "tasks=[image_to_text]", "evaluation.controls=[]", "report.enabled=false"),
)
# Runs its command once for every node, as one task each; the first node's name is localhost.
SRUN = """
while [[ "$1" == --* ]]; do shift; done
stopped="" all=""
trap 'stopped=1; [ -z "$all" ] || kill -TERM "${pids[@]}"' TERM
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do SLURM_NODEID=$node "$@" & pids+=($!); done
all=1
[ -z "$stopped" ] || kill -TERM "${pids[@]}"
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
if [ -n "$stopped" ]; then status=0; for pid in "${pids[@]}"; do wait "$pid" || status=$?; done; fi
exit $status
"""
SHOWN = 'printf "%s\\n" "$*"'


def shell_scripts() -> dict[str, str]:
    """All shell of the folder, by its place."""
    scripts = {file.name: file.read_text("utf-8") for file in SLURM}
    return scripts | {f"skypilot: {part}": f"#!/bin/bash\n{SKYPILOT[part]}" for part in ("setup", "run")}


@pytest.mark.skipif(shutil.which("shellcheck", path=Path(sys.executable).parent) is None, reason="no shellcheck here")
@pytest.mark.parametrize("place", shell_scripts())
def test_shellcheck_finds_nothing(place: str) -> None:
    command = [str(Path(sys.executable).with_name("shellcheck")), "--exclude=SC2154", "-"]
    done = subprocess.run(command, input=shell_scripts()[place], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def slurm(folder: Path, script: str, *arguments: str, stubs: dict[str, str], **variables: str) -> subprocess.Popen[str]:
    """Start a script as Slurm would, with stand-ins for the commands that are not here."""
    for name, body in {
        "scontrol": f'echo "$*" >> {folder}/calls; [ "$1" = requeue ] || printf "localhost\\nlocalhost\\n"',
        **stubs,
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    given = {"SLURM_CPUS_PER_TASK": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": "7", **variables}
    environment = os.environ | given | {"PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", f"launch/slurm/{script}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_training_starts_on_every_node_with_its_own_rank(tmp_path: Path) -> None:
    words = ("recipes/qwen2_5_vl_72b.yaml", "data.catalogue=my catalogue")
    stubs = {"srun": SRUN, "accelerate": SHOWN}
    variables = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    output, _ = slurm(tmp_path, "train.sbatch", *words, stubs=stubs, **variables).communicate(timeout=60)
    common = (
        "launch --config_file launch/accelerate/zero3.yaml --num_machines 2 --machine_rank {} --main_process_ip "
        "localhost --main_process_port 29500 --num_processes 16 -m grpo_mmpc train recipes/qwen2_5_vl_72b.yaml "
        "data.catalogue=my catalogue"
    )
    assert sorted(output.splitlines()) == [common.format(0), common.format(1)]
    assert "requeue" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(
    ("script", "work", "status", "requeued"),
    [
        ("train.sbatch", "accelerate", 143, True),
        ("train.sbatch", "accelerate", 0, False),
        ("train_with_servers.sbatch", "accelerate", 143, True),
        ("ablate.slurm", "grpo-mmpc", 130, True),
    ],
)
def test_a_stopped_job_is_requeued_once_it_has_saved_and_a_finished_one_is_not(
    tmp_path: Path, script: str, work: str, status: int, requeued: bool
) -> None:
    forever = "while true; do /bin/sleep 0.1; done"
    up, gone, is_served = tmp_path / "up", tmp_path / "gone", script == "train_with_servers.sbatch"
    served = f'[ "${{@: -1}}" = --print ] && exit\ntrap "touch {gone}; exit" TERM\ntouch {up}\n{forever}'
    body = f'trap "/bin/sleep 1; echo saved; exit {status}" TERM\necho started\n{forever}'
    body = f"until [ -e {up} ]; do /bin/sleep 0.1; done\n{body}" if is_served else body
    stubs = {"srun": SRUN, "grpo-mmpc": served, "ray": "exit", "sleep": "exit", work: body}
    job = slurm(tmp_path, script, "R", stubs=stubs, SLURM_JOB_NUM_NODES="1", SLURM_GPUS_ON_NODE="1")
    assert job.stdout is not None
    assert job.stdout.readline() == "started\n"
    job.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    job.send_signal(signal.SIGTERM)  # another one cuts no saving short
    output, _ = job.communicate(timeout=60)
    assert output == "saved\n"
    assert job.returncode == status
    assert ("requeue 7" in (tmp_path / "calls").read_text()) == requeued
    assert gone.exists() == is_served


@pytest.mark.parametrize(
    ("step", "policy"), [("300", "--checkpoint runs/nano/checkpoints/checkpoint-300"), ("0", "--base")]
)
def test_a_task_of_the_array_evaluates_its_checkpoint(tmp_path: Path, step: str, policy: str) -> None:
    words = ("recipes/nano.yaml", "seed=1")
    job = slurm(tmp_path, "evaluate.sbatch", *words, stubs={"srun": SHOWN}, SLURM_ARRAY_TASK_ID=step)
    output, _ = job.communicate(timeout=60)
    assert output == f"grpo-mmpc evaluate recipes/nano.yaml seed=1 {policy}\n"
    parse_arguments(shlex.split(output)[1:])


def test_a_task_of_the_array_completes_its_share(tmp_path: Path) -> None:
    words = ("recipes/nano.yaml", "my catalogue", "out", "checkpoint", "--samples", "4")
    variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    stubs = {"srun": 'printf "%q " "$@"'}
    output, _ = slurm(tmp_path, "complete.sbatch", *words, stubs=stubs, **variables).communicate(timeout=60)
    parsed = parse_arguments(shlex.split(output)[1:])
    assert (parsed.part, parsed.samples, str(parsed.catalogue)) == ((3, 8), 4, "my catalogue")
    assert parsed.recipe == ["recipes/nano.yaml"]


def test_skypilot_starts_the_same_command_with_files_that_exist() -> None:
    assert "-m grpo_mmpc train" in SKYPILOT["run"]
    for name in ("RECIPE", "LAUNCH_FILE"):
        assert (ROOT / SKYPILOT["envs"][name]).is_file()
    named = set(re.findall(r"\$\{?([A-Z_]+)", SKYPILOT["run"])) - set(SKYPILOT["envs"])
    assert all(name.startswith("SKYPILOT_") for name in named)


def test_the_container_installs_extras_that_exist() -> None:
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    [extras] = re.findall(r"'/src\[([\w,-]+)\]'", (ROOT / "launch/container/Dockerfile").read_text("utf-8"))
    assert set(extras.split(",")) <= set(setup["options.extras_require"])


def test_the_table_of_what_fits_where_is_what_plans_say() -> None:
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        if not recipe.stem.startswith("nano"):
            cells = [_cell(validate(RunConfig, merge_layers([str(recipe)], [])), gpus=gpus) for gpus in (1, 4, 8, 16)]
            assert f"| `{recipe.stem}` | {' | '.join(cells)} |" in README


def _cell(config: RunConfig, *, gpus: int) -> str:
    plan = make_plan(config, read_shape(config.model), device=DEVICES["h100"], gpus=gpus, nodes=max(1, gpus // 8))
    fitting = [name for name in plan.fitting if name in ("ddp", "zero3")]
    if plan.problems or not fitting:
        return "no"
    return f"`{'single_gpu' if gpus == 1 else fitting[0]}`, {plan.memory[fitting[0]].peak / GIB:.0f} GiB"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_the_two_commands_for_two_nodes_train_together(small_catalogue: Path, tmp_path: Path) -> None:
    commands = re.findall(r"^accelerate (launch .*--machine_rank \d .*)$", README, re.MULTILINE)
    assert [re.findall(r"--machine_rank (\d)", command) for command in commands] == [["0"], ["1"]]
    here = {
        "launch/accelerate/zero3.yaml": "launch/accelerate/multi_cpu.yaml",
        "gpu01": "127.0.0.1",
        "29500": str(free_port()),
        "--num_processes 16": "--num_processes 2",
        "recipes/qwen2_5_vl_72b.yaml": f"recipes/nano.yaml run_dir={tmp_path}/run {shlex.join(TINY)}",
        "data.catalogue=DIR": f"data.catalogue={small_catalogue}",
    }
    for there, ours in here.items():
        commands = [command.replace(there, ours) for command in commands]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(command)[1:]],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    outputs = [node.communicate(timeout=900)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert (manifest["hardware"]["world_size"], manifest["steps"]) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.sbatch", "train_with_servers.sbatch"])
def test_a_job_that_is_preempted_again_and_again_ends_with_the_adapter_of_an_undisturbed_one(
    small_catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """Under the Slurm script, SIGTERM at five random moments.

    Two processes under torchrun; or one with a server, which has another address each time, as on
    other nodes.
    """
    import random

    is_served = script == "train_with_servers.sbatch"
    if is_served:
        pytest.importorskip("vllm", reason="vLLM is not installed")
    monkeypatch.setenv("LAUNCH_FILE", "launch/accelerate/multi_cpu.yaml")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    real = f'exec {sys.executable} -m accelerate.commands.launch "${{@:2}}"'
    steps = [word for word in TINY if "max_steps" not in word] + ["trainer.max_steps=6"]
    steps += ["rollout.backend=vllm"] * is_served

    def start(run: Path) -> subprocess.Popen[str]:
        monkeypatch.setenv("MASTER_PORT", str(free_port()))
        monkeypatch.setenv("FIRST_PORT", str(free_port()))
        words = ("recipes/nano.yaml", f"run_dir={run}", f"data.catalogue={small_catalogue}", *steps)
        variables = {"SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "1" if is_served else "2"}
        return slurm(tmp_path, script, *words, stubs={"srun": SRUN, "accelerate": real}, **variables)

    began = time.monotonic()
    undisturbed = start(tmp_path / "undisturbed")
    output, _ = undisturbed.communicate(timeout=1800)
    assert undisturbed.returncode == 0, output
    duration = time.monotonic() - began
    moments, requeues = random.Random(5), 0
    for _ in range(40):
        job = start(tmp_path / "preempted")
        try:
            output, _ = job.communicate(timeout=moments.uniform(1, 0.6 * duration) if requeues < 5 else 1800)
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGTERM)
            output, _ = job.communicate(timeout=600)
        if job.returncode == 0:
            break
        requeues += 1
        assert (tmp_path / "calls").read_text().count("requeue 7") == requeues, output
    assert job.returncode == 0
    assert requeues >= 1
    runs = [tmp_path / name for name in ("undisturbed", "preempted")]
    assert completions(runs[0]) == completions(runs[1])
    adapters = [run / "checkpoints/checkpoint-6/adapter_model.safetensors" for run in runs]
    if is_served:  # vLLM's log-probabilities round by what else is in its batch
        one, other = map(load_file, adapters)
        assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in one.keys() | other.keys())
    else:
        assert adapters[0].read_bytes() == adapters[1].read_bytes()


def completions(run: Path) -> list[str]:
    """All completions of a run, in order."""
    tables = [pq.read_table(file, columns=["completion"]) for file in sorted((run / "rollouts").glob("*.parquet"))]
    return [text for table in tables for text in table["completion"].to_pylist()]
