"""Rows are dealt over ranks, every rank runs as many batches, nothing is lost or doubled."""

from types import SimpleNamespace

import pytest

from grpo_mmpc.rollout.transformers_engine import TransformersEngine
from grpo_mmpc.tasks import TEXT_TO_IMAGE
from grpo_mmpc.types import PromptRow, SamplingConfig

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

    def __init__(self, rank: int, world: int, *, batch_size: int) -> None:
        super().__init__(
            SimpleNamespace(training=True, eval=lambda: None, train=self._set_mode),
            None,
            batch_size=batch_size,
            accelerator=SimpleNamespace(process_index=rank, num_processes=world),
        )
        self.batches: list[list[str]] = []
        self.mode: bool | None = None
        self.mine: dict[int, str] = {}

    def _set_mode(self, mode: bool) -> None:
        self.mode = mode

    def _unwrapped(self):
        from contextlib import nullcontext

        return nullcontext(self._model)

    def _generate_batch(self, model, rows, sampling):
        self.batches.append([row.item_id for row in rows])
        return [f"answer {row.item_id}" for row in rows]

    def _collect(self, mine, count):
        self.mine = mine
        return [mine.get(i, "") for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_uneven_rows_give_every_rank_the_same_number_of_batches_and_each_row_once(count, world):
    ranks = [Rank(rank, world, batch_size=2) for rank in range(world)]
    for rank in ranks:
        rank.generate(rows(count), GREEDY)
    assert len({len(rank.batches) for rank in ranks}) == 1
    collected = [pair for rank in ranks for pair in rank.mine.items()]
    assert sorted(collected) == [(i, f"answer {i}") for i in range(count)]


def test_training_mode_is_restored_even_if_generation_fails():
    rank = Rank(0, 1, batch_size=2)
    rank._generate_batch = lambda *a: (_ for _ in ()).throw(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        rank.generate(rows(2), GREEDY)
    assert rank.mode is True


def test_no_rows_need_no_model():
    assert Rank(0, 1, batch_size=2).generate([], GREEDY) == []
