"""The loss of VBPR computed with its gradients, in less than half the time of autograd's.

At the size of the benchmark that spends most of its time on features: it writes ``f_i - f_j`` of
the whole batch to memory and reads it again in the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_BLOCK_TRIPLES = 512
"""Triples whose features are in the cache at once (2 MB of text and image)."""


class BatchLoss(torch.autograd.Function):
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
        user_table: Tensor,  # [U, 2K], gamma_u beside theta_u; [U, K] without features
        item_table: Tensor,  # [I, K + 1], gamma_i beside beta_i
        projection: Tensor | None,  # [K + 1, F], beta' below E
        features: Tensor | None,  # [I, F]
        users: Tensor,  # [B], and so the next two
        positives: Tensor,
        negatives: Tensor,
        reg: float,
    ) -> Tensor:
        """Return the loss of the batch, and keep its gradient."""
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
        """Return the gradient that was kept."""
        users, items, of_user, of_item, of_projection = ctx.saved_tensors
        return (
            of_user.new_zeros(ctx.rows[0], of_user.shape[1]).index_add_(0, users, of_user * upstream),
            of_item.new_zeros(ctx.rows[1], of_item.shape[1]).index_add_(0, items, of_item * upstream),
            None if of_projection is None else of_projection * upstream,
            *(None,) * 5,
        )


def _pull(margin: Tensor, size: int) -> Tensor:
    """Return the derivative of the mean of ``ln(1 + exp(-margin))``, as a column."""
    return (torch.sigmoid(-margin) / -size).unsqueeze(1)


def _add_pulls(of_projection: Tensor, theta: Tensor, apart: Tensor, pull: Tensor, *, users: Tensor | None) -> None:
    """Add ``pull [theta_u, 1] (f_i - f_j)^T``, summed over triples, to the gradient of E and beta'.

    Shapes are ``[K + 1, F]``, ``[b, K]``, ``[b, F]`` and ``[b, 1]``. Users ``[b]``, sorted, are
    given if they have many triples each and these are to be added up before the product.
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


def _square(vectors: Tensor) -> Tensor:
    """Return the sum of squares, without a table of the squares."""
    flat = vectors.reshape(-1)
    return torch.dot(flat, flat)
