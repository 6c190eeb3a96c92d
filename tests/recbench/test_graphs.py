"""Graphs of users and items: small ones by hand, and flaws that a neighbour graph must not have."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from grpo_mmpc.recbench import graphs
from grpo_mmpc.recbench.graphs import (
    SparseGraph,
    csr_tensor,
    distinct,
    drop_edges,
    interaction_matrix,
    layer_mean,
    mean_graph,
    neighbour_matrix,
    symmetric_graph,
)
from grpo_mmpc.recbench.records import Floats, Pairs

# Users 0 and 1, and user 2 who took nothing; items 0, 1, 2, and item 3 that nobody took.
PAIRS = Pairs(users=np.array([0, 0, 1]), items=np.array([0, 1, 1]))


def taken() -> "graphs.sparse.csr_matrix":
    return interaction_matrix(PAIRS, num_users=3, num_items=4)


def floats(rows: list[list[float]]) -> Floats:
    return np.array(rows, dtype=np.float32)


def neighbours(matrix: "graphs.sparse.csr_matrix") -> list[set[int]]:
    return [set(matrix[row].indices.tolist()) for row in range(matrix.shape[0])]


def test_an_edge_weighs_one_over_the_root_of_both_degrees() -> None:
    # Degrees: users 2, 1, 0; items 1, 2, 0, 0. Edges: 1/sqrt(2*1), 1/sqrt(2*2), 1/sqrt(1*2).
    dense = symmetric_graph(taken(), device="cpu").matrix.toarray()
    expected = np.zeros((7, 7))
    expected[0, 3], expected[0, 4], expected[1, 4] = 1 / math.sqrt(2), 1 / 2, 1 / math.sqrt(2)
    np.testing.assert_allclose(dense, expected + expected.T, rtol=1e-6)


def test_the_mean_graph_averages_neighbours_and_is_zero_for_nodes_without_any() -> None:
    dense = mean_graph(taken(), device="cpu").matrix.toarray()
    np.testing.assert_allclose(dense[0], [0, 0, 0, 0.5, 0.5, 0, 0])
    np.testing.assert_allclose(dense[4], [0.5, 0.5, 0, 0, 0, 0, 0])
    assert not dense[[2, 5, 6]].any()


def test_a_pair_that_comes_twice_is_one_edge() -> None:
    twice = Pairs(users=np.array([0, 0, 0, 1]), items=np.array([0, 0, 1, 1]))
    matrix = interaction_matrix(twice, num_users=3, num_items=4)
    np.testing.assert_array_equal(matrix.toarray(), taken().toarray())


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_products_and_their_gradients_are_those_of_the_dense_matrix(is_symmetric: bool) -> None:
    graph = symmetric_graph(taken(), device="cpu") if is_symmetric else mean_graph(taken(), device="cpu")
    dense = torch.from_numpy(graph.matrix.toarray())
    vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([5, 0, 4])
    for found, expected in (
        (graph.propagate(vectors), dense @ vectors),
        (graph.propagate_to(rows, vectors), (dense @ vectors)[rows]),
    ):
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad((found * weights[: len(found)]).sum(), vectors)
        (wanted,) = torch.autograd.grad((expected * weights[: len(found)]).sum(), vectors)
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_compressed_rows_for_other_devices_hold_the_same_matrix() -> None:
    matrix = mean_graph(taken(), device="cpu").matrix
    np.testing.assert_array_equal(csr_tensor(matrix).to_dense().numpy(), matrix.toarray())


def test_layers_are_averaged_with_the_vectors_themselves() -> None:
    graph = symmetric_graph(taken(), device="cpu")
    dense = torch.from_numpy(graph.matrix.toarray())
    vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    expected = (vectors + dense @ vectors + dense @ dense @ vectors) / 3
    torch.testing.assert_close(layer_mean(graph, vectors, layers=2), expected)
    rows = torch.tensor([1, 3, 6])
    torch.testing.assert_close(layer_mean(graph, vectors, layers=2, rows=rows), expected[rows])
    torch.testing.assert_close(layer_mean(graph, vectors, layers=0, rows=rows), vectors[rows])


def test_positions_of_a_batch_are_computed_once_and_found_again() -> None:
    rows, (users, items) = distinct(torch.tensor([4, 0, 4]), torch.tensor([7, 4]))
    assert rows.tolist() == [0, 4, 7]
    assert rows[users].tolist() == [4, 0, 4]
    assert rows[items].tolist() == [7, 4]


# Three items in two directions: cosines 0-1 = 0.8, 0-2 = 0, 1-2 = 0.6.
SMALL = floats([[1, 0], [0.8, 0.6], [0, 2]])


def test_neighbours_are_the_most_similar_items_and_the_item_itself() -> None:
    assert neighbours(neighbour_matrix(SMALL, knn=2, device="cpu")) == [{0, 1}, {0, 1}, {1, 2}]


def test_neighbours_weigh_one_over_the_root_of_both_numbers_of_neighbours() -> None:
    np.testing.assert_allclose(
        neighbour_matrix(SMALL, knn=2, device="cpu").toarray(),
        [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]],
    )


def test_fewer_items_than_neighbours_are_all_neighbours() -> None:
    np.testing.assert_allclose(
        neighbour_matrix(SMALL, knn=10, device="cpu").toarray(), np.full((3, 3), 1 / 3), rtol=1e-6
    )


def test_items_without_features_have_no_neighbours_and_are_nobodys() -> None:
    """The published code divides by zero; NaN ranks first: 1 and 3 are everybody's neighbours."""
    holes = floats([[1, 0], [0, 0], [0.8, 0.6], [0, 0], [0, 2]])
    matrix = neighbour_matrix(holes, knn=2, device="cpu")
    assert neighbours(matrix) == [{0, 2}, set(), {0, 2}, set(), {2, 4}]
    assert np.isfinite(matrix.data).all()
    # The flaw, to show that these rows provoke it.
    vectors = torch.from_numpy(holes)
    flawed = (vectors / vectors.norm(dim=1, keepdim=True)) @ (vectors / vectors.norm(dim=1, keepdim=True)).T
    assert set(flawed.topk(2, dim=1).indices[0].tolist()) == {1, 3}


