"""VBPR (He and McAuley 2016, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI, arXiv 1510.01784)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender
from grpo_mmpc.recbench.records import MODALITIES, ItemFeatures, Split


def build(
    split: Split,
    features: ItemFeatures,
    *,
    generator: torch.Generator,
    device: str,
    embedding_dim: int = 64,
    reg: float = 0.01,
    products: torch.dtype | None = None,
) -> "VBPR":
    """A VBPR of the training part. Published grid: ``reg`` {2, 1, 0.1, 0.01, 1e-3, 1e-4, 1e-5}.

    Args:
        split: How many users and items there are.
        features: A modality that is None has no part in the model; without any, it is BPR with an item bias.
        generator: Of the initial parameters.
        device: Where the model lives.
        embedding_dim: K, and as many again for the features.
        reg: Weight of the squared lengths of the batch's vectors.
        products: Precision in which features are multiplied in training (sums, parameters and scores are fp32 in any case). None takes
            bfloat16 where the CPU multiplies it by itself, three times as fast; its rounding, 0.4 %, is far below what an
            encoder's vectors are worth.

    Raises:
        RecBenchError: Features are not finite, or of another number of items than the split.
    """
    return VBPR(
        split,
        features,
        generator=generator,
        device=device,
        embedding_dim=embedding_dim,
        reg=reg,
        products=products or _fastest_products(device),
    )


class VBPR(Recommender):
    """Scores ``x_ui = beta_i + gamma_u . gamma_i + theta_u . (E f_i) + beta' . f_i`` (Eq. 4, without what is equal for all items).

    ``f_i`` are the item's text and image features side by side, as they come, which is how the MMRec toolbox joins them. An item
    without features (a zero row) is left with its ID.
    """

    features: Tensor | None
    """``[I, F]`` fp32, for scores."""
    _factors: Tensor | None
    """The same in the precision of products."""

    def __init__(
        self,
        split: Split,
        features: ItemFeatures,
        *,
        generator: torch.Generator,
        device: str,
        embedding_dim: int,
        reg: float,
        products: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        joined = _joined(features, num_items=split.num_items)
        joined = joined if joined is None else joined.to(device)
        self.register_buffer("features", joined, persistent=False)
        self.register_buffer("_factors", joined if joined is None else joined.to(products), persistent=False)
        self.reg = reg

        def drawn(rows: int, columns: int) -> Tensor:
            table = torch.empty(rows, columns, device=generator.device)
            return nn.init.xavier_uniform_(table, generator=generator).to(device)

        def with_bias(matrix: Tensor, *, dim: int) -> nn.Parameter:
            return nn.Parameter(torch.cat([matrix, torch.zeros_like(matrix.narrow(dim, 0, 1))], dim=dim))

        # What is looked up or multiplied together is kept together: theta_u beside gamma_u, beta_i beside gamma_i, beta' below E.
        self.users = nn.Parameter(drawn(split.num_users, embedding_dim if joined is None else 2 * embedding_dim))
        self.items = with_bias(drawn(split.num_items, embedding_dim), dim=1)  # [I, K + 1]
        self.projection: nn.Parameter | None = None  # [K + 1, F]
        if joined is not None:
            self.projection = with_bias(drawn(embedding_dim, joined.shape[1]), dim=0)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Mean of ``-ln sigma(x_ui - x_uj)`` (Eq. 6), and ``reg`` times the squared lengths of what the batch uses, over its size.

        Only ``f_i - f_j`` enters, so one product projects the differences of the batch.
        """
        apart = None if self._factors is None else _differences(self._factors, positives, negatives)
        value: Tensor = _BatchLoss.apply(  # type: ignore[no-untyped-call]
            self.users, self.items, self.projection, users, positives, negatives, apart, self.reg
        )
        return value

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """``[gamma_u, theta_u, 1]`` and ``[gamma_i, E f_i, beta_i + beta' . f_i]``."""
        users = torch.cat([self.users, self.users.new_ones(len(self.users), 1)], dim=1)
        if self.features is None or self.projection is None:
            return Embeddings(users=users, items=self.items.clone())
        items = torch.cat([self.items[:, :-1], self.features @ self.projection.T], dim=1)
        items[:, -1] += self.items[:, -1]
        return Embeddings(users=users, items=items)


