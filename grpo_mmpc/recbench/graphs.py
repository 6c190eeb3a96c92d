"""The graphs of recommenders: users with the items they took, and items with similar items.

Graphs are built from the data that they are given, every time. None is kept on disk, where one of
other features could be mistaken for it.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sparse  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from grpo_mmpc.recbench.records import Floats, Ints, Pairs
from grpo_mmpc.utils.hashing import digest

_BLOCK_CELLS = 4_000_000
"""Similarities held at once (16 MB), so that 100,000 items need no square matrix."""

ZeroRows = Literal["ignored", "nearest"]
"""The place of items without features (all-zero rows) in a neighbour graph; ``nearest`` is a flaw,
for paper mode alone."""


class SparseGraph:
    """A sparse matrix ``[N, M]`` that node vectors are multiplied with, forwards and backwards.

    On the CPU the product is SciPy's: on one thread it takes 60% of the time of PyTorch's
    compressed rows and a third of that of its coordinates, its transpose costs nothing, and rows
    can be picked.
    """

    def __init__(self, matrix: sparse.csr_matrix, *, device: str, is_symmetric: bool = False) -> None:
        self.matrix = matrix.astype(np.float32)
        self._is_on_cpu = torch.device(device).type == "cpu"
        if not self._is_on_cpu:
            self._tensor = csr_tensor(self.matrix).to(device)
            self._transposed = self._tensor if is_symmetric else csr_tensor(self.matrix.T.tocsr()).to(device)

    def propagate(self, vectors: Tensor) -> Tensor:
        """Return ``matrix @ vectors``, from ``[M, D]`` to ``[N, D]``."""
        if self._is_on_cpu:
            return _product(vectors, forward=self.matrix, backward=self.matrix.T)
        return _product(vectors, forward=self._tensor, backward=self._transposed)

    def propagate_to(self, rows: Tensor, vectors: Tensor) -> Tensor:
        """Return ``(matrix @ vectors)[rows]``, computing no other row where that is cheaper.

        ``rows`` ``[R]`` are different, ``vectors`` ``[M, D]``.
        """
        if not self._is_on_cpu:
            return take(self.propagate(vectors), rows)
        picked = self.matrix[rows.numpy()]
        return _product(vectors, forward=picked, backward=picked.T)


class _Product(torch.autograd.Function):
    """A product with a constant matrix; PyTorch's own sorts its transpose in each backward pass."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, forward: Any, backward: Any) -> Tensor:
        ctx.transposed = backward
        return _multiply(forward, vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _multiply(ctx.transposed, gradients[0]), None, None


def _product(vectors: Tensor, *, forward: Any, backward: Any) -> Tensor:
    apply: Callable[..., Tensor] = _Product.apply
    return apply(vectors, forward, backward)


def _multiply(matrix: Any, vectors: Tensor) -> Tensor:
    if isinstance(matrix, Tensor):
        return matrix @ vectors
    return torch.from_numpy(matrix @ vectors.detach().numpy())


def csr_tensor(matrix: sparse.csr_matrix) -> Tensor:
    """Return compressed rows of PyTorch; 32-bit positions halve what a product reads."""
    return torch.sparse_csr_tensor(
        torch.from_numpy(matrix.indptr.astype(np.int32)),
        torch.from_numpy(matrix.indices.astype(np.int32)),
        torch.from_numpy(matrix.data),
        size=matrix.shape,
        check_invariants=False,
    )


def interaction_matrix(pairs: Pairs, *, num_users: int, num_items: int) -> sparse.csr_matrix:
    """Return who took what, ``[U, I]`` of ones: a pair that comes twice counts once."""
    ones = np.ones(len(pairs), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (pairs.users, pairs.items)), shape=(num_users, num_items))
    matrix.data[:] = 1.0
    return matrix


def symmetric_graph(interactions: sparse.csr_matrix, *, device: str) -> SparseGraph:
    """Return ``D^-1/2 A D^-1/2`` over users, then items; a node without an edge has an empty row.

    References:
        He et al. 2020, LightGCN, Eq. 3.
    """
    normalised = _scales(interactions, axis=1, power=-0.5) @ interactions @ _scales(interactions, axis=0, power=-0.5)
    return SparseGraph(
        sparse.bmat([[None, normalised], [normalised.T, None]], format="csr"), device=device, is_symmetric=True
    )


