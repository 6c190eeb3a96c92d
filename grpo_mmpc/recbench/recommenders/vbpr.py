"""VBPR.

He and McAuley 2016, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI,
arXiv 1510.01784.
"""

import torch
from torch import Tensor, nn

from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender, xavier_uniform
from grpo_mmpc.recbench.recommenders.vbpr_fused import BatchLoss
from grpo_mmpc.recbench.records import ItemFeatures, Split


class VBPR(Recommender):
    """The score ``beta_i + gamma_u . gamma_i + theta_u . (E f_i) + beta' . f_i`` (Eq. 4).

    Equation 4 also has terms that are equal for all items, which change no ranking.

    ``f_i`` are the item's text and image features side by side, as they come, which is how the
    MMRec toolbox joins them. An item without features (a zero row) is left with its ID.
    """

    features: Tensor | None
    """``[I, F]`` fp32."""

    def __init__(
        self,
        split: Split,
        features: ItemFeatures,
        *,
        generator: torch.Generator,
        device: str,
        embedding_dim: int = 64,
        reg: float = 0.01,
    ) -> None:
        """Sample the parameters; without any features it is BPR with an item bias."""
        super().__init__()
        joined = None if features.joined is None else torch.from_numpy(features.joined).to(device)
        self.register_buffer("features", joined, persistent=False)
        self.reg = reg

        def xavier(rows: int, columns: int) -> Tensor:
            return xavier_uniform(rows, columns, generator=generator).to(device)

        def with_bias(matrix: Tensor, *, dim: int) -> nn.Parameter:
            return nn.Parameter(torch.cat([matrix, torch.zeros_like(matrix.narrow(dim, 0, 1))], dim=dim))

        # What is looked up or multiplied together is kept together: theta_u beside gamma_u, beta_i
        # beside gamma_i, beta' below E.
        self.users = nn.Parameter(xavier(split.num_users, embedding_dim if joined is None else 2 * embedding_dim))
        self.items = with_bias(xavier(split.num_items, embedding_dim), dim=1)  # [I, K + 1]
        self.projection: nn.Parameter | None = None  # [K + 1, F]
        if joined is not None:
            self.projection = with_bias(xavier(embedding_dim, joined.shape[1]), dim=0)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean of ``-ln sigma(x_ui - x_uj)`` (Eq. 6), regularised.

        The regulariser is ``reg`` times the squared lengths of all vectors that the batch uses,
        over its size. What is equal for both items of a triple cancels: only ``f_i - f_j`` enters.
        """
        tables = self.users, self.items, self.projection, self.features
        loss: Tensor = BatchLoss.apply(*tables, users, positives, negatives, self.reg)  # type: ignore[no-untyped-call]
        return loss

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """Return ``[gamma_u, theta_u, 1]`` and ``[gamma_i, E f_i, beta_i + beta' . f_i]``."""
        users = torch.cat([self.users, self.users.new_ones(len(self.users), 1)], dim=1)
        if self.features is None or self.projection is None:
            return Embeddings(users=users, items=self.items.clone())
        items = torch.cat([self.items[:, :-1], self.features @ self.projection.T], dim=1)
        items[:, -1] += self.items[:, -1]
        return Embeddings(users=users, items=items)
