"""Launch files: Accelerate reads them, knows every option in them, and their commands run what they
say."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.rollout.vllm.serve import shell_command

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "launch" / "accelerate").glob("*.yaml"))
SLURM = sorted(file for file in (ROOT / "launch" / "slurm").iterdir() if file.name != "requeue.sh")
DISTRIBUTED = {
    "single_gpu": (DistributedType.NO, 1),
    "ddp": (DistributedType.MULTI_GPU, 8),
    "zero2": (DistributedType.DEEPSPEED, 8),
    "zero3": (DistributedType.DEEPSPEED, 8),
    "zero3_offload": (DistributedType.DEEPSPEED, 8),
    "fsdp2": (DistributedType.FSDP, 8),
    # torchrun starts it as a GPU job, use_cpu makes it one for CPUs: accelerate's own MULTI_CPU
    # goes through MPI only.
    "multi_cpu": (DistributedType.MULTI_GPU, 2),
    "zero2_cpu": (DistributedType.DEEPSPEED, 2),
}

each = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
each_slurm = pytest.mark.parametrize("file", SLURM, ids=lambda path: path.stem)


def commands(file: Path) -> list[list[str]]:
    """The ``accelerate launch`` commands of the header, without these two words."""
    found = re.findall(r"^#   accelerate launch (.*)$", file.read_text("utf-8"), re.MULTILINE)
    return [shlex.split(command) for command in found]


def test_there_is_a_file_for_every_way_to_spread_a_model():
    assert {file.stem for file in FILES} == set(DISTRIBUTED)


@each
def test_accelerate_reads_the_file_as_what_its_name_says(file):
    config = load_config_from_file(str(file))
    assert (config.distributed_type, config.num_processes) == DISTRIBUTED[file.stem]
    assert config.use_cpu == file.stem.endswith("cpu")
    assert config.mixed_precision == ("no" if config.use_cpu else "bf16")


@each
def test_accelerate_knows_every_option_of_the_deepspeed_and_fsdp_sections(file):
    """A misspelt option in them is ignored without a word, and the model is spread in another way
    than the file says."""
    content = yaml.safe_load(file.read_text("utf-8"))
    known = vars(launch_command_parser().parse_args(["script.py"]))
    options = content.get("deepspeed_config", {}) | content.get("fsdp_config", {})
    assert set(options) <= set(known)
    assert bool(options) == (content["distributed_type"] in ("DEEPSPEED", "FSDP"))


@each
def test_no_launch_file_sets_what_recipes_decide(file):
    """Batch sizes, accumulation and clipping stand in one place, so that they cannot contradict
    each other."""
    content = yaml.safe_load(file.read_text("utf-8"))
    options = content.get("deepspeed_config", {})
    assert not {"gradient_accumulation_steps", "gradient_clipping", "deepspeed_config_file"} & set(options)


@pytest.mark.parametrize(("stem", "stage"), [("zero2", 2), ("zero2_cpu", 2), ("zero3", 3), ("zero3_offload", 3)])
def test_zero_files_name_their_stage(stem, stage):
    config = load_config_from_file(str(ROOT / f"launch/accelerate/{stem}.yaml"))
    assert config.deepspeed_config["zero_stage"] == stage
    # Without the first, every GPU loads a whole copy before it is sharded; without the second, no
    # adapter is saved.
    for option in ("zero3_init_flag", "zero3_save_16bit_model"):
        assert config.deepspeed_config.get(option, False) == (stage == 3)


@each
def test_the_command_of_the_header_starts_this_file_on_an_existing_recipe(file):
    found = commands(file)
    assert found
    for command in found:
        arguments = launch_command_parser().parse_args(command)
        assert arguments.config_file == str(file.relative_to(ROOT))
        assert (arguments.module, arguments.training_script) == (True, "grpo_mmpc")
        recipe, *overrides = arguments.training_script_args[1:]
        assert arguments.training_script_args[0] == "train"
        assert (ROOT / recipe).is_file()
        assert all("=" in override for override in overrides)


@each_slurm
def test_a_slurm_script_parses_and_its_command_submits_it_with_an_existing_recipe(file):
    subprocess.run(["bash", "-n", file], check=True)
    found = re.findall(r"^#   sbatch (.*)$", file.read_text("utf-8"), re.MULTILINE)
    assert found
    for command in found:
        script, recipe, *_ = [word for word in shlex.split(command) if not word.startswith("--")]
        assert script == str(file.relative_to(ROOT))
        assert (ROOT / recipe).is_file()


@each_slurm
def test_a_slurm_script_asks_for_cores_and_hands_them_to_srun(file):
    """Slurm gives a task one core unless asked, and srun has not read sbatch's --cpus-per-task
    since Slurm 22.05."""
    text = file.read_text("utf-8")
    assert re.search(r"^#SBATCH --cpus-per-task=\d+$", text, re.MULTILINE)
    assert re.search(r'^export SRUN_CPUS_PER_TASK="\$SLURM_CPUS_PER_TASK"', text, re.MULTILINE)


def run_with_servers(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``train_with_servers.sbatch`` on two nodes of the imagination: ``srun`` prints what it would
    start."""
    (folder / "command").write_text(shell_command(load_recipe(arguments), host="127.0.0.1", port=8000))
    stubs = {
        # The end of the training is that of its servers: they say first what they are.
        "srun": '[[ "$*" == *accelerate* ]] && sleep 3; printf "%s\\n" "$*"',
        "scontrol": 'printf "train\\nrollout\\n"',
        "grpo-mmpc": f"cat {folder}/command",  # what serve --print prints, without its imports
    }
    for name, body in stubs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_CPUS_PER_TASK": "64", "SLURM_JOB_NODELIST": "rollout,train"}
    environment = os.environ | slurm | {"PATH": f"{folder}:{os.environ['PATH']}"}
    script = ["bash", "launch/slurm/train_with_servers.sbatch", *arguments]
    return subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("recipe", "servers"),
    [
        ("qwen2_5_vl_7b", {8000 + gpu: f"{gpu}" for gpu in range(8)}),
        ("qwen2_5_vl_32b", {8000: "0,1,2,3", 8004: "4,5,6,7"}),  # tensor_parallel_size: 4
    ],
)
def test_the_rollout_node_is_divided_into_servers_by_the_recipes_tensor_parallel_size(recipe, servers, tmp_path):
    done = run_with_servers(tmp_path, f"recipes/{recipe}.yaml", "data.catalogue=nano:catalogue")
    assert done.returncode == 0, done.stderr
    started = done.stdout.splitlines()
    serving = [line for line in started if " grpo-mmpc serve " in line]
    devices = [re.findall(r"CUDA_VISIBLE_DEVICES=(\S+)", line) for line in serving]
    gpus = {int(line.rpartition("--port ")[2]): found[0] for line, found in zip(serving, devices, strict=True)}
    assert (gpus, len(serving)) == (servers, len(servers))
    assert all("--nodelist=rollout " in line and "gpu_memory_utilization=0.9 " in line for line in serving)
    (training,) = set(started) - set(serving)
    assert "--nodelist=train " in training
    assert "gpu_memory_utilization" not in training
    addresses = ", ".join(f"http://rollout:{port}" for port in servers)
    assert training.endswith(f"rollout.mode=server rollout.servers=[{addresses}]")


def test_a_server_larger_than_the_rollout_node_is_refused_before_anything_starts(tmp_path):
    done = run_with_servers(tmp_path, "recipes/qwen2_5_vl_72b.yaml", "rollout.engine.tensor_parallel_size=16")
    assert (done.returncode, done.stdout) == (1, "")
    assert "tensor_parallel_size is 16, the rollout node has 8 GPUs" in done.stderr


@pytest.mark.parametrize("folder", ["launch/accelerate", "recipes", "recipes/mixes"])
def test_the_readme_of_a_folder_names_every_file_in_it(folder):
    text = (ROOT / folder.partition("/")[0] / "README.md").read_text("utf-8")
    for file in (ROOT / folder).glob("*.yaml"):
        assert f"`{file.name}`" in text or f"`{file.stem}`" in text, file.name


@pytest.mark.parametrize("page", ["README.md", "launch/README.md", "recipes/README.md", "docs/gpus.md"])
def test_files_that_a_page_names_in_commands_exist(page):
    text = (ROOT / page).read_text("utf-8")
    named = set(re.findall(r"\b(?:launch|recipes)/[\w/]+\.(?:yaml|md|py|slurm|sbatch)\b", text))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} <= set()
