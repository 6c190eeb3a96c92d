"""MMGCN, one graph network per modality.

Wei et al. 2019, "MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of
Micro-video", ACM Multimedia.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.graphs import SparseGraph, distinct, mean_graph, take
from grpo_mmpc.recbench.recommenders.graph_recommender import GraphRecommender
from grpo_mmpc.recbench.recommenders.projections import linear
from grpo_mmpc.recbench.recommenders.recommender import Embeddings
from grpo_mmpc.recbench.records import Floats, ItemFeatures, Split


class MMGCN(GraphRecommender):
    """A graph network per modality, tied by the embeddings of users and items, and averaged.

    Where the published code departs from the paper, the paper is followed: users' preferences and
    the embeddings are trained (they are not registered as parameters there). Its two free choices
    are the element-wise combination and the mean over neighbours, the variants that the authors'
    code runs by default. Each modality is projected to D numbers; that code keeps 256 for images
    and the features' own length for text, at several times the cost.

    The settings of the MMRec toolbox say two layers, and its code runs three whatever they say.
    """

    def __init__(
        self,
        split: Split,
        features: ItemFeatures,
        *,
        generator: torch.Generator,
        device: str,
        embedding_dim: int = 64,
        layers: int = 3,
        reg: float = 1e-3,
    ) -> None:
        """Make the graph and sample the parameters.

        Raises:
            RecBenchError: Neither modality is given.
        """
        if not features.given:
            raise RecBenchError(
                "MMGCN needs the items' text or image features and has neither: use lightgcn or bpr for identities "
                "alone"
            )
        super().__init__(split, dim=embedding_dim, generator=generator, device=device)
        self.reg = reg
        self.graph = mean_graph(self.taken, device=device)
        self.networks = nn.ModuleDict(
            {
                name: ModalityNetwork(
                    values,
                    num_users=self.num_users,
                    dim=embedding_dim,
                    layers=layers,
                    generator=generator,
                    device=device,
                )
                for name, values in features.given.items()
            }
        )

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        """Return BPR on final vectors plus ``reg`` times mean squares of what the batch uses.

        Of embeddings, the users' mean and the mean over positive and negative items together count.
        """
        batch = distinct(users, positives + self.num_users, negatives + self.num_users)
        final = self._final(batch.rows)
        user, positive, negative = (take(final, at) for at in batch.at)
        total = -functional.logsigmoid((user * (positive - negative)).sum(dim=1)).mean()
        if self.reg:
            squares = take(self.nodes, batch.rows).square().mean(dim=1)  # [R]
            preferences = [
                take(cast(ModalityNetwork, network).preferences, users).square().mean()
                for network in self.networks.values()
            ]
            of_user, of_positive, of_negative = (squares[at].mean() for at in batch.at)
            total = total + self.reg * (of_user + (of_positive + of_negative) / 2 + sum(preferences))
        return total

    @torch.no_grad()
    def embeddings(self) -> Embeddings:
        """Return final vectors of all users and items; their inner products are the scores."""
        return self.as_embeddings(self._final(None))

    def _final(self, rows: Tensor | None) -> Tensor:
        """Return the mean over modalities: the paper's sum, which ranks alike."""
        parts = [network(self.graph, self.nodes, rows) for network in self.networks.values()]
        return torch.stack(parts).mean(dim=0)


class ModalityNetwork(nn.Module):
    """The network of one modality: users' preferences and items' features on their graph."""

    features: Tensor

    def __init__(
        self,
        features: Floats,
        *,
        num_users: int,
        dim: int,
        layers: int,
        generator: torch.Generator,
        device: str,
    ) -> None:
        super().__init__()
        self.register_buffer("features", torch.from_numpy(features).to(device), persistent=False)
        preferences = torch.empty(num_users, dim, device=generator.device)
        self.preferences = nn.Parameter(nn.init.xavier_normal_(preferences, generator=generator).to(device))
        self.projection = linear(features.shape[1], dim, generator=generator, device=device)

        def square(*, bias: bool = True) -> nn.Linear:
            return linear(dim, dim, generator=generator, device=device, bias=bias)

        self.messages = nn.ModuleList(square(bias=False) for _ in range(layers))  # W_1 of each layer
        self.selves = nn.ModuleList(square() for _ in range(layers))  # W_2
        self.combinations = nn.ModuleList(square() for _ in range(layers))  # W_3

    def forward(self, graph: SparseGraph, nodes: Tensor, rows: Tensor | None) -> Tensor:
        """Return vectors ``[R, D]`` of the nodes asked for, or of all; others skip the last layer.

        A layer takes the mean of the neighbours' messages (aggregation, Eq. 1), maps the node
        itself and adds its embedding (Eq. 5), and combines the two element-wise.
        """
        vectors = functional.normalize(torch.cat([self.preferences, self.projection(self.features)]))
        depth = len(self.messages)
        for layer, (message, own, combine) in enumerate(
            zip(self.messages, self.selves, self.combinations, strict=True), start=1
        ):
            sent = message(vectors)
            if rows is not None and layer == depth:
                received, vectors, nodes = graph.propagate_to(rows, sent), take(vectors, rows), take(nodes, rows)
            else:
                received = graph.propagate(sent)
            heard = functional.leaky_relu(received)
            vectors = functional.leaky_relu(combine(heard) + functional.leaky_relu(own(vectors)) + nodes)
        return vectors
