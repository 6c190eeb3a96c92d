"""Negative items: what others took in training and a user did not, all equally likely."""

import torch
from torch import Tensor

from grpo_mmpc.recbench.records import Pairs


class NegativeSampler:
    """A sampler of training items that are not in a user's own pairs, without rejection.

    For users who took all of them (``can_sample`` is false) there is none.

    An item that nobody took in training is never sampled: it would only ever be pushed down, and
    what its features could do for it would be measured against that. The MMRec toolbox samples from
    the same items.

    Items are numbered among the I of the training part. A user that took n of them has I - n left.
    The draw is a number r below I - n; the item is the r-th of those left, in ascending order: r
    plus the number of taken items before it. The j-th taken item (from 0) is before it exactly if
    (item - j) <= r, and item - j ascends within a user, so one binary search over (user, item - j)
    finds how many there are.
    """

    def __init__(self, train: Pairs, *, num_users: int, device: str = "cpu") -> None:
        """Sort what was taken; a training pair that comes twice counts once.

        ``device`` is that of the users that are asked for and of the items sampled.
        """
        items, numbers = torch.unique(torch.from_numpy(train.items), return_inverse=True)  # [I], [N]
        num_items = len(items)
        keys = torch.unique(torch.from_numpy(train.users) * num_items + numbers)
        users = keys // max(1, num_items)
        counts = torch.bincount(users, minlength=num_users)
        self.can_sample = (counts < num_items).to(device)  # [U]
        starts = counts.cumsum(0) - counts
        self._items = items.to(device)
        self._left = (num_items - counts).to(device)  # [U]
        self._starts = starts.to(device)  # [U]
        self._keys = (keys - (torch.arange(len(keys)) - starts[users])).to(device)  # user * I + (item - j), ascending

    def sample(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Sample one item for each of the users ``[B]``: ``[B]`` int64."""
        left = self._left[users]
        draw = torch.rand(len(users), dtype=torch.float64, generator=generator, device=users.device)
        rank = (draw * left).long().clamp_(max=left - 1)
        before = torch.searchsorted(self._keys, users * len(self._items) + rank, right=True) - self._starts[users]
        items: Tensor = self._items[rank + before]
        return items
