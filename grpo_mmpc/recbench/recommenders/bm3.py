"""BM3 (Zhou et al. 2023, "Bootstrap Latent Representations for Multi-Modal Recommendation").

WWW, arXiv 2207.05969.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from grpo_mmpc.recbench.graphs import distinct, layer_mean, symmetric_graph, take
from grpo_mmpc.recbench.recommenders.graph_recommender import GraphRecommender
from grpo_mmpc.recbench.recommenders.projections import ProjectedFeatures, linear, projected_modalities
from grpo_mmpc.recbench.recommenders.recommender import Embeddings
from grpo_mmpc.recbench.records import ItemFeatures, Split


class BM3(GraphRecommender):
    """A model without negatives: each view of a pair predicts the other, dropped-out and detached.

    As published, losses on features have constant targets, and scores take no features: what
    features say reaches the ranking only by way of the predictor, one D x D matrix that all users
    and items share. In made-up worlds where IDs are dense enough to learn from (1,000 users, 400
    items, 14 interactions each), features that explain tastes are no better than none; features of
    other items are worse than none, and where popularity counts worse than true ones. So a fill can
    do BM3 harm, and hardly good.
    """

    degrees: Tensor
    """Training pairs of users and then items, ``[U + I]``, at least 1."""

    def __init__(
        self,
        split: Split,
        features: ItemFeatures,
        *,
        generator: torch.Generator,
        device: str,
        embedding_dim: int = 64,
        layers: int = 1,
        dropout: float = 0.5,
        reg: float = 0.1,
        cl_weight: float = 2.0,
    ) -> None:
        """Sample the parameters.

        Features are input, as in the paper; the published toolbox trains them, which gives an item
        whose features are missing some after all. Without any, the losses on IDs remain. ``layers``
        are propagations on the user-item graph, ``dropout`` the share of a target's numbers that
        are zeroed, ``reg`` the weight of the norms of the tables of users and items, over the
        number of items, as the published toolbox has them, ``cl_weight`` that of the losses on
        features: the paper's formula has 1, its published settings 2.
        """
        super().__init__(split, dim=embedding_dim, generator=generator, device=device)
        self.layers, self.dropout, self.reg, self.cl_weight = layers, dropout, reg, cl_weight
        self.graph = symmetric_graph(self.taken, device=device)
        self.num_pairs = len(split.train)
        sides = ((split.train.users, self.num_users), (split.train.items, self.num_items))
        degrees = np.concatenate([np.bincount(side, minlength=count) for side, count in sides]).clip(min=1)
        self.register_buffer("degrees", torch.from_numpy(degrees).to(device), persistent=False)
        self.predictor = linear(embedding_dim, embedding_dim, generator=generator, device=device)
        self.modalities = projected_modalities(features, dim=embedding_dim, generator=generator, device=device)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Return reconstruction + ``cl_weight`` (alignment + masking) + ``reg`` lengths.

        With ``C`` the negative cosine, ``h~`` the prediction of a vector and ``h.`` a vector with
        dropout and without gradient: ``C(h~_u, h._i) + C(h~_i, h._u)`` in the mean over the batch's
        pairs, and for each modality ``C(h~_m, h._i) + C(h~_m, h._m)`` in the mean over the pairs
        whose item has features in it (0 without any: a zero row has nothing to align or to mask).
        Cosines are turned into ``1 - cosine``, which changes no gradient. Dropout is sampled once
        for each user and item of a batch.

        Lengths are those that the published values of ``reg`` belong to: ``(|H_u| + |H_i|) / I``,
        Frobenius norms of the whole tables ``[U, D]`` and ``[I, D]``, unsquared. Instead of
        propagating all nodes in every batch for it, the norms are estimated from the batch:
        ``|H_u|^2 ~ N / B * sum over the batch of |h_u|^2 / d_u``, with N training pairs and d_u
        those of the user, and items alike; nodes without a training pair are left out. Without the
        division by d, popular items would be shortened the most, and their popularity lost
        (Recall@20 .12 instead of .25 to .27 in the benchmark's world; norms of the whole tables
        give the same .25 to .27). The paper's formula has squared lengths of the pair at hand,
        which at these values of ``reg`` leave next to nothing to be learned.
        """
        user_rows, (user_at,) = distinct(users)
        item_rows, (item_at,) = distinct(positives)
        rows = torch.cat([user_rows, item_rows + self.num_users])
        final = self._final(rows, num_users=len(user_rows))
        item_at_final = item_at + len(user_rows)
        predicted, target = functional.normalize(self.predictor(final)), self._target(final, generator)
        cosines = (take(predicted, user_at) * target[item_at_final]).sum(dim=1)  # [B]
        cosines = cosines + (take(predicted, item_at_final) * target[user_at]).sum(dim=1)
        total = 2 - cosines.mean()
        # A mean over pairs is a mean over their different users or items, each as often as it
        # comes.
        user_counts = torch.bincount(user_at, minlength=len(user_rows))
        item_counts = torch.bincount(item_at, minlength=len(item_rows))
        for modality in self.modalities.values():
            vectors = modality(item_rows)
            both = target[len(user_rows) :] + self._target(vectors, generator)
            aligned = (functional.normalize(self.predictor(vectors)) * both).sum(dim=1)
            counts = item_counts * cast(ProjectedFeatures, modality).is_known[item_rows]
            total = total + self.cl_weight * ((2 - aligned) @ (counts / counts.sum().clamp(min=1)))
        if self.reg:
            expected = self.degrees[rows] * (len(users) / self.num_pairs)
            weights = torch.cat([user_counts, item_counts]) / expected
            end = len(user_rows)
            lengths = _norm(final[:end], weights[:end]) + _norm(final[end:], weights[end:])
            total = total + self.reg / self.num_items * lengths
        return total

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """Return predictions of all users and items: the paper ranks by their inner products."""
        return self.as_embeddings(self.predictor(self._final(None, num_users=self.num_users)))

    def _final(self, rows: Tensor | None, *, num_users: int) -> Tensor:
        """Return the mean over layers, plus an item's own embedding (residual connection)."""
        mean = layer_mean(self.graph, self.nodes, layers=self.layers, rows=rows)
        own = self.nodes if rows is None else take(self.nodes, rows)
        return torch.cat([mean[:num_users], mean[num_users:] + own[num_users:]])

    def _target(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """Return unit vectors with dropout: a cosine asks for no rescaling."""
        noise = torch.rand(vectors.shape, generator=generator, device=generator.device).to(vectors.device)
        return functional.normalize(vectors.detach() * (noise >= self.dropout))


def _norm(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return the root of a weighted sum of squares; the gradient of zero vectors is zero."""
    norm: Tensor = torch.linalg.vector_norm(vectors * weights.sqrt().unsqueeze(1))
    return norm