# Items 1 and 3 have no features; cosines 0-2 = 0.8, 0-4 = 0, 0-5 = 0.6, 2-4 = 0.6, 2-5 = 0.96, 4-5
# = 0.8.
HOLES = floats([[1, 0], [0, 0], [0.8, 0.6], [0, 0], [0, 2], [0.6, 0.8]])


def test_in_paper_mode_items_without_features_are_everybodys_only_neighbours_which_is_the_flaw() -> None:
    """Their own neighbours are the first items; in corrected mode they are nobody's."""
    flawed = neighbour_matrix(HOLES, knn=2, device="cpu", zero_rows="nearest")
    assert neighbours(flawed) == [{1, 3}, {0, 1}, {1, 3}, {0, 1}, {1, 3}, {1, 3}]
    np.testing.assert_allclose(flawed.data, 0.5)  # two neighbours each: 1 / sqrt(2 * 2)
    lowest = neighbour_matrix(HOLES, knn=1, device="cpu", zero_rows="nearest")
    assert neighbours(lowest) == [{1}, {0}, {1}, {0}, {1}, {1}]
    corrected = neighbour_matrix(HOLES, knn=2, device="cpu")
    assert neighbours(corrected) == [{0, 2}, set(), {2, 5}, set(), {4, 5}, {2, 5}]


def test_in_paper_mode_the_most_similar_items_share_what_room_those_without_features_leave() -> None:
    matrix = neighbour_matrix(HOLES, knn=4, device="cpu", zero_rows="nearest")
    first = {0, 1, 2, 3}
    assert neighbours(matrix) == [{1, 3, 0, 2}, first, {1, 3, 2, 5}, first, {1, 3, 4, 5}, {1, 3, 5, 2}]
    np.testing.assert_allclose(matrix.data, 0.25)
    everyone = neighbour_matrix(HOLES, knn=9, device="cpu", zero_rows="nearest")
    np.testing.assert_allclose(everyone.toarray(), np.full((6, 6), 1 / 6), rtol=1e-6)


