"""BM3 against its formulas in dense matrices, and on a world whose features explain tastes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.ranking_metrics import user_scores
from grpo_mmpc.recbench.recommenders.bm3 import BM3
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import ItemFeatures
from tests.recbench.small_models import (
    NEGATIVES,
    ORDER,
    PAIRS,
    POSITIVES,
    USERS,
    assert_equivariant,
    dense_graph,
    gradient_norm,
    masked_features,
    small_split,
)
from tests.recbench.worlds import paired_interval, popularity_world, shuffled_over_items, trained

FEATURES = ItemFeatures(
    text=np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32),
    image=np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32),
)


def model(features: ItemFeatures = FEATURES, *, seed: int = 0, **options: float) -> BM3:
    generator = torch.Generator().manual_seed(seed)
    return BM3(small_split(), features, generator=generator, device="cpu", embedding_dim=5, **options)


def given(features: ItemFeatures) -> dict[str, Tensor]:
    named = {"text": features.text, "image": features.image}
    return {name: torch.from_numpy(values) for name, values in named.items() if values is not None}


def final_vectors(parameters: dict[str, Tensor], *, layers: int) -> tuple[Tensor, Tensor]:
    nodes, graph = parameters["nodes"], dense_graph(PAIRS)
    mean = sum((torch.linalg.matrix_power(graph, k) @ nodes for k in range(layers + 1)), torch.zeros(7, 5)) / (
        layers + 1
    )
    return mean[:3], mean[3:] + nodes[3:]


def linear(parameters: dict[str, Tensor], name: str, vectors: Tensor) -> Tensor:
    return vectors @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]


def dense_loss(
    parameters: dict[str, Tensor], features: ItemFeatures, *, layers: int, reg: float, cl_weight: float
) -> Tensor:
    """Without dropout. Sums over the batch's pairs one by one."""
    users, items = final_vectors(parameters, layers=layers)

    def predict(vectors: Tensor) -> Tensor:
        return linear(parameters, "predictor", vectors)

    def distance(online: Tensor, target: Tensor) -> Tensor:
        return 1 - cosine_similarity(online, target.detach(), dim=0)

    losses = []
    for u, i in zip(USERS.tolist(), POSITIVES.tolist(), strict=True):
        loss = distance(predict(users[u]), items[i]) + distance(predict(items[i]), users[u])
        for name, values in given(features).items():
            shown = linear(parameters, f"modalities.{name}.projection", values[i])
            loss = loss + cl_weight * (distance(predict(shown), items[i]) + distance(predict(shown), shown))
        losses.append(loss)
    # The batch is the training part, 4 pairs of 3 users and the first 3 items: nothing is left to
    # be estimated.
    lengths = (users**2).sum().sqrt() + (items[:3] ** 2).sum().sqrt()
    return torch.stack(losses).mean() + reg * lengths / 4


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "features",
    [FEATURES, ItemFeatures(text=FEATURES.text), ItemFeatures(image=FEATURES.image), ItemFeatures()],
    ids=["both", "text", "image", "neither"],
)
def test_loss_and_gradients_are_those_of_the_dense_formula(layers: int, features: ItemFeatures) -> None:
    recommender = model(features, layers=layers, dropout=0.0, reg=0.1, cl_weight=2.0)
    recommender.loss(USERS, POSITIVES, NEGATIVES, torch.Generator()).backward()
    parameters = {name: values.detach().clone().requires_grad_() for name, values in recommender.named_parameters()}
    expected = dense_loss(parameters, features, layers=layers, reg=0.1, cl_weight=2.0)
    expected.backward()
    torch.testing.assert_close(recommender.loss(USERS, POSITIVES, NEGATIVES, torch.Generator()), expected)
    for name, values in recommender.named_parameters():
        torch.testing.assert_close(values.grad, parameters[name].grad, msg=lambda text, name=name: f"{name}: {text}")


def test_scores_and_loss_follow_renumbered_items() -> None:
    assert FEATURES.text is not None and FEATURES.image is not None
    features = ItemFeatures(text=FEATURES.text[ORDER], image=FEATURES.image[ORDER])
    generator = torch.Generator().manual_seed(0)
    renumbered = BM3(small_split(ORDER), features, generator=generator, device="cpu", embedding_dim=5, dropout=0.0)
    assert_equivariant(model(dropout=0.0), renumbered)


def test_the_regulariser_estimates_the_unsquared_norms_of_the_whole_tables() -> None:
    """The published values of ``reg`` belong to these norms.

    The means over all batches of one pair are their squares, so user 0 and item 1, who have two
    pairs each, count once like the others.
    """
    recommender = model(dropout=0.0)
    final = recommender._final(None, num_users=3).detach()
    squares = []
    for user, item in PAIRS:
        expected = [
            final[user].norm() * (4 / (1 + (user == 0))) ** 0.5,
            final[3 + item].norm() * (4 / (1 + (item == 1))) ** 0.5,
        ]
        losses = []
        for recommender.reg in (0.0, 1.0):
            losses.append(
                recommender.loss(torch.tensor([user]), torch.tensor([item]), NEGATIVES[:1], torch.Generator())
            )
        torch.testing.assert_close(losses[1] - losses[0], sum(expected) / 4)
        squares.append([length**2 for length in expected])
    means = torch.tensor(squares).mean(dim=0)
    torch.testing.assert_close(means.sqrt(), torch.stack([final[:3].norm(), final[3:6].norm()]))


