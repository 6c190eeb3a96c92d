"""Single out what fails in a batch, so that one bad item never stops the others."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grpo_mmpc.errors import GrpoMmpcError, first_line

T = TypeVar("T")
R = TypeVar("R")


SET_ASIDE_FILE = "set_aside.jsonl"
"""Lists the prompts that a training or an evaluation could not take, in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Takes the place of the result of an item that is set aside."""

    reason: str
    """The error or refusal, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised(Failure):
    """A failure that was raised, where others are refusals."""


def single_out(
    work: Callable[[list[T]], Sequence[R]],
    items: Sequence[T],
    *,
    batch_size: Callable[[], int],
    what: str,
    memory_advice: str,
    error: type[GrpoMmpcError],
    num_distinct: int,
) -> list[R | Failure]:
    """Work in batches; halve one that raises until what raises stands alone.

    Halving is also the answer to a batch that does not fit into memory.

    Args:
        work: One result for each item of a batch.
        items: N items.
        batch_size: Asked before each batch, since a full memory may lower it.
        what: Who works, for messages.
        memory_advice: What to do where not even one item fits into memory.
        error: Raised where no item is to blame.
        num_distinct: Number of different items; equal ones rightly fail alike.

    Returns:
        N results in the order of the items, a ``Raised`` for each item that failed alone.

    Raises:
        GrpoMmpcError: Different items all raised the very same error, so that they are not to
            blame: going on would score a model for a broken renderer or engine.
    """
    results: list[R | Failure] = []
    while len(results) < len(items):
        start = len(results)
        results += _halving(work, list(items[start : start + max(1, batch_size())]), memory_advice)
    raised = {result.reason for result in results if isinstance(result, Raised)}
    if num_distinct > 1 and len(raised) == 1 and all(isinstance(result, Raised) for result in results):
        raise error(
            f"{what} failed in the same way on all of {len(items)} items, so they are not to blame: {raised.pop()}"
        )
    return results


def _halving(work: Callable[[list[T]], Sequence[R]], items: list[T], memory_advice: str) -> list[R | Failure]:
    try:
        return list(work(items))
    # Processors, tokenizers, models and renderers of others raise anything at all; our own errors
    # say that the fault is no item's. After a lost device whatever follows would fail, too.
    except Exception as error:
        if isinstance(error, GrpoMmpcError) or _is_torch_error(error, "AcceleratorError"):
            raise
        out_of_memory = is_out_of_memory(error)
        if len(items) == 1:
            reason = f"{type(error).__name__}: {first_line(error)}"
            return [Raised(reason=f"{reason}. {memory_advice}" if out_of_memory else reason)]
    # Outside the except block, because the error's traceback keeps the tensors of the batch alive.
    if out_of_memory:
        _free_memory()
    half = len(items) // 2
    return [*_halving(work, items[:half], memory_advice), *_halving(work, items[half:], memory_advice)]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is Python's or torch's for a full memory."""
    # Torch's allocator on a CPU raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or _is_torch_error(error, "OutOfMemoryError")
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error))
    )


def _is_torch_error(error: BaseException, name: str) -> bool:
    # A torch error means that torch is imported; whoever works without torch must not pay for it.
    kind = getattr(sys.modules.get("torch"), name, None)
    return kind is not None and isinstance(error, kind)


def _free_memory() -> None:
    # Without the attribute, torch is being imported by another thread.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_available():
        cuda.empty_cache()
