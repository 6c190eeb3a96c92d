"""The workers of one completion: this process, processes of this machine, or Ray tasks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from grpo_mmpc.completion.part import Part
from grpo_mmpc.completion.worker import Share, fill_shares
from grpo_mmpc.errors import RolloutError, first_line
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.rollout.offline import engine_shares, gpus_of_engine
from grpo_mmpc.utils.console import Progress, Say
from grpo_mmpc.utils.jobs import Lost, Running, ray_cluster, ray_tasks, run_queue, worker_processes

_RETRIES = 2
"""Further attempts at a share whose worker was killed, or whose machine was lost."""
_LOOK_EVERY_S = 2.0


def fill_here(shares: Sequence[Share], *, workers: int | None, say: Say, progress: Progress) -> None:
    """Fill the parts of shares on this machine, by one worker a device.

    Args:
        shares: All parts that are to be filled, of one policy.
        workers: See ``engine_shares``. A single one is this process.
        say: Prints what is loaded, and by how many.
        progress: Shows the gaps that are filled.

    Raises:
        GrpoMmpcError: The policy or the renderer cannot be loaded, or fails on all items alike.
    """
    parts = _num_parts(shares)
    environments = engine_shares(shares[0].config, workers=workers)[:parts]
    if len(environments) == 1:
        total = sum(share.num_gaps for share in shares)
        fill_shares(shares, say, lambda done: progress("filling", done, total))
        return
    say(f"{plural(len(environments), 'worker')} fill {plural(parts, 'part')}")
    with worker_processes(environments) as submit:
        _run(shares, len(environments), lambda own, number: submit(number, fill_shares, own), progress=progress)


def fill_by_ray(
    shares: Sequence[Share], *, address: str | None, workers: int | None, say: Say, progress: Progress
) -> None:
    """Fill the parts of shares as Ray tasks, one a worker; see ``fill_here`` and ``ray_cluster``.

    All machines must see catalogue, model and output folder under the same paths. Without a number
    of workers there are as many as the cluster has room for.
    """
    with ray_cluster(address) as ray:
        has = ray.cluster_resources()
        gpus = gpus_of_engine(shares[0].config) if has.get("GPU") else 0
        room = int(has.get("GPU", 0) // gpus if gpus else has.get("CPU", 1))
        parts = _num_parts(shares)
        count = min(workers or max(1, room), parts)
        submit = ray_tasks(ray, fill_shares, cpus=1, gpus=gpus, what="worker")
        say(f"{plural(count, 'worker')} of the Ray cluster fill {plural(parts, 'part')}")
        _run(shares, count, lambda own, _: submit(own), progress=progress)


def _num_parts(shares: Sequence[Share]) -> int:
    return sum(len(share.parts) for share in shares)


def _run(
    shares: Sequence[Share], count: int, start: Callable[[list[Share], int], Running[Any]], *, progress: Progress
) -> None:
    dealt = [
        [replace(share, parts=share.parts[number::count], number=number) for share in shares] for number in range(count)
    ]

    def ended(own: list[Share], result: Any, again: bool) -> None:
        if isinstance(result, Lost) and result.raised:
            raise getattr(result.error, "cause", result.error)  # Ray wraps what the function raised
        if isinstance(result, Lost) and not again:
            raise RolloutError(
                f"worker {own[0].number + 1} of {count} was ended from outside {_RETRIES + 1} times, as the system "
                f"does when memory runs out ({first_line(result.error)}); what is filled is kept: give the command "
                "again, with fewer --workers or a smaller evaluation.batch_size"
            )

    run_queue(
        dealt,
        start,
        slots=range(count),
        ended=ended,
        retries=_RETRIES,
        failed=lambda result: isinstance(result, Lost),
        show=_Shown([part for share in shares for part in share.parts], progress),
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

    def __call__(self, running: Sequence[list[Share]]) -> None:
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