def mean_graph(interactions: sparse.csr_matrix, *, device: str) -> SparseGraph:
    """Return ``D^-1 A`` over users, then items: the mean over neighbours, zero without any."""
    of_items = _scales(interactions, axis=1, power=-1.0) @ interactions
    of_users = (interactions @ _scales(interactions, axis=0, power=-1.0)).T
    return SparseGraph(sparse.bmat([[None, of_items], [of_users, None]], format="csr"), device=device)


def drop_edges(interactions: sparse.csr_matrix, *, dropout: float, generator: torch.Generator) -> sparse.csr_matrix:
    """Keep ``1 - dropout`` of the edges of ``[U, I]``, sampled with weights ``1 / sqrt(d_u d_i)``.

    The busier its user and its item, the likelier an edge is left out: the degree-sensitive edge
    pruning of FREEDOM. ``dropout`` is in [0, 1); at least one edge is kept.
    """
    num_edges = interactions.nnz
    if dropout == 0.0 or num_edges == 0:
        return interactions
    edges = interactions.tocoo()
    degrees = _degrees(interactions, axis=1)[edges.row] * _degrees(interactions, axis=0)[edges.col]
    # The smallest of exponential clocks that run at the weights' rates: a weighted draw without
    # replacement.
    clocks = torch.empty(num_edges, dtype=torch.float64, device=generator.device).exponential_(generator=generator)
    kept = np.argsort(clocks.cpu().numpy() * np.sqrt(degrees), kind="stable")[
        : max(1, int(num_edges * (1.0 - dropout)))
    ]
    return sparse.csr_matrix((edges.data[kept], (edges.row[kept], edges.col[kept])), shape=interactions.shape)


def neighbour_matrix(features: Floats, *, knn: int, device: str, zero_rows: ZeroRows = "ignored") -> sparse.csr_matrix:
    """Return the graph of each item's ``knn`` most similar items, ``D^-1/2 S D^-1/2``.

    Similar is by cosine. An item is its own first neighbour: it is the most similar of all, and the
    paper ranks all items. An item without features (an all-zero row) has no neighbours and is
    nobody's neighbour. Items with equal features are equally near to anyone, so those take turns in
    being picked; else a fill that repeats one vector would make its first few items everybody's
    neighbours.

    The official code divides by norms of zero, and NaN ranks above every similarity: with
    ``zero_rows="nearest"`` items without features are everybody's first neighbours, and what room
    they leave goes to the most similar items. Their own similarities are all NaN, so their
    neighbours are the first ``knn`` items. PyTorch leaves open which of several NaNs come first;
    here it is the lowest positions.

    Args:
        features: ``[I, D]``, finite.
        knn: At least 1; fewer neighbours where fewer items have features.
        device: Where similarities are computed.
        zero_rows: ``ignored``, or ``nearest`` as in the official code.

    Returns:
        ``[I, I]``, not symmetric: an item need not be among the neighbours of its neighbours.

    References:
        Zhou & Shen 2023, FREEDOM, section on constructing the frozen item-item graph; the same
        normalisation as LATTICE.
    """
    num_items = len(features)
    is_known = features.any(axis=1)
    known, unknown = np.flatnonzero(is_known), np.flatnonzero(~is_known)
    if zero_rows == "ignored":
        rows, columns = _edges(features, known, knn=knn, device=device)
    else:
        first, anyone = unknown[:knn], np.arange(min(knn, num_items))
        rows, columns = _edges(features, known, knn=knn - len(first), device=device)
        rows = np.concatenate([np.repeat(known, len(first)), rows, np.repeat(unknown, len(anyone))])
        columns = np.concatenate([np.tile(first, len(known)), columns, np.tile(anyone, len(unknown))])
    counts = np.bincount(rows, minlength=num_items).astype(np.float32)
    values = 1.0 / np.sqrt(counts[rows] * counts[columns])
    return sparse.csr_matrix((values, (rows, columns)), shape=(num_items, num_items))


def _edges(features: Floats, known: Ints, *, knn: int, device: str) -> tuple[Ints, Ints]:
    if knn == 0 or len(known) == 0:
        return known[:0], known[:0]
    rows, columns = _neighbours(_to_unit_length(features[known]), knn=knn, device=device)
    return known[rows], known[columns]


def _to_unit_length(vectors: Floats) -> Floats:
    """Scale rows that are not all zero in place: a copy of 100,000 would be hundreds of megabytes.

    No square under- or overflows once the largest number of a row is one.
    """
    vectors /= np.maximum(vectors.max(axis=1), -vectors.min(axis=1))[:, None]
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