def test_an_item_whose_features_are_zero_has_no_part_in_the_losses_on_features() -> None:
    """They are means over the others: the loss is that of the batch without it, except on IDs."""
    masked = masked_features(FEATURES, share=0.25)  # item 0, of the first pair

    def on_features(features: ItemFeatures, pairs: slice) -> Tensor:
        recommender, losses = model(features, dropout=0.0, reg=0.0), []
        for recommender.cl_weight in (0.0, 1.0):
            losses.append(recommender.loss(USERS[pairs], POSITIVES[pairs], NEGATIVES[pairs], torch.Generator()))
        return losses[1] - losses[0]

    torch.testing.assert_close(on_features(masked, slice(None)), on_features(FEATURES, slice(1, None)))
    assert on_features(masked_features(FEATURES, share=1.0), slice(None)) == 0


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_items_without_features_give_gradients_of_ordinary_size(share: float) -> None:
    """A zero row must not be projected to zero, where a direction's derivative has no bound."""
    full, masked = gradient_norm(BM3, FEATURES), gradient_norm(BM3, masked_features(FEATURES, share=share))
    assert 0 < masked < 10 * full


@pytest.mark.parametrize("layers", [1, 2])
def test_scores_are_inner_products_of_predictions(layers: int) -> None:
    recommender = model(layers=layers)
    parameters = {name: values.detach() for name, values in recommender.named_parameters()}
    users, items = (linear(parameters, "predictor", part) for part in final_vectors(parameters, layers=layers))
    found = recommender.embeddings()
    torch.testing.assert_close(found.users @ found.items.T, users @ items.T)


def test_losses_on_features_reach_embeddings_through_the_predictor_alone() -> None:
    """Their targets are constants: what features say enters a vector only by way of the
    predictor."""
    recommender = model(dropout=0.0, reg=0.0)
    gradients = []
    for cl_weight in (0.0, 2.0):
        recommender.cl_weight = cl_weight
        loss = recommender.loss(USERS, POSITIVES, NEGATIVES, torch.Generator())
        gradients.append(torch.autograd.grad(loss, [recommender.nodes, recommender.predictor.weight]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_dropout_zeroes_its_share_of_targets_and_nothing_else() -> None:
    recommender = model(dropout=0.3)
    target = recommender._target(torch.ones(400, 50), torch.Generator().manual_seed(0))
    assert (target == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)  # standard error .003
    torch.testing.assert_close(target.norm(dim=1), torch.ones(400))


def test_negatives_do_not_matter() -> None:
    recommender = model()
    losses = [
        recommender.loss(USERS, POSITIVES, negatives, torch.Generator().manual_seed(0))
        for negatives in (NEGATIVES, NEGATIVES.flip(0))
    ]
    assert torch.equal(losses[0], losses[1])


def test_items_without_features_or_interactions_give_finite_losses_and_gradients() -> None:
    zeros = ItemFeatures(text=np.zeros((4, 6), dtype=np.float32), image=FEATURES.image)
    recommender = model(zeros)
    with torch.no_grad():
        recommender.nodes.zero_()
    loss = recommender.loss(USERS, torch.tensor([3, 3, 0, 1]), NEGATIVES, torch.Generator().manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss)
    for name, values in recommender.named_parameters():
        assert values.grad is not None and torch.isfinite(values.grad).all(), name


def test_features_are_input_and_are_not_trained() -> None:
    assert not any("features" in name for name, _ in model().named_parameters())


def test_equal_seeds_train_alike() -> None:
    def items_of(seed: int) -> Tensor:
        recommender, generator = model(seed=seed), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(recommender.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            recommender.loss(USERS, POSITIVES, NEGATIVES, generator).backward()
            optimizer.step()
        return recommender.embeddings().items

    assert torch.equal(items_of(0), items_of(0))
    assert not torch.equal(items_of(0), items_of(1))


@pytest.fixture(scope="module")
def recalls() -> dict[str, NDArray[np.float64]]:
    """Test Recall@50 of each user, mean of two seeds, in a world with dense IDs."""
    split, features = popularity_world(0)
    seen = [split.train, split.validation]
    full_sort = FullSort(targets=split.test, seen=seen, num_users=1000, num_items=400, seed=0)

    def recall(name: str, told: ItemFeatures, seed: int) -> NDArray[np.float64]:
        generator = torch.Generator().manual_seed(seed)
        built = RECOMMENDERS[name].build(split, told, generator=generator, device="cpu", embedding_dim=32)
        fitted = trained(built, split, seed=seed, max_epochs=40, learning_rate=0.01)
        return user_scores(full_sort.ranks(fitted.embeddings), target_users=split.test.users)["recall@50"]

    variants = {"told": features, "shuffled": shuffled_over_items(features, 1), "none": ItemFeatures()}
    found = {label: (recall("bm3", told, 0) + recall("bm3", told, 1)) / 2 for label, told in variants.items()}
    return found | {name: recall(name, features, 0) for name in ("most_popular", "random")}


@pytest.mark.slow
@pytest.mark.parametrize("told", ["told", "none"])
@pytest.mark.parametrize("floor", ["most_popular", "random"])
def test_it_beats_the_floors(recalls: dict[str, NDArray[np.float64]], told: str, floor: str) -> None:
    assert paired_interval(recalls[told], recalls[floor])[0] > 0.05


@pytest.mark.slow
def test_true_features_serve_it_better_than_those_of_other_items(recalls: dict[str, NDArray[np.float64]]) -> None:
    assert paired_interval(recalls["told"], recalls["shuffled"])[0] > 0


@pytest.mark.slow
def test_true_features_are_no_better_than_none_and_wrong_ones_are_worse(
    recalls: dict[str, NDArray[np.float64]],
) -> None:
    """The effect of the published losses' detached targets: see their gradients above."""
    assert paired_interval(recalls["told"], recalls["none"])[0] <= 0
    assert paired_interval(recalls["shuffled"], recalls["none"])[1] < 0