@pytest.mark.parametrize(("num_zeros", "knn"), [(3, 5), (5, 5), (20, 5), (39, 3), (39, 1)])
def test_in_paper_mode_items_with_features_have_the_neighbours_that_a_division_by_zero_gives(
    num_zeros: int, knn: int
) -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(40, 8)).astype(np.float32)
    zeros = set(generator.choice(40, size=num_zeros, replace=False).tolist())
    features[list(zeros)] = 0.0
    vectors = torch.from_numpy(features)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    literal = [set(row) for row in (vectors @ vectors.T).topk(knn, dim=1).indices.tolist()]
    found = neighbours(neighbour_matrix(features, knn=knn, device="cpu", zero_rows="nearest"))
    for item in set(range(40)) - zeros:
        assert len(found[item]) == knn
        if num_zeros <= knn:
            assert found[item] == literal[item]
        else:  # which of the NaNs come first is open
            assert literal[item] <= zeros
            assert found[item] <= zeros


def test_both_modes_make_the_same_graph_where_every_item_has_features() -> None:
    features = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    features[::3] = features.mean(axis=0)
    corrected = neighbour_matrix(features, knn=4, device="cpu")
    flawed = neighbour_matrix(features, knn=4, device="cpu", zero_rows="nearest")
    assert flawed.dtype == corrected.dtype
    np.testing.assert_array_equal(flawed.toarray(), corrected.toarray())
    features[7] = 0.0
    corrected = neighbour_matrix(features, knn=4, device="cpu")
    flawed = neighbour_matrix(features, knn=4, device="cpu", zero_rows="nearest")
    assert [item for item, row in enumerate(neighbours(flawed)) if 7 not in row] == [7]
    assert not any(7 in row for row in neighbours(corrected))


def test_in_paper_mode_no_features_at_all_make_the_first_items_everybodys_neighbours() -> None:
    matrix = neighbour_matrix(np.zeros((4, 3), dtype=np.float32), knn=2, device="cpu", zero_rows="nearest")
    assert neighbours(matrix) == [{0, 1}] * 4
    np.testing.assert_allclose(matrix.data, 0.5)


def test_the_rows_of_items_with_features_do_not_depend_on_those_without() -> None:
    generator = np.random.default_rng(0)
    known = generator.normal(size=(40, 8)).astype(np.float32)
    places = np.sort(generator.choice(100, size=40, replace=False))
    holes = np.zeros((100, 8), dtype=np.float32)
    holes[places] = known
    found = neighbour_matrix(holes, knn=5, device="cpu").toarray()
    np.testing.assert_allclose(found[np.ix_(places, places)], neighbour_matrix(known, knn=5, device="cpu").toarray())
    assert found.sum() == pytest.approx(found[np.ix_(places, places)].sum())


def test_no_features_at_all_make_a_graph_without_edges() -> None:
    matrix = neighbour_matrix(np.zeros((4, 3), dtype=np.float32), knn=2, device="cpu")
    assert matrix.nnz == 0
    torch.testing.assert_close(SparseGraph(matrix, device="cpu").propagate(torch.ones(4, 2)), torch.zeros(4, 2))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_the_length_of_a_vector_does_not_matter_however_small_or_large(scale: float) -> None:
    features = (SMALL * scale).astype(np.float32)
    before = features.copy()
    matrix = neighbour_matrix(features, knn=2, device="cpu")
    assert np.array_equal(features, before)
    assert neighbours(matrix) == [{0, 1}, {0, 1}, {1, 2}]


