"""VBPR: the paper's formula, its gradient, and features that explain tastes."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.ranking_metrics import user_scores
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.recommenders.vbpr import VBPR
from grpo_mmpc.recbench.records import ItemFeatures, Pairs, Split
from tests.recbench.worlds import paired_interval, shuffled_over_items, taste_world, trained

NUM_USERS, NUM_ITEMS, DIM, REG = 3, 4, 2, 0.3
USERS, POSITIVES, NEGATIVES = torch.tensor([0, 2, 0]), torch.tensor([1, 3, 2]), torch.tensor([0, 1, 0])
TEXT = np.array([[1, 0, 2], [0, 1, -1], [0, 0, 0], [2, 1, 0]], dtype=np.float32)
IMAGE = np.array([[0.5, -1], [1, 1], [0, 0], [-2, 0.5]], dtype=np.float32)


def small_split() -> Split:
    none = Pairs(users=np.empty(0, dtype=np.int64), items=np.empty(0, dtype=np.int64))
    return Split(user_ids=("a", "b", "c"), item_ids=("w", "x", "y", "z"), train=none, validation=none, test=none)


def small_model(features: ItemFeatures) -> VBPR:
    """Three users, four items, K = 2, and biases that are not zero as they are at first."""
    generator = torch.Generator().manual_seed(0)
    model = VBPR(small_split(), features, generator=generator, device="cpu", embedding_dim=DIM, reg=REG)
    with torch.no_grad():
        model.items[:, -1] = torch.tensor([0.1, -0.2, 0.3, 0.4])
        if model.projection is not None:
            model.projection[-1] = torch.tensor([0.3, -0.1, 0.2, 0.05, -0.4])[: model.projection.shape[1]]
    return model


def dense_scores(model: VBPR, features: ItemFeatures) -> Tensor:
    """Equation 4 for all users and items, ``[3, 4]``."""
    gamma_u, gamma_i, beta = model.users[:, :DIM], model.items[:, :DIM], model.items[:, DIM]
    scores = gamma_u @ gamma_i.T + beta
    parts = [torch.from_numpy(part) for part in (features.text, features.image) if part is not None]
    if parts and model.projection is not None:
        f, e, beta_f, theta = torch.cat(parts, 1), model.projection[:DIM], model.projection[DIM], model.users[:, DIM:]
        scores = scores + theta @ (f @ e.T).T + f @ beta_f
    return scores


def dense_loss(model: VBPR, features: ItemFeatures) -> Tensor:
    """Equation 6 triple by triple, and the squares of each vector as often as it is used."""
    scores = dense_scores(model, features)
    total = torch.zeros(())
    for user, positive, negative in zip(USERS, POSITIVES, NEGATIVES, strict=True):
        total = total - torch.log(1 / (1 + torch.exp(-(scores[user, positive] - scores[user, negative]))))
        used = [model.users[user], model.items[positive], model.items[negative]]
        total = total + REG * sum((vector**2).sum() for vector in used)
    if model.projection is not None:
        total = total + REG * (model.projection**2).sum()
    return total / len(USERS)


def plain_loss(model: VBPR, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """The same for many triples at once, with the gradients of autograd."""
    user, positive, negative = model.users[users], model.items[positives], model.items[negatives]
    squares = user.square().sum() + positive.square().sum() + negative.square().sum()
    of_items = positive - negative  # [B, K + 1], the difference of biases last
    gamma, theta = user.tensor_split([of_items.shape[1] - 1], dim=1)
    margin = (gamma * of_items[:, :-1]).sum(dim=1) + of_items[:, -1]
    if model.features is not None and model.projection is not None:
        of_features = (model.features[positives] - model.features[negatives]) @ model.projection.T  # [B, K + 1]
        margin = margin + (theta * of_features[:, :-1]).sum(dim=1) + of_features[:, -1]
        squares = squares + model.projection.square().sum()
    return functional.softplus(-margin).mean() + model.reg / len(users) * squares


MODALITIES = {
    "both": ItemFeatures(text=TEXT, image=IMAGE),
    "text": ItemFeatures(text=TEXT),
    "image": ItemFeatures(image=IMAGE),
    "neither": ItemFeatures(),
}


@pytest.mark.parametrize("features", MODALITIES.values(), ids=MODALITIES)
class TestFormula:
    def test_inner_products_of_the_embeddings_are_the_scores_of_the_paper(self, features):
        model = small_model(features)
        users, items = model.embeddings()
        assert torch.allclose(users @ items.T, dense_scores(model, features), atol=1e-6)

    def test_loss_and_gradients_are_those_of_the_dense_formula(self, features):
        ours, naive = small_model(features), small_model(features)
        loss = ours.loss(USERS, POSITIVES, NEGATIVES, torch.Generator())
        expected = dense_loss(naive, features)
        (2 * loss).backward()  # a factor, which the written-out gradient must pass on
        (2 * expected).backward()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
        for (name, mine), theirs in zip(ours.named_parameters(), naive.parameters(), strict=True):
            assert mine.grad is not None and theirs.grad is not None and theirs.grad.abs().max() > 0, name
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-6), name

    def test_the_plain_loss_is_that_of_the_dense_formula(self, features):
        model = small_model(features)
        loss, expected = plain_loss(model, USERS, POSITIVES, NEGATIVES), dense_loss(model, features)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_score_by_hand():
    # One user, one item, K = 1: beta 0.5 + gamma 2 * 3 + theta 4 * (E . f = 0.5 * 2 + 0.25 * 4 = 2)
    # + beta' . f = 0.1 * 2 + 0 * 4.
    none = Pairs(users=np.empty(0, dtype=np.int64), items=np.empty(0, dtype=np.int64))
    split = Split(user_ids=("u",), item_ids=("i",), train=none, validation=none, test=none)
    features = ItemFeatures(text=np.array([[2]], dtype=np.float32), image=np.array([[4]], dtype=np.float32))
    model = VBPR(split, features, generator=torch.Generator(), device="cpu", embedding_dim=1)
    with torch.no_grad():
        model.users.copy_(torch.tensor([[2.0, 4.0]]))
        model.items.copy_(torch.tensor([[3.0, 0.5]]))
        assert model.projection is not None
        model.projection.copy_(torch.tensor([[0.5, 0.25], [0.1, 0.0]]))
    users, items = model.embeddings()
    assert float(users @ items.T) == pytest.approx(0.5 + 6 + 8 + 0.2)


@pytest.mark.parametrize("num_users", [300, 1500], ids=["users come often", "users come once or twice"])
def test_features_in_a_narrow_cone_are_told_apart_to_fp32(num_users):
    # Encoders crowd vectors together: here two items differ by 2 % of their length, of which
    # bfloat16 (0.4 %) would lose a part. 1200 triples: several blocks, one of them not full, and
    # users whose triples are in two.
    rng = np.random.default_rng(0)
    split = replace(small_split(), user_ids=tuple(map(str, range(num_users))), item_ids=tuple(map(str, range(900))))
    text = (1 + 0.02 * rng.normal(size=(900, 384))).astype(np.float32)
    triples = [torch.from_numpy(rng.integers(0, high, 1200)) for high in (num_users, 900, 900)]
    model = VBPR(split, ItemFeatures(text=text), generator=torch.Generator().manual_seed(0), device="cpu")
    exact = copy.deepcopy(model).double()
    model.loss(*triples, torch.Generator()).backward()
    plain_loss(exact, *triples).backward()
    for (name, values), wanted in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert values.grad is not None and wanted.grad is not None
        assert (values.grad - wanted.grad).norm() < 1e-5 * wanted.grad.norm(), name


def test_losses_may_be_differentiated_in_any_order():
    model = small_model(MODALITIES["both"])
    first = model.loss(USERS, POSITIVES, NEGATIVES, torch.Generator())
    model.loss(USERS, NEGATIVES, POSITIVES, torch.Generator()).backward()
    model.zero_grad()
    first.backward()
    alone = small_model(MODALITIES["both"])
    alone.loss(USERS, POSITIVES, NEGATIVES, torch.Generator()).backward()
    for (name, one), other in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and one.grad.equal(other.grad), name


def test_an_item_without_features_is_left_with_its_id():
    model = small_model(MODALITIES["both"])
    scores = torch.matmul(*(table.T if i else table for i, table in enumerate(model.embeddings())))
    gamma = model.users[:, :DIM] @ model.items[2, :DIM] + model.items[2, DIM]
    assert torch.allclose(scores[:, 2], gamma, atol=1e-6)


@pytest.fixture(scope="module")
def recalls() -> dict[str, np.ndarray]:
    """Test Recall@50 of every user in a world where features explain tastes."""
    split, features = taste_world(0)
    seen = [split.train, split.validation]
    full_sort = FullSort(targets=split.test, seen=seen, num_users=split.num_users, num_items=split.num_items, seed=0)
    told = {"vbpr": features, "vbpr, shuffled features": shuffled_over_items(features, seed=1)}
    scores = {}
    for name in ("vbpr", "vbpr, shuffled features", "bpr", "most_popular", "random"):
        spec = RECOMMENDERS[name.partition(",")[0]]
        generator = torch.Generator().manual_seed(0)
        model = spec.build(split, told.get(name, features), generator=generator, device="cpu")
        fitted = trained(model, split, max_epochs=50, batch_size=256, learning_rate=0.01)
        found = user_scores(full_sort.ranks(fitted.embeddings), target_users=split.test.users)
        scores[name] = found["recall@50"]
    return scores


@pytest.mark.parametrize("other", ["bpr", "most_popular", "random", "vbpr, shuffled features"])
def test_features_that_explain_tastes_beat_ids_and_floors_by_more_than_chance(recalls, other):
    low, _ = paired_interval(recalls["vbpr"], recalls[other])
    assert low > 0.2


@pytest.mark.parametrize("other", ["bpr", "most_popular", "random"])
def test_features_that_explain_nothing_beat_nobody(recalls, other):
    low, _ = paired_interval(recalls["vbpr, shuffled features"], recalls[other])
    assert low <= 0
