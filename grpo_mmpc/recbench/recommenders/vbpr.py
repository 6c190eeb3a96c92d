"""VBPR (He and McAuley 2016, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI, arXiv 1510.01784)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender
from grpo_mmpc.recbench.records import ItemFeatures, Split

_BLOCK_TRIPLES = 512
"""Triples whose features are in the cache at once (2 MB of text and image)."""


class VBPR(Recommender):
    """Scores ``x_ui = beta_i + gamma_u . gamma_i + theta_u . (E f_i) + beta' . f_i`` (Eq. 4, without what is equal for all items).

    ``f_i`` are the item's text and image features side by side, as they come, which is how the
    MMRec toolbox joins them. An item without features (a zero row) is left with its ID.

    The values of ``reg`` in the published scripts are {2, 1, 0.1, 0.01, 1e-3, 1e-4, 1e-5}. They are
    tried here too, but they do not weigh the same: the paper and we take squared lengths, the MMRec
    toolbox the unsquared norms of the batch's matrices over B.
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
        """Draw the parameters.

        Args:
            split: How many users and items there are.
            features: A modality that is None has no part in the model; without any, it is BPR with
                an item bias.
            generator: Of the initial parameters.
            device: Where the model lives.
            embedding_dim: K, and as many again for the features.
            reg: Weight of the squared lengths of the batch's vectors, over its size.

        Raises:
            RecBenchError: Features are not finite, or of another number of items than the split.
        """
        super().__init__()
        joined = _joined(features, num_items=split.num_items)
        self.register_buffer("features", joined if joined is None else joined.to(device), persistent=False)
        self.reg = reg

        def drawn(rows: int, columns: int) -> Tensor:
            table = torch.empty(rows, columns, device=generator.device)
            return nn.init.xavier_uniform_(table, generator=generator).to(device)

        def with_bias(matrix: Tensor, *, dim: int) -> nn.Parameter:
            return nn.Parameter(torch.cat([matrix, torch.zeros_like(matrix.narrow(dim, 0, 1))], dim=dim))

        # What is looked up or multiplied together is kept together: theta_u beside gamma_u, beta_i
        # beside gamma_i, beta' below E.
        self.users = nn.Parameter(drawn(split.num_users, embedding_dim if joined is None else 2 * embedding_dim))
        self.items = with_bias(drawn(split.num_items, embedding_dim), dim=1)  # [I, K + 1]
        self.projection: nn.Parameter | None = None  # [K + 1, F]
        if joined is not None:
            self.projection = with_bias(drawn(embedding_dim, joined.shape[1]), dim=0)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Mean of ``-ln sigma(x_ui - x_uj)`` (Eq. 6), and ``reg`` times the squared lengths of what the batch uses, over its size.

        Only ``f_i - f_j`` enters, so one product projects the differences of the batch.
        """
        value: Tensor = _BatchLoss.apply(  # type: ignore[no-untyped-call]
            self.users, self.items, self.projection, self.features, users, positives, negatives, self.reg
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
    """The loss of a batch and its gradient, written out and computed together.

    With ``x = x_ui - x_uj`` and B the batch size: ``loss = sum ln(1 + exp(-x)) / B + reg / B * (sum
    of squares)``. A block of ``f_i - f_j`` is multiplied forwards and backwards while it is in the
    cache of a CPU; the whole batch's is never held.

    The gradient of E is a weighted sum over triples of ``theta_u (f_i - f_j)^T``. In a batch of
    more triples than there are users, what is of one user is added up before the product, which
    then has a row for each user of a block instead of each triple. Triples are sorted for that, so
    that a block has few users. With more users than triples, it would cost more than it spares.
    """

    @staticmethod
    def forward(
        ctx: Any,
        user_table: Tensor,
        item_table: Tensor,
        projection: Tensor | None,
        features: Tensor | None,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        reg: float,
    ) -> Tensor:
        size, dim = len(users), item_table.shape[1] - 1
        by_user = projection is not None and size > len(user_table)
        if by_user:
            users, order = users.sort(stable=True)
            positives, negatives = positives[order], negatives[order]
        items, pairs = torch.cat([positives, negatives]), torch.stack([positives, negatives], dim=1)
        # index_select: indexing takes four times as long on a CPU.
        user, item = user_table.index_select(0, users), item_table.index_select(0, items)
        gamma, theta = user[:, :dim], user[:, dim:]
        difference = item[:size] - item[size:]  # [B, K + 1], the bias last
        margin = difference[:, dim] + torch.linalg.vecdot(gamma, difference[:, :dim])  # [B]
        squares, shrink = _square(user) + _square(item), 2 * reg / size
        of_user, of_item = user * shrink, item * shrink
        of_projection = None
        if features is not None and projection is not None:
            squares = squares + _square(projection)
            of_projection = projection * shrink
            signs = features.new_tensor([1.0, -1.0]).expand(pairs.shape).contiguous()
            step = _BLOCK_TRIPLES if features.device.type == "cpu" else size
            for rows in (slice(start, start + step) for start in range(0, size, step)):
                # f_i - f_j, [b, F]: as a weighted sum of two rows, which reads them once and writes
                # nothing else.
                apart = functional.embedding_bag(pairs[rows], features, per_sample_weights=signs[rows], mode="sum")
                # The bias on its own: 65 columns take a product a quarter longer than 64.
                projected = apart @ projection[:dim].T  # [b, K]
                margin[rows].addmv_(apart, projection[dim]).add_(torch.linalg.vecdot(theta[rows], projected))
                pull = _pull(margin[rows], size)
                of_user[rows, dim:].addcmul_(projected, pull)
                _add_pulls(of_projection, theta[rows], apart, pull, users=users[rows] if by_user else None)
                del apart  # the next block's takes the same memory, which is in the cache
        pull = _pull(margin, size)
        of_user[:, :dim].addcmul_(difference[:, :dim], pull)
        pulled = torch.cat([gamma * pull, pull], dim=1)  # [B, K + 1], of the difference
        of_item[:size] += pulled
        of_item[size:] -= pulled
        ctx.save_for_backward(users, items, of_user, of_item, of_projection)
        ctx.rows = len(user_table), len(item_table)
        return functional.softplus(-margin).mean() + reg / size * squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        users, items, of_user, of_item, of_projection = ctx.saved_tensors
        return (
            of_user.new_zeros(ctx.rows[0], of_user.shape[1]).index_add_(0, users, of_user * upstream),
            of_item.new_zeros(ctx.rows[1], of_item.shape[1]).index_add_(0, items, of_item * upstream),
            None if of_projection is None else of_projection * upstream,
            *(None,) * 5,
        )


def _pull(margin: Tensor, size: int) -> Tensor:
    """Derivative of the mean of ``ln(1 + exp(-margin))``, as a column."""
    return (torch.sigmoid(-margin) / -size).unsqueeze(1)


def _add_pulls(of_projection: Tensor, theta: Tensor, apart: Tensor, pull: Tensor, *, users: Tensor | None) -> None:
    """Add the sum of ``pull [theta_u, 1] (f_i - f_j)^T`` over triples to the gradient of E and of beta' below it.

    Args:
        of_projection: ``[K + 1, F]``.
        theta: ``[b, K]``.
        apart: ``f_i - f_j``, ``[b, F]``.
        pull: ``[b, 1]``.
        users: ``[b]``, sorted, if they have many triples each and these are to be added up before
            the product.
    """
    dim, weights = theta.shape[1], pull.squeeze(1)
    if users is None:
        of_projection[:dim].addmm_((theta * pull).T, apart)
        of_projection[dim].addmv_(apart.T, weights)
        return
    _, counts = torch.unique_consecutive(users, return_counts=True)
    first, rows = counts.cumsum(0) - counts, torch.arange(len(users), device=users.device)
    sums = functional.embedding_bag(rows, apart, first, per_sample_weights=weights, mode="sum")  # a row for each user
    of_projection[:dim].addmm_(theta[first].T, sums)
    of_projection[dim] += sums.sum(dim=0)


def _joined(features: ItemFeatures, *, num_items: int) -> Tensor | None:
    """``[I, F]``, text before image; None without any."""
    for name, values in features.given.items():
        if len(values) != num_items:
            raise RecBenchError(f"{len(values)} {name} features for {num_items} items of the split")
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(broken):
            raise RecBenchError(
                f"{name} features of {len(broken)} of {num_items} items are not finite (first: item {broken[0]}); fill what is "
                "missing before a recommender is built, with zeros at the least"
            )
    return torch.from_numpy(np.concatenate(list(features.given.values()), axis=1)) if features.given else None


def _square(vectors: Tensor) -> Tensor:
    """Sum of squares, without a table of the squares."""
    flat = vectors.reshape(-1)
    return torch.dot(flat, flat)
