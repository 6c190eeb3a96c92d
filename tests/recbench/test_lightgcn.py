"""LightGCN against its formulas written out with dense matrices."""

import pytest
import torch

from grpo_mmpc.recbench.recommenders.lightgcn import LightGCN
from grpo_mmpc.recbench.records import ItemFeatures
from tests.recbench.small_models import (
    NEGATIVES,
    ORDER,
    PAIRS,
    POSITIVES,
    USERS,
    assert_equivariant,
    dense_graph,
    small_split,
)


def model(seed: int = 0, **options: float) -> LightGCN:
    generator = torch.Generator().manual_seed(seed)
    return LightGCN(small_split(), ItemFeatures(), generator=generator, device="cpu", embedding_dim=5, **options)


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
    renumbered = LightGCN(small_split(ORDER), ItemFeatures(), generator=generator, device="cpu", embedding_dim=5)
    assert_equivariant(model(), renumbered)


def test_an_item_that_nobody_took_keeps_finite_vectors() -> None:
    assert torch.isfinite(model().embeddings().items).all()


def test_the_seed_of_the_generator_decides_the_parameters() -> None:
    torch.manual_seed(1)
    first = model(seed=3).nodes
    torch.manual_seed(2)
    assert torch.equal(first, model(seed=3).nodes)
    assert not torch.equal(first, model(seed=4).nodes)
