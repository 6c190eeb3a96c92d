"""What every recommender offers: a loss on triples, and embeddings whose inner products are the scores."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Embeddings(NamedTuple):
    """Vectors whose inner products rank all items for all users: ``scores = users @ items.T``."""

    users: Tensor  # [U, D]
    items: Tensor  # [I, D]


class Recommender(nn.Module):
    """A model of who likes what. Parameters are drawn from the generator it is built with, and from nothing else."""

    def start_epoch(self, generator: torch.Generator) -> None:
        """Draw anew what changes from epoch to epoch, such as the edges that are left out. Nothing by default."""

    @abstractmethod
    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Training loss of a batch, a scalar.

        Args:
            users: ``[B]``.
            positives: An item each of them took, ``[B]``.
            negatives: An item each of them did not take, ``[B]``.
            generator: Of dropout and other noise.
        """

    @abstractmethod
    def embeddings(self) -> Embeddings:
        """Vectors for ranking, without gradients and without dropout."""
