"""Running many jobs: as processes of this machine with a share of it each, or as Ray tasks."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from grpo_mmpc.ablation.attempt import Attempt, Outcome, attempt
from grpo_mmpc.ablation.jobs import Job, steps_done
from grpo_mmpc.utils.console import Progress, printer
from grpo_mmpc.utils.jobs import Environment, Lost, Running, ray_cluster, ray_tasks, run_queue
from grpo_mmpc.utils.processes import StopRequest

_NAMES_SHOWN = 4
_SHOW_EVERY_S = 1.0


def run_local(
    jobs: Sequence[Job], *, given: Sequence[Environment], retries: int, already: int = 0
) -> dict[str, Outcome]:
    """Run jobs that are not finished as processes of this machine; return how each ended.

    Args:
        jobs: What is left to do.
        given: See ``shares_of_machine``; training on two cores is done sooner by two runs of one
            thread than by two threads of one run.
        retries: Further attempts of a job that failed.
        already: Jobs that were finished before, for the progress.

    Returns:
        Outcomes by name; jobs that were stopped before they began are left out.
    """
    board = _Board(jobs, already=already)
    return _run(jobs, lambda job, slot: Attempt(job, environment=slot), given, retries=retries, board=board)


def run_ray(
    jobs: Sequence[Job],
    *,
    address: str | None,
    parallel: int | None,
    gpus_per_run: int | None,
    cpus_per_run: int | None,
    retries: int,
    already: int = 0,
) -> dict[str, Outcome]:
    """Run jobs that are not finished as Ray tasks; return how each ended, as ``run_local`` does.

    A task runs the same supervised process as ``run_local``. One whose machine is lost is a failed
    attempt like any other, and continues from the run folder.

    Args:
        jobs: Their folders must be on a disk that every machine of the cluster sees under the same
            path.
        address: See ``ray_cluster``.
        parallel: At most this many at once; None as many as the cluster has room for.
        gpus_per_run: None takes one where the cluster has any.
        cpus_per_run: Cores and threads of each run; None takes one.
        retries: Further attempts of a job that failed, or whose machine was lost.
        already: Jobs that were finished before, for the progress.

    Raises:
        ConfigError: Ray is not installed, cannot be reached, or has too few GPUs or cores for one
            run.
    """
    with ray_cluster(address) as ray:
        gpus = (1 if ray.cluster_resources().get("GPU") else 0) if gpus_per_run is None else gpus_per_run
        needs = {"CPU": cpus_per_run or 1, "GPU": gpus}
        submit = ray_tasks(ray, attempt, cpus=needs["CPU"], gpus=gpus, what="run")

        def room() -> int:
            has = ray.cluster_resources()
            return min(int(has.get(name, 0) // needed) for name, needed in needs.items() if needed)

        return _run(
            jobs,
            lambda job, _: submit(job),
            [None] * (parallel or len(jobs)),
            retries=retries,
            board=_Board(jobs, already=already, room=room),
        )


def _run(
    jobs: Sequence[Job],
    start: Callable[[Job, Any], Running[Outcome | Lost]],
    given: Sequence[Any],
    *,
    retries: int,
    board: "_Board",
) -> dict[str, Outcome]:
    message = "stopping: every run finishes its step and saves; press Ctrl-C again to kill them"
    with StopRequest(message).listening() as stop, board.progress:
        ended = run_queue(
            jobs,
            start,
            slots=given,
            retries=retries,
            failed=lambda result: not (result.stopped or (isinstance(result, Outcome) and result.finished)),
            ended=lambda job, result, again: board.ended(_outcome(job, result), again=again),
            show=board.show,
            stop=stop,
        )
    return {job.name: _outcome(job, result) for job, result in ended}


def _outcome(job: Job, result: Outcome | Lost) -> Outcome:
    if isinstance(result, Outcome):
        return result
    return Outcome(name=job.name, finished=False, stopped=result.stopped, status=1, tail=str(result.error))


class _Board:
    """Says how every job ended, and shows how far all of them are."""

    def __init__(self, jobs: Sequence[Job], *, already: int, room: Callable[[], int] | None = None) -> None:
        self.progress = Progress()
        self._total = len(jobs)
        self._already = already
        self._room = room
        self._ended = 0
        self._failed = 0
        self._shown = 0.0
        self._say = printer(True)

    def ended(self, outcome: Outcome, *, again: bool) -> None:
        """Say how a job ended."""
        if outcome.finished:
            self._ended += 1
            self._say(f"finished {outcome.name}")
        elif outcome.stopped:
            self._say(f"stopped {outcome.name}; it can be continued")
        elif again:
            self._say(f"{outcome.name} failed (status {outcome.status}), trying again")
        else:
            self._failed += 1
            tail = "\n".join(f"    {line}" for line in outcome.tail.splitlines())
            self._say(f"{outcome.name} FAILED (status {outcome.status}):\n{tail}")

    def show(self, running: Sequence[Job]) -> None:
        """Show ``runs: 5/16, 2 running (a/seed-0 12/30, b/seed-0 9/30), 0 failed, 9 waiting``."""
        now = time.monotonic()
        if now - self._shown < _SHOW_EVERY_S:  # steps are counted in files
            return
        self._shown = now
        if self._room is not None:  # Ray starts tasks in order; those that find no room are waiting there
            running = running[: self._room()]
        steps = {job.name: (steps_done(job), job.max_steps) for job in running}
        names = [f"{name} {done}/{of}" if of > 0 else name for name, (done, of) in steps.items()]
        parts = [f"{len(running)} running", f"{self._failed} failed"]
        if names:
            more = ", …" if len(names) > _NAMES_SHOWN else ""
            parts[0] += f" ({', '.join(names[:_NAMES_SHOWN])}{more})"
        parts.append(f"{self._total - self._ended - self._failed - len(running)} waiting")
        begun = sum(min(0.99, done / of) for done, of in steps.values() if of > 0)
        self.progress("runs", self._already + self._ended + begun, self._already + self._total, detail=", ".join(parts))
