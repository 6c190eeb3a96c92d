"""MMGCN against its formulas in dense matrices, and where features explain tastes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import leaky_relu

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.recommenders.mmgcn import MMGCN
from grpo_mmpc.recbench.records import ItemFeatures
from tests.recbench.small_models import (
    NEGATIVES,
    ORDER,
    PAIRS,
    POSITIVES,
    USERS,
    assert_equivariant,
    gradient_norm,
    masked_features,
    small_split,
)
from tests.recbench.worlds import paired_interval, taste_recalls

FEATURES = ItemFeatures(
    text=np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32),
    image=np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32),
)
VARIANTS = {"both": FEATURES, "text": ItemFeatures(text=FEATURES.text), "image": ItemFeatures(image=FEATURES.image)}


def model(features: ItemFeatures = FEATURES, *, seed: int = 0, **options: float) -> MMGCN:
    generator = torch.Generator().manual_seed(seed)
    return MMGCN(small_split(), features, generator=generator, device="cpu", embedding_dim=5, **options)


def dense_final(parameters: dict[str, Tensor], features: ItemFeatures, *, layers: int) -> Tensor:
    adjacency = torch.zeros(7, 7)
    for user, item in PAIRS:
        adjacency[user, 3 + item] = adjacency[3 + item, user] = 1
    mean = adjacency / adjacency.sum(dim=1, keepdim=True).clamp_min(1)
    parts = []
    for name, values in {"text": features.text, "image": features.image}.items():
        if values is None:
            continue

        def apply(layer: str, vectors: Tensor, name: str = name) -> Tensor:
            product = vectors @ parameters[f"networks.{name}.{layer}.weight"].T
            bias = parameters.get(f"networks.{name}.{layer}.bias")
            return product if bias is None else product + bias

        shown = apply("projection", torch.from_numpy(values))
        vectors = torch.cat([parameters[f"networks.{name}.preferences"], shown])
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        for k in range(layers):
            heard = leaky_relu(mean @ apply(f"messages.{k}", vectors))
            own = leaky_relu(apply(f"selves.{k}", vectors)) + parameters["nodes"]
            vectors = leaky_relu(apply(f"combinations.{k}", heard) + own)
        parts.append(vectors)
    return torch.stack(parts).mean(dim=0)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_loss_and_gradients_are_those_of_the_dense_formula(features: ItemFeatures, layers: int) -> None:
    recommender = model(features, layers=layers, reg=0.1)
    loss = recommender.loss(USERS, POSITIVES, NEGATIVES, torch.Generator())
    loss.backward()
    parameters = {name: values.detach().clone().requires_grad_() for name, values in recommender.named_parameters()}
    final, nodes = dense_final(parameters, features, layers=layers), parameters["nodes"]
    margin = (final[USERS] * (final[3 + POSITIVES] - final[3 + NEGATIVES])).sum(dim=1)
    expected = -torch.log(torch.sigmoid(margin)).mean()
    of_items = torch.cat([nodes[3 + POSITIVES], nodes[3 + NEGATIVES]])
    expected = expected + 0.1 * ((nodes[USERS] ** 2).mean() + (of_items**2).mean())
    for name in recommender.networks:
        expected = expected + 0.1 * (parameters[f"networks.{name}.preferences"][USERS] ** 2).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, values in recommender.named_parameters():
        torch.testing.assert_close(values.grad, parameters[name].grad, msg=lambda text, name=name: f"{name}: {text}")


def test_scores_and_loss_follow_renumbered_items() -> None:
    assert FEATURES.text is not None and FEATURES.image is not None
    features = ItemFeatures(text=FEATURES.text[ORDER], image=FEATURES.image[ORDER])
    generator = torch.Generator().manual_seed(0)
    renumbered = MMGCN(small_split(ORDER), features, generator=generator, device="cpu", embedding_dim=5)
    assert_equivariant(model(), renumbered)


@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_scores_are_inner_products_of_the_mean_over_modalities(features: ItemFeatures) -> None:
    recommender = model(features, layers=2)
    final = dense_final({name: values.detach() for name, values in recommender.named_parameters()}, features, layers=2)
    found = recommender.embeddings()
    torch.testing.assert_close(found.users @ found.items.T, final[:3] @ final[3:].T)


def test_preferences_and_embeddings_are_trained() -> None:
    """The published code keeps both outside of its parameters, where they stay as initialised."""
    names = {name for name, _ in model().named_parameters()}
    assert {"nodes", "networks.text.preferences", "networks.image.preferences"} <= names


def test_no_modality_is_an_error_that_names_the_alternatives() -> None:
    with pytest.raises(RecBenchError, match="use lightgcn or bpr"):
        model(ItemFeatures())


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_items_without_features_give_gradients_of_ordinary_size(share: float) -> None:
    """A zero row must not be projected to zero, where a direction's derivative has no bound."""
    full, masked = gradient_norm(MMGCN, FEATURES), gradient_norm(MMGCN, masked_features(FEATURES, share=share))
    assert 0 < masked < 10 * full


def test_equal_seeds_build_alike() -> None:
    assert all(torch.equal(a, b) for a, b in zip(model().parameters(), model().parameters(), strict=True))
    assert not torch.equal(model().nodes, model(seed=1).nodes)


@pytest.fixture(scope="module")
def recalls() -> dict[str, NDArray[np.float64]]:
    """With two layers: three, the default, reach .13 to .16 beside .18 (LightGCN .12, shuffled
    .08)."""
    return taste_recalls("mmgcn", interactions_per_user=6, max_epochs=60, learning_rate=0.003, layers=2)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["lightgcn", "bpr", "most_popular", "random", "shuffled"])
def test_features_that_explain_tastes_beat_ids_and_floors(recalls: dict[str, NDArray[np.float64]], other: str) -> None:
    assert paired_interval(recalls["told"], recalls[other])[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("other", ["lightgcn", "bpr"])
def test_features_that_explain_nothing_beat_nobody(recalls: dict[str, NDArray[np.float64]], other: str) -> None:
    assert paired_interval(recalls["shuffled"], recalls[other])[0] <= 0
