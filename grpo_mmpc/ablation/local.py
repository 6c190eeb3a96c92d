"""``--engine local``: jobs as processes of this machine, so many at a time, each with its share of cores or GPUs."""

import os
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence

from grpo_mmpc.ablation.attempt import Attempt, Outcome
from grpo_mmpc.ablation.jobs import Job
from grpo_mmpc.ablation.progress import Board
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.processes import StopRequest

Slot = Mapping[str, str]
"""What one job may use, as environment variables."""

STOPPING = "stopping: every run finishes its step and saves; press Ctrl-C again to kill them"


def slots(*, parallel: int | None, gpus_per_run: int | None, cpus_per_run: int | None) -> list[Slot]:
    """What each of the jobs that run at once here may use.

    Args:
        parallel: At most this many; None as many as GPUs or cores allow: training on two cores is
            done sooner by two runs of one thread than by two threads of one run.
        gpus_per_run: GPUs of each run; None takes one where there are any.
        cpus_per_run: Threads of each run; None shares the cores out.

    Raises:
        ConfigError: There are fewer GPUs than one run needs.
    """
    gpus, cores = _gpus(), len(os.sched_getaffinity(0))
    gpus_per_run = (1 if gpus else 0) if gpus_per_run is None else gpus_per_run
    if gpus_per_run > len(gpus):
        raise ConfigError([f"--gpus-per-run is {gpus_per_run}, but this machine has {len(gpus)} GPUs to give"])
    at_most = len(gpus) // gpus_per_run if gpus_per_run else cores // (cpus_per_run or 1)
    count = max(1, at_most if parallel is None else parallel)
    if gpus_per_run and count > at_most:
        raise ConfigError([f"--parallel {count} runs of {gpus_per_run} GPUs need more than the {len(gpus)} there are"])
    threads = str(cpus_per_run or max(1, cores // count))
    environments: list[Slot] = []
    for number in range(count):
        own = gpus[number * gpus_per_run : (number + 1) * gpus_per_run]
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(own)} if gpus else {}
        environments.append({"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | visible)
    return environments


def run_local(jobs: Sequence[Job], *, given: Sequence[Slot], retries: int, board: Board) -> dict[str, Outcome]:
    """Run jobs that are not finished; returns how each ended. Those that were stopped before they began are left out."""
    waiting, free = deque(jobs), list(range(len(given)))
    running: dict[int, Attempt] = {}
    tries: dict[str, int] = {}
    outcomes: dict[str, Outcome] = {}
    with StopRequest(STOPPING).listening() as stop:
        try:
            while running or (waiting and not stop.times):
                while free and waiting and not stop.times:
                    slot, job = free.pop(0), waiting.popleft()
                    tries[job.name] = tries.get(job.name, 0) + 1
                    running[slot] = Attempt(job, environment=given[slot])
                time.sleep(0.1)
                for slot, attempt in list(running.items()):
                    if stop.times:
                        attempt.stop()
                    if stop.times > 1:
                        attempt.kill()
                    outcome = attempt.poll()
                    if outcome is None:
                        continue
                    del running[slot]
                    free.append(slot)
                    retry = not (outcome.finished or outcome.stopped) and tries[attempt.job.name] <= retries
                    board.ended(outcome, retry=retry)
                    if retry:
                        waiting.append(attempt.job)
                    else:
                        outcomes[attempt.job.name] = outcome
                board.show([attempt.job for attempt in running.values()])
        finally:
            for attempt in running.values():
                attempt.kill()
    return outcomes


def _gpus() -> list[str]:
    """Names of this machine's GPUs as CUDA_VISIBLE_DEVICES takes them, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]
