"""Batches that fail: exactly what fails alone is set aside."""

from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_mmpc.errors import EvaluationError, RolloutError
from grpo_mmpc.utils.single_out import Failure, Raised, single_out


class Upper:
    """Upper-cases words; raises for a bad word or a large batch; notes its calls."""

    def __init__(
        self, *, bad: Collection[str] = (), memory: int = 10**6, error: Callable[[str], BaseException] = ValueError
    ) -> None:
        self.bad, self.memory, self.error = bad, memory, error
        self.calls: list[str] = []

    def __call__(self, words: list[str]) -> list[str]:
        self.calls.append("".join(words))
        if len(words) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for word in words:
            if word in self.bad:
                raise self.error(f"cannot read {word}")
        return [word.upper() for word in words]


def singled_out(work: Callable[[list[str]], Any], words: str | list[str], *, batch_size: int = 10) -> list[Any]:
    return single_out(
        work,
        words,
        batch_size=lambda: batch_size,
        what="the reader",
        memory_advice="Buy some",
        error=RolloutError,
        num_distinct=len(set(words)),
    )


@settings(deadline=None, max_examples=60)
@given(bad=st.lists(st.booleans(), min_size=1, max_size=12), batch_size=st.integers(1, 5), memory=st.integers(1, 5))
def test_exactly_the_bad_items_fail_whatever_the_batch_and_the_memory(
    bad: list[bool], batch_size: int, memory: int
) -> None:
    words = [chr(ord("a") + i) for i in range(len(bad))]
    work = Upper(bad={word for word, is_bad in zip(words, bad, strict=True) if is_bad}, memory=memory)
    assert singled_out(work, words, batch_size=batch_size) == [
        Raised(reason=f"ValueError: cannot read {word}") if is_bad else word.upper()
        for word, is_bad in zip(words, bad, strict=True)
    ]
    assert max(map(len, work.calls)) <= batch_size


def test_a_batch_is_worked_on_once_and_a_failing_one_is_halved() -> None:
    fine, failing = Upper(), Upper(bad="d")
    singled_out(fine, "abc", batch_size=2)
    singled_out(failing, "abcd", batch_size=4)
    assert (fine.calls, failing.calls) == (["ab", "c"], ["abcd", "ab", "cd", "c", "d"])


def test_the_same_error_for_different_items_is_no_items_fault() -> None:
    def broken(words: list[str]) -> list[str]:
        raise KeyError("weights\ndetails")

    with pytest.raises(RolloutError, match=r"the reader failed in the same way on all of 3 items.*KeyError: 'weights"):
        singled_out(broken, "abc", batch_size=1)
    # One item alone may be at fault.
    assert all("KeyError" in failure.reason for failure in singled_out(broken, "aa"))


def test_refusing_every_item_is_no_error() -> None:
    refused = [Failure(reason="empty"), Failure(reason="empty")]
    assert singled_out(lambda words: refused, "ab") == refused


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_an_item_that_exceeds_the_memory_alone_says_what_to_do(error: Exception) -> None:
    def full(words: list[str]) -> list[str]:
        if "b" in words:
            raise error
        return words

    first, second = singled_out(full, "ab")
    assert first == "a" and second.reason.startswith(type(error).__name__) and second.reason.endswith(". Buy some")


@pytest.mark.parametrize("error", [KeyboardInterrupt, EvaluationError, torch.AcceleratorError])
def test_interruptions_errors_of_our_own_and_a_lost_device_are_not_caught(error: type[BaseException]) -> None:
    work = Upper(bad="b", error=error)
    with pytest.raises(error):
        singled_out(work, "ab")
    assert len(work.calls) == 1
