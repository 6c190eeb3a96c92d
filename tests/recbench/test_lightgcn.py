"""LightGCN against its formulas written out with dense matrices."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_mmpc.recbench.ranking import FullSort, user_scores
from grpo_mmpc.recbench.recommenders.lightgcn import LightGCN, build
from grpo_mmpc.recbench.recommenders.recommender import Recommender
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import ItemFeatures, Pairs, Split
from grpo_mmpc.recbench.training import TrainingSettings, fit
from tests.recbench.worlds import shuffled_over_items, taste_world

USERS, POSITIVES, NEGATIVES = torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 1, 2]), torch.tensor([3, 0, 3, 0])


ORDER = np.array([2, 3, 0, 1])
"""Another numbering of the four items: new item k is the old ``ORDER[k]``. Its own inverse."""


def small_split(order: NDArray[np.int64] | None = None) -> Split:
    """Three users and four items; nobody took the last one."""
    items = np.array([0, 1, 1, 2])
    none = Pairs(users=np.array([], dtype=np.int64), items=np.array([], dtype=np.int64))
    return Split(
        user_ids=tuple(f"u{position}" for position in range(3)),
        item_ids=tuple(f"i{position}" for position in range(4)),
        train=Pairs(users=np.array([0, 0, 1, 2]), items=items if order is None else np.argsort(order)[items]),
        validation=none,
        test=none,
    )


def dense_graph(pairs: list[tuple[int, int]]) -> Tensor:
    """``D^-1/2 A D^-1/2`` of three users and four items."""
    adjacency = torch.zeros(7, 7)
    for user, item in pairs:
        adjacency[user, 3 + item] = adjacency[3 + item, user] = 1
    scale = adjacency.sum(dim=1).clamp_min(1).rsqrt()
    return scale[:, None] * adjacency * scale


PAIRS = [(0, 0), (0, 1), (1, 1), (2, 2)]


def copy_renumbered(source: Recommender, target: Recommender) -> None:
    """Parameters of the same users and items, under the other numbering."""
    target.load_state_dict(source.state_dict())
    nodes = dict(target.named_parameters())["nodes"]
    with torch.no_grad():
        nodes[3:] = nodes[3:][torch.from_numpy(ORDER)].clone()


def assert_equivariant(source: Recommender, target: Recommender) -> None:
    """Scores and the loss follow the items to their new numbers; the two models are built alike but for those."""
    copy_renumbered(source, target)
    (users, items), (same_users, renumbered) = source.embeddings(), target.embeddings()
    torch.testing.assert_close(same_users @ renumbered.T, (users @ items.T)[:, torch.from_numpy(ORDER)])
    place = torch.from_numpy(np.argsort(ORDER))
    losses = [
        model.loss(USERS, positives, negatives, torch.Generator())
        for model, positives, negatives in (
            (source, POSITIVES, NEGATIVES),
            (target, place[POSITIVES], place[NEGATIVES]),
        )
    ]
    torch.testing.assert_close(losses[0], losses[1])


def taste_recalls(
    name: str, *, interactions_per_user: int, max_epochs: int, learning_rate: float
) -> dict[str, NDArray[np.float64]]:
    """Test Recall@50 of 800 users in a world whose features explain tastes: of a recommender told them, told shuffled ones,
    and of those that are told none."""
    split, features = taste_world(0, num_users=800, interactions_per_user=interactions_per_user)
    seen = [split.train, split.validation]
    full_sort = FullSort(targets=split.test, seen=seen, num_users=split.num_users, num_items=split.num_items, seed=0)
    recalls = {}
    for label, who, told, rate in (
        ("told", name, features, learning_rate),
        ("shuffled", name, shuffled_over_items(features, 1), learning_rate),
        ("lightgcn", "lightgcn", features, 0.01),
        ("bpr", "bpr", features, 0.01),
        ("most_popular", "most_popular", features, 0.01),
        ("random", "random", features, 0.01),
    ):
        generator = torch.Generator().manual_seed(0)
        built = RECOMMENDERS[who].build(split, told, generator=generator, device="cpu", embedding_dim=32)
        settings = TrainingSettings(
            max_epochs=max_epochs, patience=4, batch_size=512, learning_rate=rate, evaluate_every=5
        )
        fitted = fit(built, split, settings=settings, seed=0, device="cpu")
        recalls[label] = user_scores(full_sort.ranks(fitted.embeddings), target_users=split.test.users)["recall@50"]
    return recalls


def model(seed: int = 0, **options: float) -> LightGCN:
    generator = torch.Generator().manual_seed(seed)
    return build(small_split(), ItemFeatures(), generator=generator, device="cpu", embedding_dim=5, **options)


@pytest.mark.parametrize("layers", [1, 3])
def test_scores_are_inner_products_of_the_mean_over_layers(layers: int) -> None:
    recommender, graph = model(layers=layers), dense_graph(PAIRS)
    nodes = recommender.nodes.detach()
    final = sum((torch.linalg.matrix_power(graph, layer) @ nodes for layer in range(layers + 1)), torch.zeros(7, 5))
    final = final / (layers + 1)
    users, items = recommender.embeddings()
    torch.testing.assert_close(users @ items.T, final[:3] @ final[3:].T)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_loss_and_gradient_are_those_of_the_dense_formula(layers: int) -> None:
    recommender, graph = model(layers=layers, reg=0.1), dense_graph(PAIRS)
    loss = recommender.loss(USERS, POSITIVES, NEGATIVES, torch.Generator())
    (gradient,) = torch.autograd.grad(loss, recommender.nodes)

    nodes = recommender.nodes.detach().clone().requires_grad_()
    final = sum((torch.linalg.matrix_power(graph, layer) @ nodes for layer in range(layers + 1)), torch.zeros(7, 5))
    final = final / (layers + 1)
    margin = (final[USERS] * (final[3 + POSITIVES] - final[3 + NEGATIVES])).sum(dim=1)
    squares = sum((nodes[rows] ** 2).sum() for rows in (USERS, 3 + POSITIVES, 3 + NEGATIVES))
    expected = -torch.log(torch.sigmoid(margin)).mean() + 0.1 * squares / 2 / len(USERS)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, nodes)[0])


def test_scores_and_loss_follow_renumbered_items() -> None:
    generator = torch.Generator().manual_seed(0)
    renumbered = build(small_split(ORDER), ItemFeatures(), generator=generator, device="cpu", embedding_dim=5)
    assert_equivariant(model(), renumbered)


def test_an_item_that_nobody_took_keeps_finite_vectors() -> None:
    assert torch.isfinite(model().embeddings().items).all()


def test_the_seed_of_the_generator_decides_the_parameters() -> None:
    torch.manual_seed(1)
    first = model(seed=3).nodes
    torch.manual_seed(2)
    assert torch.equal(first, model(seed=3).nodes)
    assert not torch.equal(first, model(seed=4).nodes)
