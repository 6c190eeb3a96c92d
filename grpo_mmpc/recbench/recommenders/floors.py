"""Recommenders that learn nothing, popularity and chance: floors for those that are trained."""

import numpy as np
import torch
from torch import Tensor

from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender
from grpo_mmpc.recbench.records import ItemFeatures, Split

_RANDOM_DIM = 64


class Fixed(Recommender):
    """A recommender whose scores are known beforehand."""

    def __init__(self, *, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self._fixed = Embeddings(users=users, items=items)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Refuse: training has no parameter to train here."""
        raise TypeError("this recommender has no parameters, so it has no loss")

    def embeddings(self) -> Embeddings:
        """Return the fixed vectors."""
        return self._fixed


def build_most_popular(
    split: Split, features: ItemFeatures, *, generator: torch.Generator, device: str, embedding_dim: int = 64
) -> Fixed:
    """Score an item by how often it was taken in training, for everybody alike.

    The other arguments are those that every recommender is built with; they change nothing here.
    """
    counts = np.bincount(split.train.items, minlength=split.num_items).astype(np.float32)
    items = torch.from_numpy(counts).unsqueeze(1).to(device)
    return Fixed(users=torch.ones(split.num_users, 1, device=device), items=items)


def build_random(
    split: Split, features: ItemFeatures, *, generator: torch.Generator, device: str, embedding_dim: int = 64
) -> Fixed:
    """Score items by inner products of random vectors: another order for every user."""

    def sampled(rows: int) -> Tensor:
        return torch.randn(rows, _RANDOM_DIM, generator=generator, device=generator.device).to(device)

    return Fixed(users=sampled(split.num_users), items=sampled(split.num_items))
