"""Starting vLLM servers from a recipe and ending them, with other programs in vLLM's place."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.vllm import serve
from grpo_mmpc.rollout.vllm.serve import LocalServer, command_line_flags, serve_command, shell_command
from grpo_mmpc.utils.processes import PATIENCE_S
from tests.rollout.fake_vllm_server import FakeVLLM
from tests.rollout.processes import children, is_running, wait_until
from tests.rollout.vllm_policies import vllm_config


@pytest.mark.slow
def test_the_command_line_says_the_same_as_the_engine_arguments(tmp_path):
    """Through vLLM's own parser, so that a renamed option fails here."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from grpo_mmpc.rollout.vllm.arguments import engine_arguments

    config = vllm_config("qwen2_5_vl", tmp_path, processor_kwargs={"min_pixels": 3136, "max_pixels": 7056})
    command, environment = serve_command(config, host="0.0.0.0", port=8123)
    script = """
        import json, sys
        from grpo_mmpc.utils.cpu_compat import ensure_importable
        ensure_importable()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
        engine = AsyncEngineArgs.from_cli_args(args)
        names = json.loads(sys.stdin.read())
        print(json.dumps({"host": args.host, "port": args.port, "served": args.served_model_name,
                          "domains": engine.allowed_media_domains, "origins": args.allowed_origins,
                          "middleware": args.middleware,
                          "engine": {name: getattr(engine, name) for name in names}}, default=str))
    """
    wanted = engine_arguments(config) | {"generation_config": "vllm"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *command[3:]],
        input=json.dumps(list(wanted)),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    parsed = json.loads(done.stdout.splitlines()[-1])
    assert (parsed["host"], parsed["port"], parsed["served"]) == ("0.0.0.0", 8123, ["nano:qwen2_5_vl"])
    assert parsed["engine"] == wanted
    assert environment["VLLM_PLUGINS"] == "grpo_mmpc_adapters,grpo_mmpc_cpu"
    assert parsed["domains"] == ["data.invalid"] and parsed["origins"] == []
    assert parsed["middleware"] == ["grpo_mmpc.rollout.vllm.guard.Guard"]
    assert environment["GRPO_MMPC_SERVE_HOST"] == "0.0.0.0"


@pytest.mark.parametrize(("binding", "in_engine_process"), [(None, True), ("nobind", True), ("0-3", False)])
def test_a_cpu_server_computes_in_its_engine_process_unless_threads_are_bound(
    tmp_path, monkeypatch, binding, in_engine_process
):
    import torch

    if torch.version.cuda is not None:
        pytest.skip("needs a build of torch for CPUs")
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    if binding is not None:
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", binding)
    _, environment = serve_command(vllm_config("qwen2_5_vl", tmp_path), host="127.0.0.1", port=8000)
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == (binding or "nobind")
    assert (environment.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0") == in_engine_process


def test_engine_arguments_of_every_kind_become_options():
    assert command_line_flags(
        {
            "enable_lora": True,
            "enable_chunked_prefill": False,
            "revision": None,
            "max_model_len": 160,
            "limit_mm_per_prompt": {"image": 1},
            "lora_target_modules": ["q", "k"],
        }
    ) == [
        *("--enable-lora", "--no-enable-chunked-prefill", "--max-model-len", "160"),
        *("--limit-mm-per-prompt", '{"image": 1}', "--lora-target-modules", "q", "k"),
    ]


def test_the_printed_command_is_the_one_that_would_run(tmp_path):
    config = vllm_config("qwen2_5_vl", tmp_path)
    command, environment = serve_command(config, host="127.0.0.1", port=8000)
    script = shell_command(config, host="127.0.0.1", port=8000).replace("python -m", "printf '%s\\n'")
    with_key = {**os.environ, "VLLM_API_KEY": "secret"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=with_key)
    assert done.stdout.splitlines() == command[2:]
    without = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert without.returncode != 0 and "VLLM_API_KEY: a secret" in without.stderr
    assert all(f"{name}=" in script for name in environment)


def last_word(log: Path) -> str:
    """The last word of a log, below the line with the command: a process id."""
    return log.read_text().split()[-1] if log.is_file() else ""


FAMILY = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["trainer killed", "trainer terminated", "front end killed", "guard terminated"])
def test_no_process_of_a_server_outlives_it_or_the_trainer(tmp_path, end):
    log = tmp_path / "log"
    trainer_code = f"""
        import pathlib, sys, time
        from grpo_mmpc.rollout.vllm.serve import _start_child
        server = _start_child([sys.executable, "-c", {textwrap.dedent(FAMILY)!r}], {{}}, log=pathlib.Path({str(log)!r}))
        print(server._supervisor.pid, flush=True)
        time.sleep(600)
    """
    trainer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(trainer_code)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert trainer.stdout is not None
        guard = int(trainer.stdout.readline())
        assert wait_until(lambda: last_word(log).isdigit(), 20)
        engine = int(last_word(log))
        (front_end,) = children(guard)
        assert is_running(engine) and is_running(front_end)
        victim, number = {
            "trainer killed": (trainer.pid, signal.SIGKILL),
            "trainer terminated": (trainer.pid, signal.SIGTERM),
            "front end killed": (front_end, signal.SIGKILL),
            "guard terminated": (guard, signal.SIGTERM),
        }[end]
        os.kill(victim, number)
        assert wait_until(lambda: not any(is_running(pid) for pid in (guard, front_end, engine)), PATIENCE_S)
    finally:
        trainer.kill()
        trainer.wait()


