"""A queue of a server: requests of many threads, answered together by one."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from typing import Generic, NoReturn, TypeVar

from grpo_mmpc.errors import GrpoMmpcError, RolloutError

T = TypeVar("T")
R = TypeVar("R")

MOST_WAITING = 256
"""Requests that may wait; who comes then is sent away."""


class BusyError(GrpoMmpcError):
    """Too many requests wait already."""


@dataclass(frozen=True, kw_only=True)
class _Request(Generic[T, R]):
    items: Sequence[T]
    done: "Future[list[R]]" = field(default_factory=Future)


class BatchQueue(Generic[T, R]):
    """Answers requests of any thread, in the one that calls ``run``.

    That thread owns the model, and takes all requests that wait, up to a batch of it.
    """

    def __init__(self, work: Callable[[list[T]], Sequence[R]], *, batch_size: Callable[[], int]) -> None:
        """Take the work: one result for each item of a batch, in their order."""
        self._work, self._batch_size = work, batch_size
        self._waiting: Queue[_Request[T, R]] = Queue(MOST_WAITING)

    def submit(self, items: Sequence[T]) -> "Future[list[R]]":
        """Let items wait for their turn; the future gets a result for each.

        Raises:
            BusyError: Too many requests wait already.
        """
        request: _Request[T, R] = _Request(items=items)
        try:
            self._waiting.put_nowait(request)
        except Full:
            raise BusyError(f"{MOST_WAITING} requests wait already; try again in a few seconds") from None
        return request.done

    def run(self) -> NoReturn:
        """Answer requests until this thread is interrupted, or an error ends it.

        Raises:
            BaseException: Anything but a ``GrpoMmpcError``: that one only its requests get.
        """
        requests: list[_Request[T, R]] = []
        try:
            while True:
                requests = [self._waiting.get()]
                requests += self._others(self._batch_size() - len(requests[0].items))
                # Nobody waits any more for what was cancelled, and it takes no result.
                requests = [one for one in requests if one.done.set_running_or_notify_cancel()]
                if not requests:
                    continue
                try:
                    results = list(self._work([item for one in requests for item in one.items]))
                except GrpoMmpcError as error:
                    for one in requests:
                        one.done.set_exception(error)
                    continue
                for one in requests:
                    one.done.set_result(results[: len(one.items)])
                    results = results[len(one.items) :]
        finally:
            for one in [*requests, *self._others(MOST_WAITING)]:
                if not one.done.done():
                    one.done.set_exception(RolloutError("the server has stopped"))

    def _others(self, room: int) -> list[_Request[T, R]]:
        """Take requests that wait, as long as there is room for their items."""
        taken: list[_Request[T, R]] = []
        while room > 0:
            try:
                taken.append(self._waiting.get_nowait())
            except Empty:
                break
            room -= len(taken[-1].items)
        return taken
