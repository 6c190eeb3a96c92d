"""The workers of one completion: this process, processes of this machine, or Ray tasks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from grpo_mmpc.completion.part import Part
from grpo_mmpc.completion.worker import Share, fill_share
from grpo_mmpc.errors import RolloutError, first_line
from grpo_mmpc.rollout.offline import engine_shares, gpus_of_engine
from grpo_mmpc.utils.console import Progress, Say
from grpo_mmpc.utils.jobs import Lost, Running, ray_cluster, ray_tasks, run_queue, worker_processes

_RETRIES = 2
"""Further attempts at a share whose worker was killed, or whose machine was lost."""
_LOOK_EVERY_S = 2.0


def fill_here(share: Share, *, workers: int | None, say: Say, progress: Progress) -> None:
    """Fill the parts of a share on this machine, by one worker a device.

    Args:
        share: All parts that are to be filled.
        workers: See ``engine_shares``. A single one is this process.
        say: Prints what is loaded, and by how many.
        progress: Shows the gaps that are filled.

    Raises:
        GrpoMmpcError: The policy or the renderer cannot be loaded, or fails on all items alike.
    """
    environments = engine_shares(share.config, workers=workers)[: len(share.parts)]
    if len(environments) == 1:
        total = sum(part.progress()[0] for part in share.parts)
        fill_share(share, say, lambda done: progress("filling", done, total))
        return
    say(f"{len(environments)} workers fill {len(share.parts)} parts")
    with worker_processes(environments) as submit:
        _run(share, len(environments), lambda own, number: submit(number, fill_share, own), progress=progress)


def fill_by_ray(share: Share, *, address: str | None, workers: int | None, say: Say, progress: Progress) -> None:
    """Fill the parts of a share as Ray tasks, one a worker; see ``fill_here`` and ``ray_cluster``.

    All machines must see catalogue, model and output folder under the same paths. Without a number
    of workers there are as many as the cluster has room for.
    """
    with ray_cluster(address) as ray:
        has = ray.cluster_resources()
        gpus = gpus_of_engine(share.config) if has.get("GPU") else 0
        room = int(has.get("GPU", 0) // gpus if gpus else has.get("CPU", 1))
        count = min(workers or max(1, room), len(share.parts))
        submit = ray_tasks(ray, fill_share, cpus=1, gpus=gpus, what="worker")
        say(f"{count} workers of the Ray cluster fill {len(share.parts)} parts")
        _run(share, count, lambda own, _: submit(own), progress=progress)


def _run(share: Share, count: int, start: Callable[[Share, int], Running[Any]], *, progress: Progress) -> None:
    shares = [replace(share, parts=share.parts[number::count], number=number) for number in range(count)]

    def ended(own: Share, result: Any, again: bool) -> None:
        if isinstance(result, Lost) and result.raised:
            raise getattr(result.error, "cause", result.error)  # Ray wraps what the function raised
        if isinstance(result, Lost) and not again:
            raise RolloutError(
                f"worker {own.number + 1} of {count} was ended from outside {_RETRIES + 1} times, as the system does "
                f"when memory runs out ({first_line(result.error)}); what is filled is kept: give the command again, "
                "with fewer --workers or a smaller evaluation.batch_size"
            )

    run_queue(
        shares,
        start,
        slots=range(count),
        ended=ended,
        retries=_RETRIES,
        failed=lambda result: isinstance(result, Lost),
        show=_Shown(share.parts, progress),
    )
    progress.close()


class _Shown:
    """Shows how far all workers are, by the files that they write."""

    def __init__(self, parts: Sequence[Part], progress: Progress) -> None:
        self._progress = progress
        self._left = {part: part.stamp() for part in parts}
        self._total = sum(part.progress()[0] for part in parts)
        self._done = 0
        self._looked = 0.0

    def __call__(self, running: Sequence[Share]) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked, begun = now, 0
        for part, stamp in list(self._left.items()):
            gaps, completed = part.progress()
            if part.stamp() != stamp:
                self._done += gaps
                del self._left[part]
            else:
                begun += completed
        self._progress("filling", self._done + begun, self._total, detail=f"{len(running)} workers")