class _BatchLoss(torch.autograd.Function):
    """The loss of a batch and its gradient, written out: half the time of what autograd makes of the formula.

    With ``x = x_ui - x_uj`` and B the batch size: ``loss = sum ln(1 + exp(-x)) / B + reg / B * (sum of squares)``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        user_table: Tensor,
        item_table: Tensor,
        projection: Tensor | None,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        apart: Tensor | None,
        reg: float,
    ) -> Tensor:
        size, dim, items = len(users), item_table.shape[1] - 1, torch.cat([positives, negatives])
        # index_select: indexing takes four times as long on a CPU.
        user, item = user_table.index_select(0, users), item_table.index_select(0, items)
        difference = item[:size] - item[size:]  # [B, K + 1], the bias last
        margin = difference[:, dim] + torch.linalg.vecdot(user[:, :dim], difference[:, :dim])  # [B]
        squares = _square(user) + _square(item)
        projected = None
        if apart is not None and projection is not None:
            projected = (apart @ projection.to(apart.dtype).T).float()  # [B, K + 1], the bias last
            margin = margin + projected[:, dim] + torch.linalg.vecdot(user[:, dim:], projected[:, :dim])
            squares = squares + _square(projection)
        ctx.save_for_backward(users, items, user, item, difference, projected, margin, projection, apart)
        ctx.rows = len(user_table), len(item_table)
        ctx.reg = reg
        return functional.softplus(-margin).mean() + reg / size * squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        users, items, user, item, difference, projected, margin, projection, apart = ctx.saved_tensors
        size, dim = len(users), item.shape[1] - 1
        pull = (torch.sigmoid(-margin) * (upstream / -size)).unsqueeze(1)  # [B, 1], of the margin
        shrink = upstream * (2 * ctx.reg / size)
        of_user, of_item = user * shrink, item * shrink
        of_user[:, :dim].addcmul_(difference[:, :dim], pull)
        pulled = torch.cat([user[:, :dim] * pull, pull], dim=1)  # [B, K + 1], of the difference
        of_item[:size] += pulled
        of_item[size:] -= pulled
        of_projection = None
        if apart is not None:
            of_user[:, dim:].addcmul_(projected[:, :dim], pull)
            outer = torch.cat([user[:, dim:] * pull, pull], dim=1).to(apart.dtype)
            of_projection = (outer.T @ apart).float().addcmul_(projection, shrink)
        return (
            of_user.new_zeros(ctx.rows[0], user.shape[1]).index_add_(0, users, of_user),
            of_item.new_zeros(ctx.rows[1], dim + 1).index_add_(0, items, of_item),
            of_projection,
            *(None,) * 5,
        )


def _joined(features: ItemFeatures, *, num_items: int) -> Tensor | None:
    """``[I, F]``, text before image; None without any."""
    given = {name: getattr(features, name) for name in MODALITIES if getattr(features, name) is not None}
    for name, values in given.items():
        if len(values) != num_items:
            raise RecBenchError(f"{len(values)} {name} features for {num_items} items of the split")
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(broken):
            raise RecBenchError(
                f"{name} features of {len(broken)} of {num_items} items are not finite (first: item {broken[0]}); fill what is "
                "missing before a recommender is built, with zeros at the least"
            )
    return torch.from_numpy(np.concatenate(list(given.values()), axis=1)) if given else None


def _differences(table: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """``f_i - f_j``, ``[B, F]``: as a weighted sum of two rows, which reads them once and writes nothing else."""
    both = torch.stack([positives, negatives], dim=1)
    signs = torch.tensor([1.0, -1.0], dtype=table.dtype, device=table.device).expand(len(both), 2).contiguous()
    return functional.embedding_bag(both, table, per_sample_weights=signs, mode="sum")


def _square(vectors: Tensor) -> Tensor:
    """Sum of squares, without a table of the squares."""
    flat = vectors.reshape(-1)
    return torch.dot(flat, flat)


def _fastest_products(device: str) -> torch.dtype:
    """On a GPU fp32 is not what an epoch spends its time on."""
    is_native = torch.device(device).type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if is_native else torch.float32
