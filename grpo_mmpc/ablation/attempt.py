"""One attempt at a job: a supervised process, and what is written down about it."""

import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from grpo_mmpc.ablation.jobs import Job, State, command_of, state_of

GRACE_S = 120.0
"""How long a run may take to finish its step and save when it is asked to stop."""
_TAIL_LINES = 12
_TAIL_BYTES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    name: str
    finished: bool
    stopped: bool
    """It was asked to stop, and can be continued."""
    status: int
    """Exit status of the process; 0 if nothing had to be done."""
    tail: str
    """The last lines of the log, for one that failed."""


class Attempt:
    """A job's process, started as soon as no process of an earlier attempt lives anywhere."""

    def __init__(self, job: Job, *, environment: Mapping[str, str]) -> None:
        """Start it, or wait for the job's lock: ``poll`` starts it then.

        Args:
            job: Not finished.
            environment: Set for its processes, over this process's own.
        """
        self.job = job
        self._environment = environment
        self._started = time.monotonic()
        self._asked = 0.0
        self._command: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def _start(self) -> None:
        """Start unless another attempt holds the lock, which would still be writing what is read here."""
        job = self.job
        job.config.parent.mkdir(parents=True, exist_ok=True)
        with job.lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if state_of(job) == State.FINISHED:  # by the attempt that held it
                self._command = ["true"]
            else:
                self._command = command_of(job)
            supervisor = [sys.executable, "-m", "grpo_mmpc.utils.supervise", str(lock.fileno()), str(job.log)]
            self._process = subprocess.Popen(
                [*supervisor, *self._command],
                stdin=subprocess.PIPE,
                cwd=job.working_directory,
                env=os.environ | self._environment,
                pass_fds=[lock.fileno()],  # the lock stays held as long as any process has it
                start_new_session=True,  # Ctrl-C reaches us alone, and we decide
            )

    def stop(self) -> None:
        """Ask it to save and end."""
        if self._asked:
            return
        if self._process is None:
            self._asked = time.monotonic()
        elif self._process.poll() is None:
            self._asked = time.monotonic()
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._asked = self._asked or time.monotonic()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def poll(self) -> Outcome | None:
        """How it ended; None while it runs. One that was asked to stop and takes too long is killed."""
        if self._process is None and self._asked:
            return Outcome(name=self.job.name, finished=False, stopped=True, status=128 + signal.SIGTERM, tail="")
        if self._process is None:
            self._start()
        if self._process is None:
            return None
        status = self._process.poll()
        if status is None:
            if self._asked and time.monotonic() - self._asked > GRACE_S:
                self.kill()
            return None
        self.kill()
        finished = state_of(self.job) == State.FINISHED
        self._record(status, finished=finished)
        return Outcome(
            name=self.job.name,
            finished=finished,
            stopped=bool(self._asked) and not finished and status in (130, 128 + signal.SIGTERM, 128 + signal.SIGKILL),
            status=status,
            tail="" if finished else log_tail(self.job),
        )

    def _record(self, status: int, *, finished: bool) -> None:
        line = {
            "seconds": round(time.monotonic() - self._started, 1),
            "status": status,
            "finished": finished,
            "host": platform.node(),
            "command": self._command,
        }
        with self.job.attempts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def attempt(job: Job, *, environment: Mapping[str, str]) -> Outcome:
    """Run a job to the end of one attempt; interrupted, it asks the job to save and end before it passes that on."""
    if state_of(job) == State.FINISHED:
        return Outcome(name=job.name, finished=True, stopped=False, status=0, tail="")
    running = Attempt(job, environment=environment)
    try:
        while (outcome := running.poll()) is None:
            time.sleep(0.2)
    except BaseException:  # Ray cancels a task by raising KeyboardInterrupt in it
        running.stop()
        while running.poll() is None:
            time.sleep(0.2)
        raise
    return outcome


def log_tail(job: Job) -> str:
    """The last lines that a job's processes printed."""
    try:
        with job.log.open("rb") as file:
            file.seek(max(0, job.log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])