def test_a_port_that_is_taken_is_refused_although_somebody_answers_there(tmp_path):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    config = vllm_config("qwen2_5_vl", tmp_path)
    somebody = FakeVLLM()
    try:
        with pytest.raises(RolloutError, match=f"cannot listen on 127.0.0.1:{somebody.port}: Address already in use"):
            LocalServer(config, log=tmp_path / "log", timeout=200, say=print, port=somebody.port)
    finally:
        somebody.stop()


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "INFO GPU KV cache size: 1 tokens\nValueError: No available memory for the cache blocks.\n"
            "RuntimeError: Engine core initialization failed.",
            "first error: ValueError: No available memory .*Give the engine more memory .*gpu_memory_utilization",
        ),
        (
            "OSError: [Errno 98] error while attempting to bind: address already in use",
            "port was taken in the meantime",
        ),
        (
            "api_server.py: error: unrecognized arguments: --gpu-memory 1",
            "--gpu-memory 1. rollout.engine holds a name that vLLM does not know",
        ),
        ("INFO GPU KV cache size: 1 tokens\nKeyError: 'x'", "first error: KeyError: 'x'. Check rollout.engine"),
    ],
)
def test_a_server_that_cannot_start_says_why_with_the_end_of_its_log(tmp_path, monkeypatch, log, message):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    dying = [sys.executable, "-c", f"print({log!r}); raise SystemExit(1)"]
    monkeypatch.setattr(serve, "serve_command", lambda *_, **__: (dying, {}))
    with pytest.raises(RolloutError, match=f"(?s)ended while starting.*{message}.*ends with"):
        LocalServer(vllm_config("qwen2_5_vl", tmp_path), log=tmp_path / "log", timeout=60, say=print)


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path, monkeypatch, capsys):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    silent = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
    monkeypatch.setattr(serve, "serve_command", lambda *_, **__: (silent, {}))
    monkeypatch.setattr(serve, "_PROGRESS_EVERY_S", 0.5)
    with pytest.raises(RolloutError, match=r"did not answer within rollout.server_timeout=3 s"):
        LocalServer(vllm_config("qwen2_5_vl", tmp_path), log=tmp_path / "log", timeout=3, say=print)
    waiting = [line for line in capsys.readouterr().err.splitlines() if "waiting for the vLLM server" in line]
    assert len(waiting) >= 3 and str(tmp_path / "log") in waiting[0]
    assert not is_running(int(last_word(tmp_path / "log")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_serving_in_the_foreground_ends_with_all_its_processes(tmp_path, number):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    code = f"""
        import sys
        from pathlib import Path
        from grpo_mmpc.rollout.vllm import serve
        from tests.rollout.vllm_policies import vllm_config
        serve.serve_command = lambda *_, **__: ([sys.executable, "-c", {textwrap.dedent(FAMILY)!r}], {{}})
        serve.run_server(vllm_config("qwen2_5_vl", Path({str(tmp_path)!r})), host="127.0.0.1", port=0)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    lead = [next(lines) for _ in range(3)]
    assert "rollout.servers=[http://127.0.0.1:" in lead[1]
    engine = int(next(lines))
    (guard,) = children(process.pid)
    family = [guard, *children(guard), engine]
    process.send_signal(number)
    process.wait(30)
    assert wait_until(lambda: not any(is_running(pid) for pid in family), PATIENCE_S)


def test_the_command_prints_what_it_would_run(capsys):
    import argparse

    from grpo_mmpc.cli import serve as command

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    recipe = str(Path(__file__).parents[2] / "recipes" / "nano.yaml")
    arguments = parser.parse_args(["serve", recipe, "adapter.r=20", "--port", "8111", "--print"])
    assert arguments.func(arguments) == 0
    printed = capsys.readouterr().out
    assert "VLLM_PLUGINS=grpo_mmpc_adapters" in printed
    assert "--port 8111" in printed and "--max-lora-rank 32" in printed
