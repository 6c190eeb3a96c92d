"""``make gpu-check``: what it says where there is no GPU, and that no check costs another one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import check

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_without_a_gpu_it_ends_in_a_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("this check needs a CUDA device, and torch sees none")


def test_a_check_that_fails_or_hangs_or_says_nothing_costs_no_other(monkeypatch):
    programs = {
        "model": "print('loading'); print('{\"parameters\": 7}')",
        "nano_engine": "raise SystemExit('vLLM cannot start')",
        "engine": "import time; print('compiling', flush=True); time.sleep(60)",
        "transformers_steps": "print('trained')",  # and left no metrics
    }
    monkeypatch.setattr(check, "command_of", lambda name, *_, **__: [sys.executable, "-c", programs[name]])
    monkeypatch.setattr(check, "missing", lambda name: "deepspeed" if name == "zero3" else None)
    monkeypatch.setattr(check, "LIMITS_S", dict.fromkeys(check.LIMITS_S, 30.0) | {"engine": 6.0})
    came = dict(check.run_checks([*programs, "zero3"], on_cpu=False))
    assert (came["model"]["ok"], came["model"]["parameters"]) == (True, 7)
    assert "exit code 1" in came["nano_engine"]["error"] and "vLLM cannot start" in came["nano_engine"]["error"]
    assert "not done after 6 s" in came["engine"]["error"] and "compiling" in came["engine"]["error"]
    assert came["engine"]["seconds"] < 20
    assert "no figures" in came["transformers_steps"]["error"]
    assert came["zero3"] == {"skipped": "deepspeed is not installed"}


def test_its_time_is_bounded_whatever_hangs(monkeypatch):
    monkeypatch.setattr(check, "DEADLINE_S", 0.0)
    monkeypatch.setattr(check, "missing", lambda name: None)
    came = dict(check.run_checks(list(check.LIMITS_S), on_cpu=False))
    assert {result["skipped"] for result in came.values()} == {"no time left of 0 s"}
    assert list(came) == [
        *("model", "nano_engine", "engine", "grpo_steps", "transformers_steps", "server_steps", "zero3", "fsdp2")
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(check.missing("engine") is not None, reason="vLLM is not installed")
def test_every_check_passes_with_a_tiny_model_on_cpus():
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.check", "--cpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    came = json.loads(done.stdout.splitlines()[-1])["checks"]
    assert list(came) == list(check.LIMITS_S)
    assert {name: result.get("error") for name, result in came.items()} == dict.fromkeys(came)
    assert done.returncode == 0
    for name in ("nano_engine", "engine"):
        assert max(came[name]["parity_1"], came[name]["parity_2"]) < 1e-3
        assert came[name]["growth_gib"] < 0.2
    assert came["grpo_steps"]["steps"] == 3 and max(came["grpo_steps"]["parity"]) < 1e-3
    assert "parity" in came["server_steps"] and "parity" not in came["transformers_steps"]
