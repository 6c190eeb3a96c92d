"""Three users and four items: small enough for dense formulas, and under two numberings."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_mmpc.recbench.recommenders.recommender import Recommender
from grpo_mmpc.recbench.records import ItemFeatures, Pairs, Split

USERS, POSITIVES, NEGATIVES = torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 1, 2]), torch.tensor([3, 0, 3, 0])


ORDER = np.array([2, 3, 0, 1])
"""Another numbering of the four items: new item k is the old ``ORDER[k]``. Its own inverse."""


def small_split(order: NDArray[np.int64] | None = None) -> Split:
    """Three users and four items; nobody took the last one."""
    items = np.array([0, 1, 1, 2])
    none = Pairs(users=np.array([], dtype=np.int64), items=np.array([], dtype=np.int64))
    return Split(
        user_ids=tuple(f"u{position}" for position in range(3)),
        item_ids=tuple(f"i{position}" for position in range(4)),
        train=Pairs(users=np.array([0, 0, 1, 2]), items=items if order is None else np.argsort(order)[items]),
        validation=none,
        test=none,
    )


def dense_graph(pairs: list[tuple[int, int]]) -> Tensor:
    """``D^-1/2 A D^-1/2`` of three users and four items."""
    adjacency = torch.zeros(7, 7)
    for user, item in pairs:
        adjacency[user, 3 + item] = adjacency[3 + item, user] = 1
    scale = adjacency.sum(dim=1).clamp_min(1).rsqrt()
    return scale[:, None] * adjacency * scale


PAIRS = [(0, 0), (0, 1), (1, 1), (2, 2)]


def copy_renumbered(source: Recommender, target: Recommender) -> None:
    """Parameters of the same users and items, under the other numbering."""
    target.load_state_dict(source.state_dict())
    nodes = dict(target.named_parameters())["nodes"]
    with torch.no_grad():
        nodes[3:] = nodes[3:][torch.from_numpy(ORDER)].clone()


def assert_equivariant(source: Recommender, target: Recommender) -> None:
    """Scores and the loss follow the items to their new numbers."""
    copy_renumbered(source, target)
    (users, items), (same_users, renumbered) = source.embeddings(), target.embeddings()
    torch.testing.assert_close(same_users @ renumbered.T, (users @ items.T)[:, torch.from_numpy(ORDER)])
    place = torch.from_numpy(np.argsort(ORDER))
    losses = [
        model.loss(USERS, positives, negatives, torch.Generator())
        for model, positives, negatives in (
            (source, POSITIVES, NEGATIVES),
            (target, place[POSITIVES], place[NEGATIVES]),
        )
    ]
    torch.testing.assert_close(losses[0], losses[1])


def masked_features(features: ItemFeatures, *, share: float) -> ItemFeatures:
    """The features with zero rows for the first items, as many as the share is."""
    assert features.text is not None and features.image is not None
    is_kept = (np.arange(4) >= 4 * share)[:, None]
    return ItemFeatures(text=features.text * is_kept, image=features.image * is_kept)


def gradient_norm(build: Callable[..., Recommender], features: ItemFeatures) -> float:
    """Length of the gradient of all parameters at the start of training."""
    recommender = build(
        small_split(), features, generator=torch.Generator().manual_seed(0), device="cpu", embedding_dim=5
    )
    recommender.loss(USERS, POSITIVES, NEGATIVES, torch.Generator().manual_seed(0)).backward()
    gradients = [parameter.grad for parameter in recommender.parameters() if parameter.grad is not None]
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
