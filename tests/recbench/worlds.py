"""Worlds made up so that it is known who likes what, and why."""

from functools import cache

import numpy as np
import torch

from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.ranking_metrics import user_scores
from grpo_mmpc.recbench.recommenders.recommender import Recommender
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import ItemFeatures, Pairs, Split, TrainingSettings
from grpo_mmpc.recbench.training import Fitted, fit


def taste_world(
    seed: int, num_users: int = 300, num_items: int = 900, dim: int = 16, interactions_per_user: int = 8
) -> tuple[Split, ItemFeatures]:
    """Users with a taste of their own, and items whose features, text and image, show whose it is.

    Items and tastes are directions; a user takes some of the items that are closest to its taste,
    all of these equally likely. Popularity helps little, and as every item is taken only a few
    times, who took it says less than what it is.

    Args:
        seed: The same world for the same seed.
        num_users: U.
        num_items: I.
        dim: Of directions and of text vectors; an image vector has twice as many numbers.
        interactions_per_user: N, out of the 4 N items that are closest; the last fifth (at least
            one) are the test part, as many before them the validation part.
    """
    rng = np.random.default_rng(seed)
    kinds, tastes = _directions(rng, num_items, dim), _directions(rng, num_users, dim)
    close = np.argsort(-(tastes @ kinds.T), axis=1)[:, : 4 * interactions_per_user]  # [U, 4N]
    taken = rng.permuted(close, axis=1)[:, :interactions_per_user]  # [U, N]
    held = max(1, interactions_per_user // 5)
    edges = {"train": (0, -2 * held), "validation": (-2 * held, -held), "test": (-held, interactions_per_user)}
    parts = {name: taken[:, start:end] for name, (start, end) in edges.items()}
    split = Split(
        user_ids=tuple(f"user-{i}" for i in range(num_users)),
        item_ids=tuple(f"item-{i}" for i in range(num_items)),
        **{
            name: Pairs(users=np.repeat(np.arange(num_users), part.shape[1]), items=part.reshape(-1))
            for name, part in parts.items()
        },
    )
    return split, ItemFeatures(text=_seen(kinds, dim, rng), image=_seen(kinds, 2 * dim, rng))


def popularity_world(seed: int, num_users: int = 1000, num_items: int = 400) -> tuple[Split, ItemFeatures]:
    """Users that take items close to a taste and popular, often enough that IDs alone learn both.

    Features are as long as an encoder's, and show what an item is but not how popular. Each user
    has twelve interactions in training, one in validation and one in the test.
    """
    rng = np.random.default_rng(seed)
    kinds, tastes = _directions(rng, num_items, 16), _directions(rng, num_users, 16)
    liking = 8 * tastes @ kinds.T + rng.normal(scale=0.7, size=num_items)
    # The largest after Gumbel noise are a draw by softmax, without replacement.
    taken = rng.permuted(np.argsort(-(liking + rng.gumbel(size=liking.shape)), axis=1)[:, :14], axis=1)
    users = np.arange(num_users)
    split = Split(
        user_ids=tuple(f"user-{i}" for i in users),
        item_ids=tuple(f"item-{i}" for i in range(num_items)),
        train=Pairs(users=np.repeat(users, 12), items=taken[:, :12].reshape(-1)),
        validation=Pairs(users=users, items=taken[:, 12]),
        test=Pairs(users=users, items=taken[:, 13]),
    )

    def seen(dim: int) -> np.ndarray:
        vectors = kinds @ _directions(rng, 16, dim) + 0.7 * _directions(rng, num_items, dim)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    return split, ItemFeatures(text=seen(384), image=seen(768))


def shuffled_over_items(features: ItemFeatures, seed: int) -> ItemFeatures:
    """The same vectors on other items, in both modalities alike: features that explain nothing."""
    assert features.text is not None and features.image is not None
    order = np.random.default_rng(seed).permutation(len(features.text))
    return ItemFeatures(text=features.text[order], image=features.image[order])


def trained(
    recommender: Recommender, split: Split, *, seed: int = 0, monitor: str = "recall@20", **changes: float
) -> Fitted:
    """As the published protocol trains, but for the changes to its settings."""
    published = {"max_epochs": 1000, "patience": 20, "batch_size": 2048, "learning_rate": 1e-3}
    settings = TrainingSettings(**published | changes)
    return fit(recommender, split, settings=settings, monitor=monitor, seed=seed, device="cpu")


def taste_recalls(
    name: str, *, interactions_per_user: int, max_epochs: int, learning_rate: float, **hyperparameters: float
) -> dict[str, np.ndarray]:
    """Return test Recall@50 of 800 users in a world whose features explain tastes.

    Of a recommender with them, with shuffled ones, and of those that have none.
    """
    told = {
        label: recalls_of(name, label, interactions_per_user, max_epochs, learning_rate, **hyperparameters)
        for label in ("told", "shuffled")
    }
    floors = ("lightgcn", "bpr", "most_popular", "random")
    return told | {floor: recalls_of(floor, "told", interactions_per_user, 60, 0.01) for floor in floors}


@cache  # floors are the same for every recommender
def recalls_of(
    name: str, told: str, interactions_per_user: int, max_epochs: int, learning_rate: float, **hyperparameters: float
) -> np.ndarray:
    """Test Recall@50 of each user; ``told`` is ``told`` or ``shuffled``."""
    split, features = taste_world(0, num_users=800, interactions_per_user=interactions_per_user)
    features = features if told == "told" else shuffled_over_items(features, 1)
    generator = torch.Generator().manual_seed(0)
    built = RECOMMENDERS[name].build(
        split, features, generator=generator, device="cpu", embedding_dim=32, **hyperparameters
    )
    fitted = trained(built, split, max_epochs=max_epochs, batch_size=512, learning_rate=learning_rate)
    seen = [split.train, split.validation]
    full_sort = FullSort(targets=split.test, seen=seen, num_users=split.num_users, num_items=split.num_items, seed=0)
    return user_scores(full_sort.ranks(fitted.embeddings), target_users=split.test.users)["recall@50"]


def paired_interval(
    ours: np.ndarray, theirs: np.ndarray, *, level: float = 0.99, resamples: int = 2000
) -> tuple[float, float]:
    """Bootstrap interval over users of the mean difference of two recommenders' scores."""
    difference = ours - theirs
    draws = np.random.default_rng(0).integers(0, len(difference), size=(resamples, len(difference)))
    low, high = np.quantile(difference[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _directions(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    vectors = rng.normal(size=(count, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _seen(kinds: np.ndarray, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Turn kinds into a space of its own, with noise and unit length, as an encoder does."""
    turned = kinds @ np.linalg.qr(rng.normal(size=(dim, kinds.shape[1])))[0].T
    vectors = turned + 0.3 * _directions(rng, len(kinds), dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
