"""Commands that signals hit at random times, given again until they are done.

``GRPO_MMPC_DRILL_HITS`` is the number of signals that must hit each command, instead of the usual
number; ``GRPO_MMPC_DRILL_SEED`` samples their times. ``GRPO_MMPC_DRILL_WARM`` forks commands of one
process from a Python that has imported all they need, which leaves more time for what they do.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

IS_WARM = bool(os.environ.get("GRPO_MMPC_DRILL_WARM"))
SEED = os.environ.get("GRPO_MMPC_DRILL_SEED", "0")
MAKERS = {
    1: [sys.executable, "-m", "grpo_mmpc"],
    2: [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "grpo_mmpc"],
}
"""What starts a command on so many processes."""
STOPPED = {signal.SIGTERM: (130, 143), signal.SIGINT: (130,)}
"""Exit statuses of a command that was stopped in order."""
PATIENCE_S = 180.0
"""Most that a command may take to stop, and its processes to end with it."""

_TIMES = re.compile("time(?!stamp)|seconds|started|finished|per_second|wait|trainer_state|command|written|_s$|peak_gib")
"""Parts of the names of values that tell when and how it was started, and what memory it took."""
_SHOWN_TIMES = re.compile(rb"\d+ \w+ \d{4}, \d\d:\d\d[^<]*|[\d.]+ s\b|\d+ min \d+ s\b")

_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(["grpo_mmpc.training.session", "grpo_mmpc.rollout.offline", "grpo_mmpc.evaluation"])


def hits(usual: int) -> int:
    """Return how many signals must hit a command."""
    return int(os.environ.get("GRPO_MMPC_DRILL_HITS", usual))


@dataclass(kw_only=True)
class Drill:
    """A command in a folder of its own: its inputs, and from it ``out``, ``cache`` and ``log``."""

    folder: Path
    command: list[str]
    processes: int = 1
    records: tuple[str, ...] = ()
    """Ends of the names of files that record attempts, of which there are more after a signal."""
    dated: tuple[str, ...] = ()
    """Names of files that show times all over, of which only the name is compared."""
    unordered: tuple[str, ...] = ()
    """Names of files that only grow, whose lines come in whatever order."""
    added: Callable[[str], bool] = lambda name: False
    """Whether a stop in order may leave a file that an undisturbed run does not."""
    begins: float = field(default=1.0, init=False)
    """The second from which signals are sent: the first, or later where Python starts slowly."""
    seconds: float = field(default=0.0, init=False)
    """The duration of an undisturbed run."""
    expected: dict[str, object] = field(default_factory=dict, init=False)
    """What an undisturbed run leaves."""

    def measure(self) -> "Drill":
        """Run it undisturbed."""
        if IS_WARM and self.processes == 1:  # the first one waits for the imports
            Forked(["--version"], self.folder, {}).wait()
        began = time.monotonic()
        subprocess.run([*MAKERS[1], "--version"], stdout=subprocess.DEVNULL, check=True)
        self.begins = max(1.0, 2 * (time.monotonic() - began))
        began = time.monotonic()
        process = self._start()
        assert process.wait() == 0, self._log()
        self.seconds = time.monotonic() - began
        self.expected = self.left()
        self._clear()
        return self

    def disturb(self, number: signal.Signals, hits: int) -> str:
        """Hit it so many times, beginning anew where it is done before, and compare what is left.

        The times are uniform from its first second to the duration of an undisturbed run.

        Returns:
            The number of hits, starts and finished runs.
        """
        chance = random.Random(f"{SEED} {number.name} {self.command} {self.processes}")
        hit = starts = done = 0
        while hit < hits or done == 0 or (self.folder / "out").exists():
            process, starts = self._start(), starts + 1
            moment = chance.uniform(self.begins, self.seconds) if hit < hits else None
            try:
                status, is_sent = process.wait(timeout=moment), False
            except subprocess.TimeoutExpired:
                self._send(process, number)
                status, is_sent = process.wait(timeout=PATIENCE_S), True
            assert is_sent or status == 0, self._log()
            self._wait_for_its_processes()
            if status == 0:
                done += 1
                self._compare(stopped=number != signal.SIGKILL)
                self._clear()
                print(f"{done} finished, as undisturbed", flush=True)
                continue
            hit += 1
            print(f"hit {hit} of {hits} after {moment:.1f} s: {status}", flush=True)
            if number == signal.SIGKILL:
                assert status == -number, self._log()
            elif self.processes == 1:
                assert status in STOPPED[number], f"{status}: {self._log()}"
            assert "grpo_mmpc/" not in "".join(re.findall("Traceback(?s:.*)", self._log())), self._log()
        return (
            f"{' '.join(self.command[:2])}, {self.processes} processes, {number.name}: {hit} hits in {starts} starts, "
            f"{done} finished runs of {len(self.expected)} files as undisturbed, which takes {self.seconds:.0f} s"
        )

    def left(self) -> dict[str, object]:
        """Return every file of the folder by its name, without times; of the cache what is half."""
        names = {path.relative_to(self.folder): path for path in sorted(self.folder.rglob("*")) if path.is_file()}
        return {
            str(name): self._content(path)
            for name, path in names.items()
            if name != Path("log")
            and not path.name.endswith(self.records)
            and (name.parts[0] != "cache" or ".partial" in str(name))
        }

    def _content(self, path: Path) -> object:
        if path.name in self.dated:
            return None
        return sorted(path.read_bytes().splitlines()) if path.name in self.unordered else without_times(path)

    def _compare(self, *, stopped: bool) -> None:
        left = self.left()
        more = {name for name in left.keys() - self.expected.keys() if not (stopped and self.added(name))}
        lost = self.expected.keys() - left.keys()
        others = [name for name in self.expected.keys() & left.keys() if self.expected[name] != left[name]]
        assert not (more or lost or others), f"{self.folder}: more {more}, lost {lost}, different {others}"

    def _clear(self) -> None:
        for name in ("out", "cache", "log"):
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _start(self) -> "subprocess.Popen[bytes] | Forked":
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "GRPO_MMPC_ENCODINGS_GB": "0",
            "GRPO_MMPC_CACHE": str(self.folder / "cache"),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120",
        }
        if IS_WARM and self.processes == 1:
            return Forked(self.command, self.folder, environment)
        with (self.folder / "log").open("w") as log:
            return subprocess.Popen(
                [*MAKERS[self.processes], *self.command],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _send(self, process: "subprocess.Popen[bytes] | Forked", number: signal.Signals) -> None:
        """Send it as a terminal does, to all processes, or as a scheduler, to the first one."""
        if number == signal.SIGINT and isinstance(process, subprocess.Popen) and self.processes > 1:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)

    def _wait_for_its_processes(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while left := _processes_in(self.folder):
            assert time.monotonic() < deadline, f"processes {left} outlive the command"
            time.sleep(0.1)

    def _log(self) -> str:
        return (self.folder / "log").read_text()[-6000:]


class Forked:
    """A command in a process forked from one with all imports, to be used like one of Popen."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._process = _WARM.Process(target=_run, args=(command, folder, environment))
        self._process.start()

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status, -N for signal N; raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired([], timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        os.kill(self._process.pid or 0, number)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["grpo-mmpc", *command]
    from grpo_mmpc.cli import program

    program()


def without_times(path: Path) -> object:
    """Return what a file says, without times and durations."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return _timeless(pq.read_table(path).to_pydict())
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    return _SHOWN_TIMES.sub(b"", path.read_bytes()) if path.suffix == ".html" else path.read_bytes()


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(v) for key, v in value.items() if not _TIMES.search(key)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _processes_in(folder: Path) -> list[int]:
    """Return the ids of all that run in a folder."""
    alive = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cwd").readlink() == folder and (place / "cmdline").read_bytes():
                alive.append(int(place.name))
        except OSError:  # ended in this moment
            continue
    return alive
