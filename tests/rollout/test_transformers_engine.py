"""Rows are dealt over ranks, every rank runs as many batches, nothing is lost or doubled."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.transformers_engine import TransformersEngine
from grpo_mmpc.tasks import TEXT_TO_IMAGE
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import ONE, Ranks

GREEDY = SamplingConfig(max_tokens=4, temperature=0.0)


def rows(count: int) -> list[PromptRow]:
    return [
        PromptRow(
            prompt_id=f"p{i}",
            item_id=str(i),
            category="c",
            task="text_to_image",
            messages=TEXT_TO_IMAGE.messages(title=f"title {i}"),
            prompt_image_path=None,
            image_path=None,
            reference=None,
            title=f"title {i}",
        )
        for i in range(count)
    ]


class Rank(TransformersEngine):
    """An engine on one of several ranks whose batches are recorded instead of generated."""

    def __init__(self, ranks: Ranks, *, batch_size: int) -> None:
        model = SimpleNamespace(training=True, parameters=lambda: [], eval=lambda: None, train=self._set_mode)
        super().__init__(model, None, batch_size=batch_size, ranks=ranks)
        self.batches: list[list[str]] = []
        self.mode: bool | None = None

    def _set_mode(self, mode: bool) -> None:
        self.mode = mode

    def _generate_batch(self, model, rows, sampling):
        self.batches.append([row.item_id for row in rows])
        return [f"answer {row.item_id}" for row in rows]


def ranks_as_threads(world: int) -> list[Ranks]:
    """Ranks whose collective gives each thread the items of all, in any order."""
    barrier, gathered = threading.Barrier(world, timeout=20), []

    def concatenate(items):
        gathered.extend(items)
        barrier.wait()
        return list(gathered)

    return [Ranks(rank=rank, count=world, gather=concatenate) for rank in range(world)]


@pytest.mark.parametrize("count", [1, 2, 5, 7, 8, 25])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_uneven_rows_give_every_rank_as_many_batches_and_every_rank_all_completions_in_order(count, world):
    ranks = [Rank(ranks, batch_size=2) for ranks in ranks_as_threads(world)]
    with ThreadPoolExecutor(world) as pool:
        results = list(pool.map(lambda rank: rank.generate(rows(count), GREEDY), ranks))
    assert results == [[f"answer {i}" for i in range(count)]] * world
    assert len({len(rank.batches) for rank in ranks}) == 1
    answered = [item for rank in ranks for batch in rank.batches for item in batch]
    assert len(answered) == world * -(-count // world)  # no more than it takes to be even
    assert set(answered) == {str(i) for i in range(count)}


def test_training_mode_is_restored_even_if_generation_fails():
    rank = Rank(ONE, batch_size=2)
    rank._generate_batch = lambda *a, **k: (_ for _ in ()).throw(RuntimeError("out of memory"))
    with pytest.raises(RolloutError, match="out of memory"):
        rank.generate(rows(2), GREEDY)
    assert rank.mode is True


def test_no_rows_need_no_model():
    assert Rank(ONE, batch_size=2).generate([], GREEDY) == []
