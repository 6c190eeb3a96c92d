"""Floors: what everybody takes, and chance."""

import numpy as np
import pytest
import torch

from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.recommenders.floors import build_most_popular, build_random
from grpo_mmpc.recbench.records import ItemFeatures, Pairs, Split
from tests.recbench.worlds import taste_world, trained


def scores(model) -> torch.Tensor:
    users, items = model.embeddings()
    return users @ items.T


def test_most_popular_scores_an_item_by_its_count_in_training_alone():
    train = Pairs(users=np.array([0, 0, 1, 1, 2]), items=np.array([2, 0, 2, 1, 2]))
    later = Pairs(users=np.array([0, 1, 2]), items=np.array([3, 3, 3]))
    split = Split(user_ids=tuple("abc"), item_ids=tuple("wxyz"), train=train, validation=later, test=later)
    model = build_most_popular(split, ItemFeatures(), generator=torch.Generator(), device="cpu")
    assert scores(model).tolist() == [[1, 1, 3, 0]] * 3


def test_random_ranks_differ_between_users_and_seeds_and_are_the_same_for_a_seed():
    split, features = taste_world(0, num_users=6, num_items=50)
    one, again, other = (
        scores(build_random(split, features, generator=torch.Generator().manual_seed(seed), device="cpu"))
        for seed in (1, 1, 2)
    )
    assert one.equal(again)
    assert not one.equal(other)
    assert len({tuple(row.argsort().tolist()) for row in one}) == 6


def test_random_ranks_are_uniform():
    # 2,000 users, one target among 100 items: 20 in each hundredth on average, chi-square with 9
    # degrees of freedom per tenth.
    split, features = taste_world(0, num_users=2000, num_items=100, interactions_per_user=5)
    full_sort = FullSort(targets=split.test, seen=[], num_users=2000, num_items=100, seed=0, max_rank=100)
    ranks = full_sort.ranks(
        build_random(split, features, generator=torch.Generator().manual_seed(0), device="cpu").embeddings()
    )
    counts = np.bincount((ranks.numpy() - 1) // 10, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # the 0.999 quantile


@pytest.mark.parametrize("build", [build_most_popular, build_random])
def test_a_floor_is_evaluated_without_training(build):
    split, features = taste_world(0, num_users=20, num_items=60)
    model = build(split, features, generator=torch.Generator().manual_seed(0), device="cpu")
    fitted = trained(model, split)
    assert (fitted.epochs, fitted.best_epoch) == (0, 0)
    assert fitted.embeddings.items.equal(model.embeddings().items)
