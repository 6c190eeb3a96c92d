"""Several processes: what fails on the main one fails on all, so that none waits."""

import threading
from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.errors import EvaluationError, RolloutError
from grpo_mmpc.evaluation.completions import CompletionLog, complete
from grpo_mmpc.tasks.prompt_rows import prompt_rows
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.distributed import Ranks

GREEDY = SamplingConfig(max_tokens=4, temperature=0.0)


class World:
    """Two ranks as threads whose collectives must match, as those of processes must."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=10)
        self._values: list[Any] = [None, None]

    def ranks(self, rank: int) -> Ranks:
        return Ranks(
            rank=rank,
            count=2,
            broadcast=lambda value: self._exchange(rank, value)[0],
            gather=lambda items: [item for list_ in self._exchange(rank, items) for item in list_],
        )

    def _exchange(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def run(self, work) -> list[object]:
        """Return what each rank's work returned or raised."""
        ended: list[object] = [None, None]

        def one(rank: int) -> None:
            try:
                ended[rank] = work(rank, self.ranks(rank))
            except Exception as error:
                ended[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return ended


def test_the_main_process_has_the_result_and_shares_it():
    assert World().run(lambda rank, ranks: ranks.on_main(lambda: f"from rank {rank}")) == ["from rank 0"] * 2


def test_a_failure_of_the_main_process_is_raised_on_every_rank():
    def fails(rank: int, ranks: Ranks) -> None:
        ranks.on_main(lambda: 1 / 0, error=RolloutError)

    first, second = World().run(fails)
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, RolloutError) and "ZeroDivisionError" in str(second)


def test_items_are_gathered_in_the_order_of_the_ranks():
    assert World().run(lambda rank, ranks: ranks.gather([rank, str(rank)])) == [[0, "0", 1, "1"]] * 2


@pytest.mark.parametrize(("flags", "expected"), [((False, False), False), ((False, True), True), ((True, True), True)])
def test_a_flag_of_any_rank_is_seen_by_all(flags, expected):
    assert World().run(lambda rank, ranks: ranks.any(flags[rank])) == [expected] * 2


def test_one_process_asks_nobody():
    alone = Ranks()
    assert alone.is_main and alone.on_main(lambda: 1) == alone.broadcast(1) == 1
    assert alone.gather([1, 2]) == [1, 2] and alone.any(True) and not alone.any(False)


@pytest.mark.parametrize("fails_at", [1, 2, None])
def test_a_full_disk_during_generation_ends_every_rank(small_catalogue, tmp_path: Path, monkeypatch, fails_at):
    rows = prompt_rows(load_catalogue(small_catalogue), range(3), ["text_to_image"])
    added = []

    def add(self, *arguments) -> None:
        added.append(arguments)
        if len(added) == fails_at:
            raise OSError("no space left on device")

    monkeypatch.setattr(CompletionLog, "add", add)

    class Engine:
        rows_at_once = 1

        def __init__(self) -> None:
            self.pieces = 0

        def generate(self, rows, sampling) -> list[str]:
            self.pieces += 1
            return ["{}"] * len(rows)

    engines = [Engine(), Engine()]
    ended = World().run(
        lambda rank, ranks: complete(
            rows,
            GREEDY,
            engines[rank],
            log=CompletionLog(tmp_path / "log") if rank == 0 else None,
            policy="p",
            ranks=ranks,
        )
    )
    assert engines[0].pieces == engines[1].pieces == (fails_at or 3)
    if fails_at is None:
        assert ended == [["{}"] * 3, []]
    else:
        assert isinstance(ended[0], OSError)
        assert isinstance(ended[1], EvaluationError) and "no space left" in str(ended[1])
