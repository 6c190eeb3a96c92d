"""The ranks of one launch, and the only broadcast and gather between them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from grpo_mmpc.errors import EvaluationError, GrpoMmpcError

T = TypeVar("T")


def _itself(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among the others; one process on its own by default.

    All methods are collectives: every rank calls them, equally often and in the same order.
    """

    rank: int = 0
    count: int = 1
    broadcast: Callable[[Any], Any] = _itself
    """Gives every rank the object of rank 0."""
    gather: Callable[[list[Any]], list[Any]] = _itself
    """Gives every rank the items of all, in the order of the ranks."""

    @property
    def is_main(self) -> bool:
        """True for the process that alone reads, scores, prints and writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return flag if self.count == 1 else any(self.gather([flag]))

    def on_main(self, work: Callable[[], T], *, error: type[GrpoMmpcError] = EvaluationError) -> T:
        """Do something on the main process and return its result on every rank.

        Raises:
            Exception: The one that ``work`` raised, on the main process.
            GrpoMmpcError: ``error``, on the other ranks then, so that none of them waits for it.
        """
        result, failure = None, None
        if self.is_main:
            try:
                result = work()
            except Exception as raised:  # whatever it is, the other ranks must hear of it
                failure = raised
        answer, message = self.broadcast((result, None if failure is None else f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        if message is not None:
            raise error(f"the main process failed: {message}")
        return answer  # type: ignore[no-any-return]

    def on_all(self, work: Callable[[], T], *, error: type[GrpoMmpcError]) -> list[T]:
        """Do something on every rank and return all results, in the order of the ranks.

        Raises:
            Exception: The one that ``work`` raised, on its own rank.
            GrpoMmpcError: ``error``, where another rank failed.
        """
        result, failure, message = None, None, None
        try:
            result = work()
        except Exception as raised:  # whatever it is, the other ranks must hear of it
            failure, message = raised, f"rank {self.rank} failed: {type(raised).__name__}: {raised}"
        answers = self.gather([(message, result)])
        if failure is not None:
            raise failure
        for message, _ in answers:
            if message is not None:
                raise error(message)
        return [result for _, result in answers]


ONE = Ranks()
"""A process on its own."""


def is_first_process() -> bool:
    """Return whether this is the main process, before the ranks of a launch have met."""
    return os.environ.get("RANK", "0") == "0"


def is_first_here() -> bool:
    """Return whether this is the first process of the launch on this machine, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def num_processes() -> int:
    """Return how many processes the launch has, before they have met."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_ranks() -> Ranks:
    """Return the ranks that ``accelerate launch`` or Slurm started, or one process on its own."""
    # heavy: imported on use
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object

    state = PartialState()
    if state.num_processes == 1:
        return ONE
    return Ranks(
        rank=state.process_index,
        count=state.num_processes,
        broadcast=lambda value: broadcast_object_list([value])[0],
        gather=lambda items: list(gather_object(items)),
    )
