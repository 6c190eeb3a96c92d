"""FREEDOM, which freezes one graph and denoises the other.

Zhou & Shen 2023, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
Recommendation", ACM Multimedia, arXiv 2211.06924.
"""

import torch
from torch import Tensor
from torch.nn import functional

from grpo_mmpc.recbench.graphs import (
    SparseGraph,
    ZeroRows,
    distinct,
    drop_edges,
    layer_mean,
    neighbour_matrix,
    symmetric_graph,
    take,
)
from grpo_mmpc.recbench.recommenders.graph_recommender import GraphRecommender
from grpo_mmpc.recbench.recommenders.projections import projected_modalities
from grpo_mmpc.recbench.recommenders.recommender import Embeddings
from grpo_mmpc.recbench.records import ItemFeatures, Split


class Freedom(GraphRecommender):
    """A mean over a thinned user-item graph, and over a frozen graph of similar items."""

    def __init__(
        self,
        split: Split,
        features: ItemFeatures,
        *,
        generator: torch.Generator,
        device: str,
        embedding_dim: int = 64,
        dropout: float = 0.8,
        reg: float = 1e-3,
        knn: int = 10,
        item_layers: int = 1,
        user_item_layers: int = 2,
        image_weight: float = 0.1,
        zero_rows: ZeroRows = "ignored",
    ) -> None:
        """Make the graphs and sample the parameters.

        The weight of a modality that is None goes to the other one; without any, a LightGCN with
        dropped edges remains. Features are input, as in the paper; the published toolbox trains
        those that are projected. ``dropout`` is the share of user-item edges left out of an epoch,
        ``reg`` the weight of the ranking losses on features, ``knn`` the number of neighbours of an
        item, itself among them, ``image_weight`` that of the image graph; the text graph gets the
        rest. ``zero_rows`` says what items without a modality are in its graph, see
        ``neighbour_matrix``.
        """
        super().__init__(split, dim=embedding_dim, generator=generator, device=device)
        self.dropout, self.reg, self.device = dropout, reg, device
        self.item_layers, self.user_item_layers = item_layers, user_item_layers
        self.graph = symmetric_graph(self.taken, device=device)
        self.thinned = self.graph
        self.item_graph = item_graph(features, knn=knn, image_weight=image_weight, device=device, zero_rows=zero_rows)
        self.modalities = projected_modalities(features, dim=embedding_dim, generator=generator, device=device)

    def start_epoch(self, generator: torch.Generator) -> None:
        """Sample the user-item edges of the epoch and normalise what is left."""
        if self.dropout:
            kept = drop_edges(self.taken, dropout=self.dropout, generator=generator)
            self.thinned = symmetric_graph(kept, device=self.device)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Return BPR on final vectors, and ``reg`` times BPR of users on each modality's items.

        The paper has no other regulariser. Projected are the features of the batch's items alone.
        """
        user_rows, (user_at,) = distinct(users)
        item_rows, (positive_at, negative_at) = distinct(positives, negatives)
        rows = torch.cat([user_rows, item_rows + self.num_users])
        mean = layer_mean(self.thinned, self.nodes, layers=self.user_item_layers, rows=rows)
        user, item = take(mean, user_at), mean[len(user_rows) :]
        if self.item_graph is not None:
            item = item + self._alike(self.item_graph, rows=item_rows)
        views, weights = [item], [1.0]
        if self.reg:
            views += [modality(item_rows) for modality in self.modalities.values()]
            weights += [self.reg] * len(self.modalities)
        shown = torch.cat(views, dim=1)  # [R, V * D]: rows are picked once for all views
        margins = (take(shown, positive_at) - take(shown, negative_at)).view(len(users), len(views), -1)
        losses = -functional.logsigmoid((user[:, None] * margins).sum(dim=2)).mean(dim=0)  # [V]
        return losses @ losses.new_tensor(weights)

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """Return final vectors on the whole user-item graph."""
        users, items = self.as_embeddings(layer_mean(self.graph, self.nodes, layers=self.user_item_layers))
        return Embeddings(users=users, items=items if self.item_graph is None else items + self._alike(self.item_graph))

    def _alike(self, graph: SparseGraph, *, rows: Tensor | None = None) -> Tensor:
        """Return vectors of similar items after ``item_layers`` steps, of some items or all."""
        vectors = self.nodes[self.num_users :]
        for _ in range(self.item_layers - 1):
            vectors = graph.propagate(vectors)
        if self.item_layers == 0:
            return vectors if rows is None else take(vectors, rows)
        return graph.propagate(vectors) if rows is None else graph.propagate_to(rows, vectors)


def item_graph(
    features: ItemFeatures, *, knn: int, image_weight: float, device: str, zero_rows: ZeroRows
) -> SparseGraph | None:
    """Return the weighted sum of the modalities' graphs ``[I, I]``; None without any modality.

    An item that lacks a modality has no neighbours in that one's graph, and keeps those of the
    other; with ``zero_rows="nearest"`` it is everybody's neighbour there.
    """
    parts = [
        weight * neighbour_matrix(values, knn=knn, device=device, zero_rows=zero_rows)
        for values, weight in (
            (features.text, 1.0 if features.image is None else 1.0 - image_weight),
            (features.image, 1.0 if features.text is None else image_weight),
        )
        if values is not None
    ]
    return SparseGraph(sum(parts[1:], parts[0]).tocsr(), device=device) if parts else None
