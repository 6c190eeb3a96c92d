"""Runs many cells: in processes of this machine, or as tasks of a Ray cluster."""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import ConfigError, RecBenchError
from grpo_mmpc.recbench.cells import Cell, run_cell
from grpo_mmpc.utils.jobs import ray_cluster, task_environment
from grpo_mmpc.utils.processes import die_with_parent

Failures = dict[str, str]
"""Key of a cell -> why it has no result."""

Shown = Callable[[int], None]
"""Called with the number of cells that are done."""


def run_local(
    folder: Path, cells: Sequence[Cell], *, parallel: int | None, device: str | None, show: Shown
) -> Failures:
    """Run cells in processes of this machine; finished ones stay finished when this is interrupted.

    Args:
        folder: Work folder with their inputs.
        cells: What to run.
        parallel: At most this many at once; None as many as GPUs, or as cores without one. 1 runs
            them in this process.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes GPUs where there are any.
        show: Progress.

    Raises:
        RecBenchError: A worker was killed, as the system does when memory runs out.
    """
    devices = _devices(device)
    count = min(len(cells), parallel or (len(devices) if devices != ["cpu"] else len(os.sched_getaffinity(0))))
    if count <= 1:
        return _run_here(folder, cells, device=devices[0], show=show)
    context = get_context("spawn")
    given = context.SimpleQueue()
    for number in range(count):
        given.put(devices[number % len(devices)])
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    failures: Failures = {}
    with ProcessPoolExecutor(
        count, mp_context=context, initializer=_start, initargs=(given, threads, os.getpid())
    ) as pool:
        try:
            waiting: dict[Future[str | None], Cell] = {pool.submit(_attempt, folder, cell): cell for cell in cells}
            for done, future in enumerate(as_completed(waiting), start=1):
                problem = future.result()
                if problem is not None:
                    failures[waiting[future].key] = problem
                show(done)
        except BrokenProcessPool as error:
            raise RecBenchError(
                "a worker of the recommendation benchmark was killed, as the system does when memory runs out; finished "
                "cells are kept: run again, with training.parallel=1 if it happens again"
            ) from error
        except BaseException:
            # Leaving the block would wait for the cells that are being trained, for hours in the
            # worst case. What they write appears whole or not at all.
            for worker in list(pool._processes.values()):
                worker.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def run_ray(
    folder: Path, cells: Sequence[Cell], *, address: str | None, parallel: int | None, gpus_per_cell: float, show: Shown
) -> Failures:
    """Run cells as Ray tasks with one core each; ``folder`` must be on a disk that all machines see under one path.

    Args:
        folder: Work folder with their inputs.
        cells: What to run.
        address: See ``ray_cluster``.
        parallel: At most this many at once; None as many as the cluster has room for.
        gpus_per_cell: Share of a GPU that each takes; 0 runs on cores.
        show: Progress.

    Raises:
        ConfigError: Ray is missing, cannot be reached, or has no GPU although one was asked for.
    """
    with ray_cluster(address) as ray:
        if gpus_per_cell > ray.cluster_resources().get("GPU", 0):
            raise ConfigError([f"a cell needs {gpus_per_cell:g} GPUs, the Ray cluster has none to give"])
        device = "cuda" if gpus_per_cell else "cpu"
        task = ray.remote(_attempt).options(
            num_cpus=1, num_gpus=gpus_per_cell, max_retries=2, runtime_env={"env_vars": task_environment(cpus=1)}
        )
        waiting, failures, done = list(cells), Failures(), 0
        running: dict[Any, Cell] = {}
        while waiting or running:
            while waiting and len(running) < (parallel or len(cells)):
                cell = waiting.pop(0)
                running[task.remote(folder.resolve(), cell, device)] = cell
            for reference in ray.wait(list(running), timeout=1.0)[0]:
                cell, problem = running.pop(reference), _result(ray, reference)
                if problem is not None:
                    failures[cell.key] = problem
                done += 1
                show(done)
        return failures


def _result(ray: Any, reference: Any) -> str | None:
    try:
        problem: str | None = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # a mistake of ours
    except ray.exceptions.RayError as error:  # a lost machine has several names
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return problem


def _run_here(folder: Path, cells: Sequence[Cell], *, device: str, show: Shown) -> Failures:
    failures = {}
    for done, cell in enumerate(cells, start=1):
        problem = _attempt(folder, cell, device)
        if problem is not None:
            failures[cell.key] = problem
        show(done)
    return failures


_own_device = "cpu"
"""Of a worker process, given to it when it starts."""


def _start(given: Any, threads: int, parent: int) -> None:
    """In a worker: end with the main process, leave Ctrl-C to it, take a device."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch  # heavy: imported on use

    global _own_device
    _own_device = given.get()
    torch.set_num_threads(threads)


def _attempt(folder: Path, cell: Cell, device: str | None = None) -> str | None:
    """Run one cell; what is wrong with its data or with this machine is said and does not end the others."""
    import torch  # heavy: imported on use

    try:
        run_cell(folder, cell, device=device or _own_device)
    except (RecBenchError, OSError, torch.OutOfMemoryError) as error:
        return str(error).splitlines()[0]
    return None


def _devices(device: str | None) -> list[str]:
    if device is not None:
        return [device]
    import torch  # heavy: imported on use

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
