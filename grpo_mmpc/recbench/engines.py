"""The engines that run cells: processes of this machine, or tasks of a Ray cluster."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import RecBenchError, first_line
from grpo_mmpc.recbench.cells import RecommenderCell, run_cell
from grpo_mmpc.utils.faults import explain_os_error
from grpo_mmpc.utils.jobs import Done, Lost, Running, ray_cluster, ray_tasks, run_queue, threads, worker_processes

Failures = dict[str, str]
"""Key of a cell -> why it has no result."""

Shown = Callable[[int], None]
"""Called with the number of cells that are done."""

_RETRIES = 2
"""Further attempts of a cell whose machine was lost."""


def run_local(
    folder: Path, cells: Sequence[RecommenderCell], *, parallel: int | None, device: str | None, show: Shown
) -> Failures:
    """Run cells in processes of this machine; finished ones stay finished when this is interrupted.

    Args:
        folder: Work folder with their inputs.
        cells: What to run.
        parallel: At most this many at once; None as many as GPUs, or as cores without one. 1 runs
            them in this process.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes GPUs where there are any.
        show: Called with every cell that is done.

    Raises:
        RecBenchError: A worker was killed, as the system does when memory runs out.
    """
    devices, cores = _devices(device), len(os.sched_getaffinity(0))
    count = min(len(cells), parallel or (cores if devices == ["cpu"] else len(devices)))
    if count <= 1:
        return _run(cells, lambda cell, own: Done(attempt(folder, cell, own)), slots=devices[:1], show=show)
    with worker_processes([threads(max(1, cores // count))] * count) as submit:
        return _run(
            cells,
            lambda cell, own: submit(own, attempt, folder, cell, devices[own % len(devices)]),
            slots=range(count),
            show=show,
        )


def run_ray(
    folder: Path,
    cells: Sequence[RecommenderCell],
    *,
    address: str | None,
    parallel: int | None,
    gpus_per_cell: float,
    show: Shown,
) -> Failures:
    """Run cells as Ray tasks with one core each; all machines must see ``folder`` under one path.

    Args as of ``run_local`` and ``ray_cluster``; each cell takes ``gpus_per_cell`` of a GPU, or
    none and runs on cores.

    Raises:
        ConfigError: Ray is missing, cannot be reached, or has no GPU although one was asked for.
    """
    slots = ["cuda" if gpus_per_cell else "cpu"] * (parallel or len(cells))
    with ray_cluster(address) as ray:
        call = ray_tasks(ray, attempt, cpus=1, gpus=gpus_per_cell, what="recommender")
        return _run(
            cells, lambda cell, own: call(folder.resolve(), cell, own), slots=slots, show=show, retries=_RETRIES
        )


def attempt(folder: Path, cell: RecommenderCell, device: str) -> str:
    """Run one cell; return what is wrong with its data or its machine, empty if nothing is."""
    import torch  # heavy: imported on use

    try:
        run_cell(folder, cell, device=device)
    except torch.OutOfMemoryError as error:
        return f"{first_line(error)}; lower training.batch_size, or run fewer at once (--parallel)"
    except OSError as error:
        return explain_os_error(error).splitlines()[0]
    except (RecBenchError, RuntimeError, MemoryError) as error:  # PyTorch's own are RuntimeErrors
        return first_line(error)
    return ""


def _run(
    cells: Sequence[RecommenderCell],
    start: Callable[[RecommenderCell, Any], Running[str | Lost]],
    *,
    slots: Sequence[Any],
    show: Shown,
    retries: int = 0,
) -> Failures:
    failures: Failures = {}
    done = 0

    def ended(cell: RecommenderCell, result: str | Lost, again: bool) -> None:
        nonlocal done
        if isinstance(result, Lost):
            if result.raised:
                raise result.error  # a mistake of ours
            if again:
                return
            if isinstance(result.error, BrokenProcessPool):
                raise RecBenchError(
                    "a worker of the recommendation benchmark was killed, as the system does when memory runs out; "
                    "finished cells are kept: run again, with training.parallel=1 if it happens again"
                )
            result = f"{type(result.error).__name__}: {str(result.error).splitlines()[0]}"
        if result:
            failures[cell.key] = result
        done += 1
        show(done)

    run_queue(cells, start, slots=slots, ended=ended, retries=retries, failed=lambda result: isinstance(result, Lost))
    return failures


def _devices(device: str | None) -> list[str]:
    if device is not None:
        return [device]
    import torch  # heavy: imported on use

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
