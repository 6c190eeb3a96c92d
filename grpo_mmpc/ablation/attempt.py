"""One attempt at a job: a supervised process and its record."""

import fcntl
import os
import platform
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from grpo_mmpc.ablation.jobs import Job, State, command_of, state_of
from grpo_mmpc.utils.files import append_json_lines
from grpo_mmpc.utils.processes import Child, log_tail

GRACE_S = 120.0
"""Time that a run gets to finish its step and save when it is asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of an attempt."""

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
        """Start a job that is not finished, or wait for its lock: ``poll`` starts it then.

        ``environment`` is set for its processes, over this process's own.
        """
        self.job = job
        self._environment = environment
        self._started = time.monotonic()
        self._is_asked = False
        self._command: list[str] = []
        self._child: Child | None = None
        self._start()

    def _start(self) -> None:
        """Start unless another attempt, which may still be writing, holds the lock."""
        job = self.job
        job.config.parent.mkdir(parents=True, exist_ok=True)
        with job.lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            # Finished by the attempt that held it, there is nothing to do.
            self._command = ["true"] if state_of(job) == State.FINISHED else command_of(job)
            self._child = Child(
                self._command,
                log=job.log,
                environment=os.environ | self._environment,
                grace_s=GRACE_S,
                working_directory=job.working_directory,
                inherited=[lock.fileno()],  # the lock stays held as long as any process has it
            )

    def stop(self) -> None:
        """Ask it to save and end; one that takes too long is killed."""
        if not self._is_asked and self._child is not None:
            self._child.stop()
        self._is_asked = True

    def kill(self) -> None:
        """End it at once."""
        self._is_asked = True
        if self._child is not None:
            self._child.kill()

    def poll(self) -> Outcome | None:
        """Return how it ended; None while it runs."""
        if self._child is None and self._is_asked:
            return Outcome(name=self.job.name, finished=False, stopped=True, status=128 + signal.SIGTERM, tail="")
        if self._child is None:
            self._start()
        status = None if self._child is None else self._child.poll()
        if status is None:
            return None
        finished = state_of(self.job) == State.FINISHED
        record = {
            "seconds": round(time.monotonic() - self._started, 1),
            "status": status,
            "finished": finished,
            "host": platform.node(),
            "command": self._command,
        }
        append_json_lines(self.job.attempts, [record])
        return Outcome(
            name=self.job.name,
            finished=finished,
            stopped=self._is_asked and not finished and status in (130, 128 + signal.SIGTERM, 128 + signal.SIGKILL),
            status=status,
            tail="" if finished else log_tail(self.job.log),
        )


def attempt(job: Job) -> Outcome:
    """Run a job to the end of one attempt; an interruption lets the job save and end first."""
    if state_of(job) == State.FINISHED:
        return Outcome(name=job.name, finished=True, stopped=False, status=0, tail="")
    running = Attempt(job, environment={})
    try:
        while (outcome := running.poll()) is None:
            time.sleep(0.2)
    except BaseException:  # Ray cancels a task by raising KeyboardInterrupt in it
        running.stop()
        while running.poll() is None:
            time.sleep(0.2)
        raise
    return outcome
