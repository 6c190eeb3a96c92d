"""What is shown while an ablation runs: one line, and one more for everything that ends."""

import sys
import time
from collections.abc import Collection, Sequence

from grpo_mmpc.ablation.attempt import Outcome
from grpo_mmpc.ablation.jobs import Job, steps_done

_EVERY_S = 30.0
_NAMES_SHOWN = 4


class Board:
    """Counts jobs and prints: on a terminal a line that is rewritten, in a log file one line now and then."""

    def __init__(self, jobs: Sequence[Job], *, already: int) -> None:
        """Start the clock.

        Args:
            jobs: Still to do.
            already: Finished earlier; counted, and left out of the time that is foretold.
        """
        self._total = len(jobs)
        # What earlier attempts did says nothing about how fast this one is.
        self._before = {job.name: _share(job) for job in jobs}
        self._gained = 0.0
        self._already = already
        self._done = 0
        self._failed = 0
        self._started = time.monotonic()
        self._printed = 0.0

    def ended(self, outcome: Outcome, *, retry: bool) -> None:
        """Say how a job ended."""
        if outcome.finished:
            self._done += 1
            self._gained += 1 - self._before.get(outcome.name, 0.0)
            self._print(f"finished {outcome.name}")
        elif outcome.stopped:
            self._print(f"stopped {outcome.name}; it can be continued")
        elif retry:
            self._print(f"{outcome.name} failed (status {outcome.status}), trying again")
        else:
            self._failed += 1
            self._print(f"{outcome.name} FAILED (status {outcome.status}):\n{_indented(outcome.tail)}")

    def show(self, running: Collection[Job]) -> None:
        """Rewrite the line."""
        now = time.monotonic()
        if not sys.stdout.isatty() and now - self._printed < _EVERY_S:
            return
        self._printed = now
        text = self.line(running, elapsed=now - self._started)
        print(f"\r\x1b[2K{text}" if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n", flush=True)  # noqa: T201

    def line(self, running: Collection[Job], *, elapsed: float) -> str:
        """``runs: 5 done, 2 running (bleu/seed-0 12/30, clip/seed-0 9/30), 0 failed, 11 waiting, 4:10 left``."""
        steps = {job.name: (steps_done(job), job.max_steps) for job in running}
        shown = [f"{name} {done}/{of}" if of > 0 else name for name, (done, of) in steps.items()][:_NAMES_SHOWN]
        waiting = self._total - self._done - self._failed - len(running)
        parts = [f"runs: {self._already + self._done} done", f"{len(running)} running", f"{self._failed} failed"]
        if shown:
            parts[1] += f" ({', '.join(shown)}{', …' if len(running) > len(shown) else ''})"
        parts.append(f"{waiting} waiting")
        gained = self._gained + sum(max(0.0, _share(job) - self._before.get(job.name, 0.0)) for job in running)
        if gained > 0:
            to_do = self._total - self._failed - sum(self._before.values())
            left = int(elapsed * max(0.0, to_do - gained) / gained)
            parts.append(f"about {left // 60}:{left % 60:02d} left")
        return ", ".join(parts)

    def _print(self, text: str) -> None:
        print(f"\r\x1b[2K{text}" if sys.stdout.isatty() else text, flush=True)  # noqa: T201


def _share(job: Job) -> float:
    """Share of a job's steps that is done."""
    return min(1.0, steps_done(job) / job.max_steps) if job.max_steps > 0 else 0.0


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
