"""The base of recommenders on the graph of users and items."""

import torch
from torch import Tensor, nn

from grpo_mmpc.recbench.graphs import interaction_matrix
from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender, xavier_uniform
from grpo_mmpc.recbench.records import Split


class GraphRecommender(Recommender):
    """A recommender with trained vectors of users, then items, ``[U + I, D]``: nodes of a graph."""

    def __init__(self, split: Split, *, dim: int, generator: torch.Generator, device: str) -> None:
        """Read who took what; sample the nodes of users and of items, each Xavier-uniform."""
        super().__init__()
        self.num_users, self.num_items = split.num_users, split.num_items
        self.taken = interaction_matrix(split.train, num_users=split.num_users, num_items=split.num_items)
        vectors = [xavier_uniform(count, dim, generator=generator) for count in (split.num_users, split.num_items)]
        self.nodes = nn.Parameter(torch.cat(vectors).to(device))

    def as_embeddings(self, final: Tensor) -> Embeddings:
        """Return final vectors ``[U + I, D]`` as those of users and those of items."""
        return Embeddings(users=final[: self.num_users], items=final[self.num_users :])
