"""FREEDOM against its formulas in dense matrices, and where features explain tastes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_mmpc.recbench.recommenders.freedom import Freedom
from grpo_mmpc.recbench.records import Floats, ItemFeatures
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
from tests.recbench.worlds import paired_interval, taste_recalls

FEATURES = ItemFeatures(
    text=np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32),
    image=np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32),
)
VARIANTS = {
    "both": FEATURES,
    "text": ItemFeatures(text=FEATURES.text),
    "image": ItemFeatures(image=FEATURES.image),
    "neither": ItemFeatures(),
}


def model(features: ItemFeatures = FEATURES, *, seed: int = 0, **options: float) -> Freedom:
    generator = torch.Generator().manual_seed(seed)
    return Freedom(small_split(), features, generator=generator, device="cpu", embedding_dim=5, **{"knn": 2, **options})


def dense_neighbours(features: Floats, *, knn: int) -> Tensor:
    """The kNN graph with ones, divided by the number of neighbours, which all items have alike."""
    vectors = torch.from_numpy(features)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    return torch.zeros(4, 4).scatter_(1, (vectors @ vectors.T).topk(knn, dim=1).indices, 1.0) / knn


def dense_item_graph(features: ItemFeatures) -> Tensor:
    if features.text is not None and features.image is not None:
        return 0.9 * dense_neighbours(features.text, knn=2) + 0.1 * dense_neighbours(features.image, knn=2)
    if features.text is not None:
        return dense_neighbours(features.text, knn=2)
    return torch.zeros(4, 4) if features.image is None else dense_neighbours(features.image, knn=2)


def final_vectors(nodes: Tensor, features: ItemFeatures, pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    graph = dense_graph(pairs)
    mean = (nodes + graph @ nodes + graph @ graph @ nodes) / 3
    return mean[:3], mean[3:] + dense_item_graph(features) @ nodes[3:]


def kept_pairs(recommender: Freedom) -> list[tuple[int, int]]:
    users, nodes = recommender.thinned.matrix[:3, 3:].nonzero()
    return list(zip(users.tolist(), nodes.tolist(), strict=True))


@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_loss_and_gradients_are_those_of_the_dense_formula(features: ItemFeatures) -> None:
    recommender = model(features, reg=0.1, dropout=0.5)
    recommender.start_epoch(torch.Generator().manual_seed(0))
    pairs = kept_pairs(recommender)
    assert len(pairs) == 2  # half of four
    loss = recommender.loss(USERS, POSITIVES, NEGATIVES, torch.Generator())
    loss.backward()

    parameters = {name: values.detach().clone().requires_grad_() for name, values in recommender.named_parameters()}
    users, items = final_vectors(parameters["nodes"], features, pairs)

    def ranking(shown: Tensor) -> Tensor:
        margins = [
            users[u] @ shown[p] - users[u] @ shown[n]
            for u, p, n in zip(USERS.tolist(), POSITIVES.tolist(), NEGATIVES.tolist(), strict=True)
        ]
        return -torch.log(torch.sigmoid(torch.stack(margins))).mean()

    expected = ranking(items)
    for name, values in {"text": features.text, "image": features.image}.items():
        if values is not None:
            weight, bias = (parameters[f"modalities.{name}.projection.{part}"] for part in ("weight", "bias"))
            expected = expected + 0.1 * ranking(torch.from_numpy(values) @ weight.T + bias)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, values in recommender.named_parameters():
        torch.testing.assert_close(values.grad, parameters[name].grad, msg=lambda text, name=name: f"{name}: {text}")


def test_scores_and_loss_follow_renumbered_items() -> None:
    assert FEATURES.text is not None and FEATURES.image is not None
    features = ItemFeatures(text=FEATURES.text[ORDER], image=FEATURES.image[ORDER])
    generator = torch.Generator().manual_seed(0)
    renumbered = Freedom(small_split(ORDER), features, generator=generator, device="cpu", embedding_dim=5, knn=2)
    assert_equivariant(model(), renumbered)


@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_scores_take_every_edge_whatever_training_left_out(features: ItemFeatures) -> None:
    recommender = model(features)
    recommender.start_epoch(torch.Generator().manual_seed(0))
    users, items = final_vectors(recommender.nodes.detach(), features, PAIRS)
    found = recommender.embeddings()
    torch.testing.assert_close(found.users @ found.items.T, users @ items.T)


def test_two_item_layers_look_at_neighbours_of_neighbours() -> None:
    once, twice, none = (model(item_layers=layers) for layers in (1, 2, 0))
    graph, items = dense_item_graph(FEATURES), once.nodes.detach()[3:]
    torch.testing.assert_close(
        twice.embeddings().items - once.embeddings().items, graph @ graph @ items - graph @ items
    )
    torch.testing.assert_close(once.embeddings().items - none.embeddings().items, graph @ items - items)
    rows = torch.tensor([2, 0])
    assert twice.item_graph is not None
    torch.testing.assert_close(twice._alike(twice.item_graph, rows=rows), (graph @ graph @ items)[rows])


def test_an_item_without_text_keeps_its_image_neighbours_and_is_nobodys_text_neighbour() -> None:
    assert FEATURES.text is not None and FEATURES.image is not None
    text = FEATURES.text.copy()
    text[2] = 0.0
    graph = model(ItemFeatures(text=text, image=FEATURES.image)).item_graph
    assert graph is not None
    found, image = graph.matrix.toarray(), 0.1 * dense_neighbours(FEATURES.image, knn=2).numpy()
    np.testing.assert_allclose(found[2], image[2], rtol=1e-6)
    np.testing.assert_allclose(found[:, 2], image[:, 2], rtol=1e-6)


def test_in_paper_mode_an_item_without_text_is_everybodys_text_neighbour_and_images_stay_as_they_are() -> None:
    assert FEATURES.text is not None and FEATURES.image is not None
    text = FEATURES.text.copy()
    text[2] = 0.0
    generator = torch.Generator().manual_seed(0)
    features = ItemFeatures(text=text, image=FEATURES.image)
    flawed = Freedom(small_split(), features, generator=generator, device="cpu", knn=2, zero_rows="nearest")
    assert flawed.item_graph is not None
    # Each has item 2 and itself, which is the most similar to itself; item 2 has the first two
    # items.
    of_text = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]]) / 2
    expected = 0.9 * of_text + 0.1 * dense_neighbours(FEATURES.image, knn=2).numpy()
    np.testing.assert_allclose(flawed.item_graph.matrix.toarray(), expected, rtol=1e-6)


def test_edges_are_drawn_anew_for_every_epoch_by_the_generator_alone() -> None:
    def drawn(seed: int) -> list[list[tuple[int, int]]]:
        recommender, generator = model(dropout=0.5), torch.Generator().manual_seed(seed)
        epochs = []
        for _ in range(8):
            recommender.start_epoch(generator)
            epochs.append(kept_pairs(recommender))
        return epochs

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert len({tuple(pairs) for pairs in drawn(0)}) > 1


def test_equal_seeds_build_alike() -> None:
    assert all(torch.equal(a, b) for a, b in zip(model().parameters(), model().parameters(), strict=True))
    assert not torch.equal(model().nodes, model(seed=1).nodes)


@pytest.fixture(scope="module")
def recalls() -> dict[str, NDArray[np.float64]]:
    return taste_recalls("freedom", interactions_per_user=6, max_epochs=40, learning_rate=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["lightgcn", "bpr", "most_popular", "random", "shuffled"])
def test_features_that_explain_tastes_beat_ids_and_floors(recalls: dict[str, NDArray[np.float64]], other: str) -> None:
    assert paired_interval(recalls["told"], recalls[other])[0] > 0.04


@pytest.mark.slow
@pytest.mark.parametrize("other", ["lightgcn", "bpr"])
def test_features_that_explain_nothing_beat_nobody(recalls: dict[str, NDArray[np.float64]], other: str) -> None:
    assert paired_interval(recalls["shuffled"], recalls[other])[0] <= 0
