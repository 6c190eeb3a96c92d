"""The projection of items' features to the length of embeddings."""

import math

import torch
from torch import Tensor, nn

from grpo_mmpc.recbench.records import Floats, ItemFeatures


class ProjectedFeatures(nn.Module):
    """One modality of the items, projected to the length of embeddings: ``e_m W_m + b_m``."""

    features: Tensor
    is_known: Tensor
    """``[I]``, whether anything is known of an item here; an all-zero row says nothing."""

    def __init__(self, features: Floats, *, dim: int, generator: torch.Generator, device: str) -> None:
        super().__init__()
        self.register_buffer("features", torch.from_numpy(features).to(device), persistent=False)
        self.register_buffer("is_known", torch.from_numpy(features.any(axis=1)).to(device), persistent=False)
        self._memory: Tensor | None = None
        self.projection = linear(features.shape[1], dim, generator=generator, device=device)

    def forward(self, items: Tensor) -> Tensor:
        """Project the items asked for, ``[N, D]``; differentiate before asking for others."""
        projected: Tensor = self.projection(self._picked(items))
        return projected

    def _picked(self, items: Tensor) -> Tensor:
        """Gather features into memory that is kept: allocating it costs more than filling it."""
        if self._memory is None or len(self._memory) < len(items):
            self._memory = self.features.new_empty(len(items), self.features.shape[1])
        return torch.index_select(self.features, 0, items, out=self._memory[: len(items)])


def linear(num_in: int, num_out: int, *, generator: torch.Generator, device: str, bias: bool = True) -> nn.Linear:
    """Return a linear layer sampled from the generator: Xavier-normal, bias uniform as in PyTorch.

    A bias of zero would map the zero row of an item without features to zero. There the gradient of
    a vector's direction is without bound, and one batch of such items sends every parameter astray.
    """
    layer = nn.Linear(num_in, num_out, bias=bias, device="meta").to_empty(device=generator.device)
    nn.init.xavier_normal_(layer.weight, generator=generator)
    if bias:
        bound = 1 / math.sqrt(num_in)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer.to(device)


def projected_modalities(features: ItemFeatures, *, dim: int, generator: torch.Generator, device: str) -> nn.ModuleDict:
    """Return the given modalities, by name."""
    return nn.ModuleDict(
        {
            name: ProjectedFeatures(values, dim=dim, generator=generator, device=device)
            for name, values in features.given.items()
        }
    )
