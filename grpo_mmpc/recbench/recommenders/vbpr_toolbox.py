"""VBPR and BPR as the MMRec toolbox has them, for paper mode alone: without item biases."""

import torch
from torch import Tensor, nn

from grpo_mmpc.recbench.graphs import distinct, take
from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender, xavier_uniform
from grpo_mmpc.recbench.records import ItemFeatures, Split


class ToolboxVBPR(Recommender):
    """The score ``gamma_u . gamma_i + theta_u . (E f_i + b)``, without features the first part.

    The paper's ``beta_i + beta' . f_i`` is left out, and lengths are regularised unsquared.
    """

    features: Tensor | None
    """``[I, F]``, text beside image."""

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
        super().__init__()
        self.reg = reg
        joined = None if features.joined is None else torch.from_numpy(features.joined).to(device)
        self.register_buffer("features", joined, persistent=False)
        width = embedding_dim if joined is None else 2 * embedding_dim
        self.users = nn.Parameter(xavier_uniform(split.num_users, width, generator=generator).to(device))
        self.items = nn.Parameter(xavier_uniform(split.num_items, embedding_dim, generator=generator).to(device))
        self.projection: nn.Linear | None = None
        if self.features is not None:
            self.projection = nn.Linear(self.features.shape[1], embedding_dim, device=generator.device)
            nn.init.xavier_normal_(self.projection.weight, generator=generator)
            nn.init.zeros_(self.projection.bias)
            self.projection.to(device)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean of ``-ln(1e-10 + sigma(x_ui - x_uj))``, regularised.

        The regulariser is ``reg`` times the Frobenius norms of the batch's users, positive and
        negative items, added up and divided by the batch size.
        """
        rows, (positive_at, negative_at) = distinct(positives, negatives)
        vectors = self._items(rows)
        user, positive, negative = take(self.users, users), take(vectors, positive_at), take(vectors, negative_at)
        loss = -torch.log(1e-10 + torch.sigmoid((user * (positive - negative)).sum(dim=1))).mean()
        for part in (user, positive, negative):
            loss = loss + self.reg * torch.linalg.vector_norm(part) / len(users)
        return loss

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """Return ``[gamma_u, theta_u]`` and ``[gamma_i, E f_i + b]``."""
        return Embeddings(users=self.users.detach(), items=self._items(torch.arange(len(self.items))))

    def _items(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.items.device)
        gamma = take(self.items, rows)
        if self.features is None or self.projection is None:
            return gamma
        return torch.cat([gamma, self.projection(self.features.index_select(0, rows))], dim=1)
