"""Several processes evaluating together: the main one alone reads and writes, and none waits for one that failed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from grpo_mmpc.errors import EvaluationError

T = TypeVar("T")


def _itself(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among the others; one process on its own by default."""

    is_main: bool = True
    """Whether this process reads, scores and writes."""
    from_main: Callable[[Any], Any] = _itself
    """The main process's value on every rank. A collective."""

    def on_main(self, work: Callable[[], T]) -> T:
        """Do something on the main process and have its result everywhere. A collective.

        Raises:
            Exception: What ``work`` raised, on the main process.
            EvaluationError: On the other ranks then, so that none of them waits for the main one.
        """
        result, failure = None, None
        if self.is_main:
            try:
                result = work()
            except Exception as error:  # whatever it is, the other ranks must hear of it
                failure = error
        answer, message = self.from_main((result, None if failure is None else f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        if message is not None:
            raise EvaluationError(f"the main process failed: {message}")
        return answer  # type: ignore[no-any-return]
