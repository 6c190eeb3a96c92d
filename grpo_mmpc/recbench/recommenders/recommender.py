"""The interface of recommenders: a loss on triples, and embeddings that score by inner product."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Embeddings(NamedTuple):
    """The vectors whose inner products rank items for users: ``scores = users @ items.T``."""

    users: Tensor  # [U, D]
    items: Tensor  # [I, D]


def xavier_uniform(rows: int, columns: int, *, generator: torch.Generator) -> Tensor:
    """Sample a table of parameters ``[rows, columns]``, on the generator's device."""
    return nn.init.xavier_uniform_(torch.empty(rows, columns, device=generator.device), generator=generator)


class Recommender(nn.Module):
    """A model of who likes what.

    All are built as ``(split, features, *, generator, device, embedding_dim, **hyperparameters)``:
    the split's training part is what they know of users; a modality of the features that is None
    has no part in the model; ``generator`` is the only source of the initial parameters;
    ``device`` is where the model lives; ``embedding_dim`` is the length of its vectors, D.
    """

    def start_epoch(self, generator: torch.Generator) -> None:
        """Sample what changes with the epoch, such as dropped edges; nothing by default."""

    @abstractmethod
    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training loss of a batch, a scalar.

        Args:
            users: ``[B]``.
            positives: An item each of them took, ``[B]``.
            negatives: An item each of them did not take, ``[B]``.
            generator: Of dropout and other noise.
        """

    @abstractmethod
    def embeddings(self) -> Embeddings:
        """Return vectors for ranking, without gradients and without dropout."""
