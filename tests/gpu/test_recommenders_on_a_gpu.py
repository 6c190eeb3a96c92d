"""Recommenders compute, learn and are ranked on a GPU as on a CPU."""

import warnings

import pytest
import torch

from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.recommenders.recommender import Embeddings
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import TrainingSettings
from grpo_mmpc.recbench.training import Fitted, fit
from tests.gpu.conftest import DEVICE
from tests.recbench.worlds import taste_world

TRAINED = pytest.mark.parametrize("name", [name for name, spec in RECOMMENDERS.items() if spec.is_trained])
SETTINGS = TrainingSettings(max_epochs=5, patience=5, batch_size=512, learning_rate=1e-2)


def built(name: str, device: str):
    spec, (split, features) = RECOMMENDERS[name], taste_world(0)
    generator = torch.Generator(device="cpu").manual_seed(0)
    return spec.build(split, features, generator=generator, device=device, **spec.defaults)


def fitted(name: str, device: str) -> Fitted:
    split, _ = taste_world(0)
    return fit(built(name, device), split, settings=SETTINGS, monitor="recall@20", seed=3, device=device)


@TRAINED
def test_embeddings_before_training_are_those_of_a_cpu(name):
    for ours, theirs in zip(
        built(name, DEVICE).eval().embeddings(), built(name, "cpu").eval().embeddings(), strict=True
    ):
        assert ours.device.type == DEVICE
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-5, rtol=1e-4)


@TRAINED
def test_a_seed_repeats_a_training_to_the_bit(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kernel without a deterministic form would be warned of
        first, second = fitted(name, DEVICE), fitted(name, DEVICE)
    assert first.validation == second.validation
    assert torch.equal(first.embeddings.items, second.embeddings.items)
    assert torch.equal(first.embeddings.users, second.embeddings.users)


@TRAINED
def test_what_is_learned_is_worth_what_a_cpu_learns(name):
    # Negatives are drawn on the device, so the two trainings are two draws: of 300 users'
    # Recall@20.
    assert fitted(name, DEVICE).validation == pytest.approx(fitted(name, "cpu").validation, abs=0.08)


def test_full_sort_ranks_are_those_of_a_cpu_also_with_ties():
    split, _ = taste_world(1)
    generator = torch.Generator().manual_seed(0)
    # Whole numbers: sums are exact on both devices, and many scores are equal.
    users = torch.randint(-3, 4, (split.num_users, 8), generator=generator).float()
    items = torch.randint(-3, 4, (split.num_items, 8), generator=generator).float()
    full_sort = FullSort(
        targets=split.test,
        seen=[split.train, split.validation],
        num_users=split.num_users,
        num_items=split.num_items,
        seed=0,
        max_rank=50,
    )
    here = full_sort.ranks(Embeddings(users=users, items=items))
    there = full_sort.ranks(Embeddings(users=users.to(DEVICE), items=items.to(DEVICE)))
    assert torch.equal(torch.as_tensor(there).cpu(), torch.as_tensor(here))
    assert len(torch.as_tensor(here).unique()) > 5
