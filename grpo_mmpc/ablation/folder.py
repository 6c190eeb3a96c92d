"""The folder of an ablation: one ``ablate`` at a time, and the untrained model's evaluation in every run."""

import fcntl
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.ablation.jobs import Job, State, state_of
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.files import copy_folder


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder for the duration of a block. The system gives it free when this process ends, however it ends.

    Raises:
        ConfigError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ablation.lock"
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise ConfigError(
                [f"{folder} is in use by another ablate ({owner}); wait for it, or take another folder with --out DIR"]
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}\n")
        lock.flush()
        yield


def share_base(runs: Sequence[PlannedRun], jobs: Sequence[Job]) -> None:
    """Give every finished run the evaluation of the untrained model, so that ``grpo-mmpc report RUN`` compares with it."""
    keys = list(dict.fromkeys(run.base_key for run in runs))
    by_name = {job.name: job for job in jobs}
    for run in runs:
        job, base = by_name[run.name], by_name[f"base-{keys.index(run.base_key)}"]
        target = job.folder / "evaluations" / "base" / job.suite
        if state_of(job) == state_of(base) == State.FINISHED and not target.exists():
            copy_folder(base.final, target)