class _Alike(NamedTuple):
    """The items grouped by equal vectors."""

    group: Ints  # [N] of an item
    members: Ints  # [N] items, group after group
    starts: Ints  # [G] of a group in members
    sizes: Ints  # [G]


def _neighbours(vectors: Floats, *, knn: int, device: str) -> tuple[Ints, Ints]:
    alike = _group_alike(vectors)
    num_groups = len(alike.starts)
    firsts = vectors if num_groups == len(vectors) else vectors[alike.members[alike.starts]]
    different = torch.from_numpy(firsts).to(device)  # [G, D], groups are numbered as they first come
    block = max(1, _BLOCK_CELLS // num_groups)
    nearest = []
    for start in range(0, num_groups, block):
        cosines = different[start : start + block] @ different.T
        # Above every cosine: rounding must not put another item before the item itself.
        cosines.diagonal(start).fill_(2.0)
        nearest.append(cosines.topk(min(knn, num_groups), dim=1).indices.cpu())
    groups = torch.cat(nearest).numpy()[alike.group]  # [N, <= knn], the own group first
    # Slots 0 .. knn - 1 of an item are filled from its nearest groups in turn, from each as many as
    # it has.
    ends = np.cumsum(alike.sizes[groups], axis=1)
    slots = np.arange(knn)
    place = (ends[:, None, :] <= slots[:, None]).sum(axis=2)  # [N, knn] which of the groups
    rows, slot = np.nonzero(place < groups.shape[1])
    place = place[rows, slot]
    group = groups[rows, place]
    taken = slot - (ends[rows, place] - alike.sizes[group])
    # Where to start among equals: at the item itself in its own group, elsewhere at a place that
    # differs from item to item.
    rank = np.empty(len(vectors), dtype=np.int64)
    rank[alike.members] = np.arange(len(vectors)) - np.repeat(alike.starts, alike.sizes)
    first = np.where(place == 0, rank[rows], rows)
    return rows, alike.members[alike.starts[group] + (first + taken) % alike.sizes[group]]


def _group_alike(vectors: Floats) -> _Alike:
    numbers: dict[bytes, int] = {}
    digests = (digest((row + 0.0).tobytes()) for row in vectors)  # -0.0 is 0.0
    group = np.fromiter((numbers.setdefault(one, len(numbers)) for one in digests), np.int64, len(vectors))
    sizes = np.bincount(group)
    return _Alike(group=group, members=np.argsort(group, kind="stable"), starts=np.cumsum(sizes) - sizes, sizes=sizes)


def layer_mean(graph: SparseGraph, vectors: Tensor, *, layers: int, rows: Tensor | None = None) -> Tensor:
    """Return the mean of the vectors and their 1 to ``layers`` propagations (LightGCN, Eq. 3-4).

    Args:
        graph: ``[N, N]``.
        vectors: ``[N, D]``.
        layers: How many times neighbours are looked at; 0 returns the vectors.
        rows: Nodes wanted, each once, ``[R]``; all by default. The last layer is computed for those
            alone.
    """
    total = vectors if rows is None else take(vectors, rows)
    for layer in range(1, layers + 1):
        if rows is not None and layer == layers:
            total = total + graph.propagate_to(rows, vectors)
        else:
            vectors = graph.propagate(vectors)
            total = total + (vectors if rows is None else take(vectors, rows))
    return total / (layers + 1)


class Distinct(NamedTuple):
    """The different positions of a batch, and the place of each one of the batch among them."""

    rows: Tensor  # [R], ascending
    at: tuple[Tensor, ...]  # per tensor of positions, [B] into rows


def distinct(*positions: Tensor) -> Distinct:
    """Return different positions among several ``[B]``, so that popular items are computed once."""
    rows, inverse = torch.unique(torch.cat(positions), return_inverse=True)
    ends = np.cumsum([len(part) for part in positions]).tolist()
    return Distinct(rows=rows, at=tuple(inverse.tensor_split(ends[:-1])))


def take(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return ``vectors[rows]``, with the backward pass that is fast on the CPU."""
    return nn.functional.embedding(rows, vectors)


def _degrees(interactions: sparse.csr_matrix, *, axis: int) -> Any:
    return np.asarray(interactions.sum(axis=axis, dtype=np.float64)).ravel()


def _scales(interactions: sparse.csr_matrix, *, axis: int, power: float) -> Any:
    """Return powers of degrees on a diagonal; a node without edges has nothing to scale."""
    degrees = _degrees(interactions, axis=axis)
    return sparse.diags(np.where(degrees > 0, np.maximum(degrees, 1.0) ** power, 0.0))