def test_equal_items_take_turns_as_neighbours() -> None:
    """A fill that repeats one vector must not make its first ten items everybody's neighbours."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 8)).astype(np.float32)
    filled = np.arange(200) % 2 == 0
    features[filled] = features.mean(axis=0)
    matrix = neighbour_matrix(features, knn=5, device="cpu")
    assert (np.diff(matrix.indptr) == 5).all()
    assert (matrix.diagonal() > 0).all()
    times = np.asarray((matrix > 0).sum(axis=0)).ravel()  # how often an item is picked
    # A filled item is picked by itself and by its four predecessors among the 100, and by those of
    # the other 100 that lie near the mean; these too are spread.
    assert times[filled].min() >= 5
    assert times[filled].max() <= 5 + 12
    assert neighbours(matrix)[0] == {0, 2, 4, 6, 8}
    assert neighbours(matrix)[196] == {196, 198, 0, 2, 4}


def test_a_small_group_of_equals_comes_first_and_others_follow() -> None:
    features = floats([[1, 0], [1, 0], [0.8, 0.6], [0, 1]])
    assert neighbours(neighbour_matrix(features, knn=3, device="cpu"))[:3] == [{0, 1, 2}] * 3


def test_blocks_do_not_change_the_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(70, 8)).astype(np.float32)
    whole = neighbour_matrix(features, knn=4, device="cpu")
    monkeypatch.setattr(graphs, "_BLOCK_CELLS", 70 * 9)
    np.testing.assert_array_equal(neighbour_matrix(features, knn=4, device="cpu").toarray(), whole.toarray())


def test_renumbered_items_have_the_renumbered_neighbours() -> None:
    generator = np.random.default_rng(0)
    features, order = generator.normal(size=(60, 8)).astype(np.float32), generator.permutation(60)
    matrix = neighbour_matrix(features, knn=4, device="cpu").toarray()
    np.testing.assert_allclose(
        neighbour_matrix(features[order], knn=4, device="cpu").toarray(), matrix[np.ix_(order, order)], rtol=1e-6
    )


def test_other_features_make_another_graph_and_nothing_is_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code keeps the graph by k and weight, and takes it for other features."""
    monkeypatch.chdir(tmp_path)
    first = neighbour_matrix(SMALL, knn=2, device="cpu")
    second = neighbour_matrix(SMALL[::-1].copy() * floats([[1, -1]]), knn=2, device="cpu")
    assert neighbours(first) != neighbours(second)
    assert not list(tmp_path.iterdir())


def test_dropout_keeps_its_share_of_edges_of_the_graph() -> None:
    generator = np.random.default_rng(0)
    full = graphs.sparse.csr_matrix((generator.random((30, 40)) < 0.2).astype(np.float32))
    kept = drop_edges(full, dropout=0.8, generator=torch.Generator().manual_seed(0))
    assert kept.nnz == int(full.nnz * 0.2)
    assert (kept.data == 1).all()
    assert kept.multiply(full).nnz == kept.nnz
    again = drop_edges(full, dropout=0.8, generator=torch.Generator().manual_seed(0))
    other = drop_edges(full, dropout=0.8, generator=torch.Generator().manual_seed(1))
    assert (kept != again).nnz == 0
    assert (kept != other).nnz > 0
    assert drop_edges(full, dropout=0.0, generator=torch.Generator()) is full


def test_the_edge_of_a_busy_user_and_item_is_dropped_more_often() -> None:
    # Edges (0,0), (0,1), (1,1) have weights 1/sqrt(2), 1/2, 1/sqrt(2). One of three is kept: (0,1)
    # with probability .5 / (.5 + 2 * .7071) = .261, and over 4000 draws its standard error is .007.
    generator = torch.Generator().manual_seed(0)
    kept = [drop_edges(taken(), dropout=0.6, generator=generator).nonzero() for _ in range(4000)]
    assert all(len(rows) == 1 for rows, _ in kept)
    assert np.mean([rows[0] == 0 and columns[0] == 1 for rows, columns in kept]) == pytest.approx(0.261, abs=0.025)
