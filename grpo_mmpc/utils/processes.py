"""Child processes that never outlive their parent, and the signals that ask a command to stop.

A command runs below a supervisor, ``python -m grpo_mmpc.utils.processes``, whose standard input is
a pipe that the asking process holds. When that process ends in whatever way, ``kill -9`` included,
the system closes the pipe, and the supervisor ends the command with all its processes.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

PATIENCE_S = 10.0
"""Most that processes left behind by a command get to end before they are killed."""

SAME_REQUEST_S = 0.5
"""Signals that follow one another so fast are one: the terminal and a launcher both pass it on."""
_POLL_S = 0.1
_SIGNAL_WITH_PARENT = 1
"""``PR_SET_PDEATHSIG`` of Linux's prctl."""
_TAIL_BYTES = 20_000


class Child:
    """A running command with all the processes that it starts."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None,
        environment: Mapping[str, str],
        grace_s: float,
        orphan_grace_s: float = 0.0,
        working_directory: Path | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            command: Program and arguments.
            log: File that its output is appended to, below a line with time and command; None
                leaves it to this process's own output.
            environment: All its environment variables.
            grace_s: Time to end by itself after ``stop``.
            orphan_grace_s: The same after ``kill``, or when this process is gone.
            working_directory: None is this process's.
            inherited: File descriptors that its processes keep open, such as that of a lock.
        """
        spec = {
            "command": list(command),
            "parent": os.getpid(),
            "grace_s": grace_s,
            "orphan_grace_s": orphan_grace_s,
            "inherited": list(inherited),
        }
        with contextlib.ExitStack() as stack:
            output = None
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(log.open("a", encoding="utf-8"))
                print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}", file=output, flush=True)
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "grpo_mmpc.utils.processes", json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                cwd=working_directory,
                env=dict(environment),
                pass_fds=tuple(inherited),
                start_new_session=True,  # Ctrl-C reaches this process alone, which decides what it means
            )

    def poll(self) -> int | None:
        """Return its exit status, 128 + N for signal N; None while any of its processes lives."""
        return self._supervisor.poll()

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        return self._supervisor.wait()

    def stop(self) -> None:
        """Ask it to end by SIGTERM; after ``grace_s`` it is killed."""
        if self._supervisor.poll() is None:
            self._supervisor.terminate()

    def kill(self) -> None:
        """End it as if this process were gone."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()


def log_tail(log: Path, *, lines: int = 12) -> str:
    """Return the last lines of a log that are not blank; empty where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.replace("\r", "\n").split("\n") if line.strip()][-lines:])


def die_with_parent(parent: int) -> None:
    """In a child process: be killed when the thread that started it ends.

    Args:
        parent: Process that started it, which may have ended already.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_SIGNAL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # ended before the system was asked, which tells nobody any more
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class StopRequest:
    """SIGINT, SIGTERM or SIGHUP while a block runs: the first one asks, another one insists."""

    message: str
    """Printed at the first signal."""
    raises: bool = field(default=False, kw_only=True)
    """Raise KeyboardInterrupt at a second signal instead of counting it."""
    patient: bool = field(default=True, kw_only=True)
    """Count the first signal; otherwise it raises too, if ``raises`` says so."""
    times: int = field(default=0, init=False)
    """Signals so far."""
    number: int = field(default=0, init=False)
    """The first signal; 0 before it."""
    _latest: float = field(default=0.0, init=False)

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Take the signals over for the duration of a block; does nothing beside the main thread.

        One that this process was started to ignore stays ignored.
        """
        with _handled(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, handler=self._on_signal):
            yield self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.times and now - self._latest < SAME_REQUEST_S:
            return
        self._latest = now
        self.times += 1
        self.number = self.number or number
        if self.times == 1 and self.patient:
            print(f"\n{self.message}", flush=True)  # noqa: T201
        elif self.raises:
            raise KeyboardInterrupt


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM and SIGHUP too, as Ctrl-C does; a second one ends at once.

    A signal that this process was started to ignore stays ignored: SIGINT under ``&`` in a script,
    SIGHUP under nohup. Does nothing beside the main thread.
    """
    first: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise KeyboardInterrupt(signal.Signals(number).name)
        if time.monotonic() - first[0] >= SAME_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    with _handled(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, handler=stop):
        yield


def ignore_the_next_signal() -> None:
    """From here on ignore one signal to stop, since all is done; another one ends at once.

    Python forgets its own handlers before it frees what is left: then all signals are ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        atexit.register(signal.signal, number, signal.SIG_IGN)
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _: signal.signal(received, signal.SIG_DFL))


@contextmanager
def _handled(*numbers: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle those signals that are not ignored; does nothing beside the main thread.

    What a handler raises inside a ``__del__`` Python prints and forgets: there it is called later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        inner = frame
        while inner is not None and inner.f_code.co_name != "__del__":
            inner = inner.f_back
        if inner is None:
            handler(number, frame)
        else:
            threading.Timer(_POLL_S, os.kill, (os.getpid(), number)).start()

    previous = {number: signal.getsignal(number) for number in numbers}
    mine = [number for number, known in previous.items() if known is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, previous[number])


# --- The supervisor


def _supervise(*, command: list[str], parent: int, grace_s: float, orphan_grace_s: float, inherited: list[int]) -> int:
    """Run the command until it ends or has to, leave no process, return its exit status."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: signals.append(received))
    leader = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=inherited,
        # nothing else runs in this process that a fork could harm
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    deadline, patience = float("inf"), min(PATIENCE_S, grace_s)
    is_asked = is_orphan = False
    # The leader is not reaped before the end, so that the number of its group stays its own.
    while not _has_ended(leader.pid) and time.monotonic() < deadline:
        if not is_orphan and _is_abandoned(parent):
            is_orphan, patience = True, min(patience, orphan_grace_s)
            deadline = min(deadline, time.monotonic() + orphan_grace_s)
        if (signals or is_orphan) and not is_asked:
            is_asked = True
            deadline = min(deadline, time.monotonic() + grace_s)
            os.kill(leader.pid, signal.SIGTERM)  # the leader ends the others in order
        if is_orphan:  # the pipe tells nothing new
            time.sleep(_POLL_S)
    os.killpg(leader.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and _group_lives(leader.pid):
        time.sleep(_POLL_S)
    os.killpg(leader.pid, signal.SIGKILL)
    status = leader.wait()
    return status if status >= 0 else 128 - status


def _is_abandoned(parent: int) -> bool:
    """Wait a moment for the parent to be gone or to close the pipe, which nothing is written to."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], _POLL_S)
    return os.getppid() != parent or (bool(readable) and not os.read(sys.stdin.fileno(), 1))


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _group_lives(group: int) -> bool:
    """Return whether a process group has a member that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, member_of = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(member_of) == group and state not in "ZX":
                return True
    return False


if __name__ == "__main__":
    sys.exit(_supervise(**json.loads(sys.argv[1])))
