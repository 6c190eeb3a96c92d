"""Negative items: taken by others and not by the user, equally likely, the same per seed."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from grpo_mmpc.recbench.records import Pairs
from grpo_mmpc.recbench.sampling import NegativeSampler

TAKEN = {0: [0, 1, 2, 7], 1: [9], 2: [], 3: [1, 3, 5, 7, 9], 4: [0, 2, 3, 4, 5, 6, 7, 8, 9]}
"""Each of the ten items was taken by somebody."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train() -> Pairs:
    rows = np.array([(user, item) for user, items in TAKEN.items() for item in items])
    return Pairs(users=rows[:, 0], items=rows[:, 1])


@pytest.fixture
def sampler() -> NegativeSampler:
    return NegativeSampler(train(), num_users=5)


@pytest.mark.parametrize("user", TAKEN)
def test_every_item_that_was_not_taken_is_equally_likely_and_no_other_is_drawn(sampler, user):
    draws = sampler.sample(torch.full((20_000,), user), generator(user)).numpy()
    counts = np.bincount(draws, minlength=10)
    left = [item for item in range(10) if item not in TAKEN[user]]
    assert counts[TAKEN[user]].sum() == 0
    expected = 20_000 / len(left)
    statistic = ((counts[left] - expected) ** 2 / expected).sum()
    assert statistic <= chi2.ppf(0.999, df=max(1, len(left) - 1))


def test_a_uniform_draw_that_maps_taken_items_to_their_neighbours_would_fail_the_bound():
    # The bound of the test above, on the usual mistake: user 0 without rejection, item + 1 where it
    # was taken.
    draws = np.random.default_rng(0).integers(0, 10, size=20_000)
    while (bad := np.isin(draws, TAKEN[0])).any():
        draws = np.where(bad, (draws + 1) % 10, draws)
    left = [3, 4, 5, 6, 8, 9]
    counts = np.bincount(draws, minlength=10)[left]
    assert ((counts - 20_000 / 6) ** 2 / (20_000 / 6)).sum() > chi2.ppf(0.999, df=5)


def test_users_of_a_batch_may_come_in_any_order_and_repeatedly(sampler):
    users = torch.tensor([4, 0, 4, 3, 0, 2] * 500)
    items = sampler.sample(users, generator(0))
    assert not any(item in TAKEN[user] for user, item in zip(users.tolist(), items.tolist(), strict=True))
    assert set(items[users == 4].tolist()) == {1}


def test_no_draw_is_a_training_pair_in_a_large_split():
    rng = np.random.default_rng(0)
    rows = np.unique(np.stack([rng.integers(0, 300, 40_000), rng.integers(0, 200, 40_000)], axis=1), axis=0)
    sampler = NegativeSampler(Pairs(users=rows[:, 0], items=rows[:, 1]), num_users=300)
    users = torch.from_numpy(rng.integers(0, 300, 100_000))
    keys = (users * 200 + sampler.sample(users, generator(1))).numpy()
    assert not np.isin(keys, rows[:, 0] * 200 + rows[:, 1]).any()


def test_the_same_seed_draws_the_same_items_and_another_seed_others(sampler):
    users = torch.arange(4).repeat(50)
    first = sampler.sample(users, generator(3))
    assert first.equal(sampler.sample(users, generator(3)))
    assert not first.equal(sampler.sample(users, generator(4)))


def test_a_pair_that_comes_twice_counts_once():
    doubled = Pairs(users=np.array([0, 0, 0, 1]), items=np.array([1, 1, 0, 2]))
    items = NegativeSampler(doubled, num_users=2).sample(torch.zeros(50, dtype=torch.int64), generator(0))
    assert set(items.tolist()) == {2}


def test_items_that_nobody_took_in_training_are_not_drawn():
    # Items 0, 2, 4 and 6 of eight were taken; user 0 took 2, so 0, 4 and 6 are left, each a third
    # of 6,000 draws.
    sampler = NegativeSampler(Pairs(users=np.array([0, 1, 1, 1]), items=np.array([2, 0, 4, 6])), num_users=3)
    counts = np.bincount(sampler.sample(torch.zeros(6000, dtype=torch.int64), generator(0)).numpy(), minlength=8)
    assert counts[[1, 2, 3, 5, 7]].sum() == 0
    assert np.abs(counts[[0, 4, 6]] - 2000).max() < 4 * np.sqrt(6000 * 2 / 9)
    assert set(sampler.sample(torch.full((50,), 1), generator(0)).tolist()) == {2}


def test_for_a_user_that_took_every_item_of_training_there_is_none():
    everything = Pairs(users=np.array([0, 1, 1, 1]), items=np.array([0, 0, 1, 2]))
    assert NegativeSampler(everything, num_users=2).can_sample.tolist() == [True, False]
