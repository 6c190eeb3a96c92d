"""One attempt at a job: a supervised process, and what is written down about it."""

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
    """A job's process."""

    def __init__(self, job: Job, *, environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            job: Not finished.
            environment: Set for its processes, over this process's own.
        """
        self.job = job
        self._started = time.monotonic()
        self._asked = 0.0
        self._command = command_of(job)
        job.config.parent.mkdir(parents=True, exist_ok=True)
        supervisor = [sys.executable, "-m", "grpo_mmpc.ablation.supervise", str(job.lock), str(job.log)]
        self._process = subprocess.Popen(
            [*supervisor, *self._command],
            stdin=subprocess.PIPE,
            cwd=job.working_directory,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C reaches us alone, and we decide
        )

    def stop(self) -> None:
        """Ask it to save and end."""
        if self._process.poll() is None and not self._asked:
            self._asked = time.monotonic()
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._asked = self._asked or time.monotonic()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def poll(self) -> Outcome | None:
        """How it ended; None while it runs. One that was asked to stop and takes too long is killed."""
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
