"""LightGCN.

He et al. 2020, "LightGCN: Simplifying and Powering Graph Convolution Network for
Recommendation", SIGIR, arXiv 2002.02126.
"""

import torch
from torch import Tensor
from torch.nn import functional

from grpo_mmpc.recbench.graphs import distinct, layer_mean, symmetric_graph, take
from grpo_mmpc.recbench.recommenders.graph_recommender import GraphRecommender
from grpo_mmpc.recbench.recommenders.recommender import Embeddings
from grpo_mmpc.recbench.records import ItemFeatures, Split


class LightGCN(GraphRecommender):
    """A mean over neighbours up to ``layers`` steps away, without features.

    The paper searches ``layers`` in {1, 2, 3, 4} and ``reg`` in {1e-6, 1e-5, ..., 1e-2}; three
    layers and 1e-4 serve it in most cases (its section 4.1).
    """

    def __init__(
        self,
        split: Split,
        features: ItemFeatures,
        *,
        generator: torch.Generator,
        device: str,
        embedding_dim: int = 64,
        layers: int = 3,
        reg: float = 1e-4,
    ) -> None:
        """Make the graph of the training part and sample the parameters; features are not used."""
        super().__init__(split, dim=embedding_dim, generator=generator, device=device)
        self.layers, self.reg = layers, reg
        self.graph = symmetric_graph(self.taken, device=device)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Return BPR on final vectors plus ``reg`` times the squares of the batch's own (Eq. 15).

        Halved and divided by the batch size, as the authors' code has it, so that ``reg`` means
        what it does there.
        """
        batch = distinct(users, positives + self.num_users, negatives + self.num_users)
        final = layer_mean(self.graph, self.nodes, layers=self.layers, rows=batch.rows)
        user, positive, negative = (take(final, at) for at in batch.at)
        ranking = -functional.logsigmoid((user * (positive - negative)).sum(dim=1)).mean()
        if not self.reg:
            return ranking
        squares = take(self.nodes, batch.rows).square().sum(dim=1)  # [R]
        return ranking + self.reg * sum(squares[at].mean() for at in batch.at) / 2

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """Return final vectors (Eq. 4); their inner products are the scores (Eq. 5)."""
        return self.as_embeddings(layer_mean(self.graph, self.nodes, layers=self.layers))
