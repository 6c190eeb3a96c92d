"""``--engine ray``: every job is one Ray task, on this machine or on a cluster with a shared disk."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from grpo_mmpc.ablation.attempt import Outcome, attempt
from grpo_mmpc.ablation.jobs import Job
from grpo_mmpc.ablation.local import STOPPING
from grpo_mmpc.ablation.progress import Board
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.cluster import ray_cluster, task_environment
from grpo_mmpc.utils.processes import StopRequest


def run_ray(
    jobs: Sequence[Job],
    *,
    address: str | None,
    parallel: int | None,
    gpus_per_run: int | None,
    cpus_per_run: int | None,
    retries: int,
    board: Board,
) -> dict[str, Outcome]:
    """Run jobs that are not finished as Ray tasks; returns how each ended.

    A task runs the same supervised process as the local engine. One whose machine is lost is a
    failed attempt like any other, and continues from the run folder.

    Args:
        jobs: Their folders must be on a disk that every machine of the cluster sees under the same
            path.
        address: Of a running cluster, ``auto`` for the one this machine belongs to; None starts one
            for this ablation.
        parallel: At most this many at once; None as many as the cluster has room for.
        gpus_per_run: None takes one where the cluster has any.
        cpus_per_run: Cores and threads of each run; None takes one.
        retries: Further attempts of a job that failed, or whose machine was lost.
        board: What is shown.

    Raises:
        ConfigError: Ray is not installed, cannot be reached, or has too few GPUs or cores for one
            run.
    """
    with ray_cluster(address) as ray:
        has = ray.cluster_resources()
        gpus = (1 if has.get("GPU") else 0) if gpus_per_run is None else gpus_per_run
        cpus = cpus_per_run or 1
        for name, needed in (("GPU", gpus), ("CPU", cpus)):
            if needed > has.get(name, 0):
                raise ConfigError([f"one run needs {needed} {name}s, the whole Ray cluster has {has.get(name, 0):g}"])
        task = ray.remote(attempt).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)

        def room() -> int:
            has = ray.cluster_resources()
            needs = {"CPU": cpus, "GPU": gpus}
            return min(int(has.get(name, 0) // needed) for name, needed in needs.items() if needed)

        environment = task_environment(cpus=cpus)
        return _run(ray, task, jobs, environment, room, parallel=parallel or len(jobs), retries=retries, board=board)


def _run(
    ray: Any,
    task: Any,
    jobs: Sequence[Job],
    environment: dict[str, str],
    room: Callable[[], int],
    *,
    parallel: int,
    retries: int,
    board: Board,
) -> dict[str, Outcome]:
    waiting = deque(jobs)
    running: dict[Any, Job] = {}
    tries: dict[str, int] = {}
    outcomes: dict[str, Outcome] = {}
    with StopRequest(STOPPING).listening() as stop:
        cancelled = 0
        while running or (waiting and not stop.times):
            while waiting and len(running) < parallel and not stop.times:
                job = waiting.popleft()
                tries[job.name] = tries.get(job.name, 0) + 1
                running[task.remote(job, environment=environment)] = job
            if stop.times > cancelled:
                cancelled = stop.times
                for reference in running:
                    # Raises KeyboardInterrupt in the task; by force it kills the worker, and with
                    # it the run.
                    ray.cancel(reference, force=stop.times > 1)
            done, _ = ray.wait(list(running), timeout=0.5)
            for reference in done:
                job = running.pop(reference)
                outcome = _outcome(ray, reference, job)
                retry = not (outcome.finished or outcome.stopped) and tries[job.name] <= retries
                board.ended(outcome, retry=retry)
                if retry:
                    waiting.append(job)
                else:
                    outcomes[job.name] = outcome
            # Ray starts tasks in this order; what the cluster has no room for is waiting there.
            board.show(list(running.values())[: room()])
    return outcomes


def _outcome(ray: Any, reference: Any, job: Job) -> Outcome:
    errors = ray.exceptions
    try:
        outcome: Outcome = ray.get(reference)
    except errors.RayError as error:  # a lost machine has several names
        stopped = isinstance(error, errors.TaskCancelledError) or "KeyboardInterrupt" in str(error)
        return Outcome(name=job.name, finished=False, stopped=stopped, status=1, tail=str(error))
    return outcome
