"""Requests of any thread, answered in batches by the one that owns a model."""

import pytest

from grpo_mmpc.utils.batch_queue import BatchQueue


def test_a_cancelled_request_is_not_worked_on_and_ends_no_other() -> None:
    batches: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        if items == [9]:
            raise KeyboardInterrupt
        return [item * 10 for item in items]

    queue: BatchQueue[int, int] = BatchQueue(work, batch_size=lambda: 3)
    cancelled, kept, last = queue.submit([1]), queue.submit([2, 3]), queue.submit([9])
    assert cancelled.cancel()
    with pytest.raises(KeyboardInterrupt):
        queue.run()
    assert batches == [[2, 3], [9]]
    assert kept.result(timeout=0) == [20, 30]
    assert "has stopped" in str(last.exception(timeout=0))
