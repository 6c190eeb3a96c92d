"""Matrix factorisation trained by Bayesian personalised ranking (Rendle et al. 2009, UAI, arXiv 1205.2618): IDs and nothing else."""

import torch

from grpo_mmpc.recbench.recommenders.vbpr import VBPR
from grpo_mmpc.recbench.records import ItemFeatures, Split


def build(
    split: Split,
    features: ItemFeatures,
    *,
    generator: torch.Generator,
    device: str,
    embedding_dim: int = 64,
    reg: float = 0.01,
) -> VBPR:
    """VBPR without features, which is BPR with an item bias: ``x_ui = beta_i + gamma_u . gamma_i``.

    Args:
        split: How many users and items there are.
        features: Not looked at.
        generator: Of the initial parameters.
        device: Where the model lives.
        embedding_dim: K.
        reg: Weight of the squared lengths of the batch's vectors.
    """
    return VBPR(split, ItemFeatures(), generator=generator, device=device, embedding_dim=embedding_dim, reg=reg)
