"""BPR: matrix factorisation that looks at IDs alone."""

import numpy as np
import torch

from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.ranking_metrics import user_scores
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import Pairs, Split
from tests.recbench.worlds import paired_interval, shuffled_over_items, taste_world, trained

build = RECOMMENDERS["bpr"].build


def test_features_are_not_looked_at():
    split, features = taste_world(0, num_users=20, num_items=40, interactions_per_user=5)
    fitted = [
        trained(
            build(split, told, generator=torch.Generator().manual_seed(0), device="cpu"), split, max_epochs=3
        ).embeddings
        for told in (features, shuffled_over_items(features, seed=1))
    ]
    assert all(one.equal(other) for one, other in zip(*fitted, strict=True))


def test_scores_are_a_bias_and_an_inner_product():
    split, features = taste_world(0, num_users=4, num_items=24, interactions_per_user=5)
    model = build(split, features, generator=torch.Generator().manual_seed(0), device="cpu", embedding_dim=3)
    with torch.no_grad():
        model.items[:, 3] = torch.arange(24.0)
    users, items = model.embeddings()
    expected = model.users @ model.items[:, :3].T + torch.arange(24.0)
    assert torch.allclose(users @ items.T, expected, atol=1e-5)


def test_groups_of_users_that_take_the_same_items_are_learned_from_ids():
    # Two groups of 20 users, each with its own 30 items, of which every user takes 12.
    rng = np.random.default_rng(0)
    rows = [(user, int(item) + 30 * (user % 2)) for user in range(40) for item in rng.choice(30, 12, replace=False)]
    table = np.array(rows).reshape(40, 12, 2)

    def part(start: int, end: int) -> Pairs:
        return Pairs(users=table[:, start:end, 0].reshape(-1), items=table[:, start:end, 1].reshape(-1))

    split = Split(
        user_ids=tuple(map(str, range(40))),
        item_ids=tuple(map(str, range(60))),
        train=part(0, 10),
        validation=part(10, 11),
        test=part(11, 12),
    )
    full_sort = FullSort(targets=split.test, seen=[split.train], num_users=40, num_items=60, seed=0)
    model = build(split, None, generator=torch.Generator().manual_seed(0), device="cpu")

    def recall(embeddings) -> np.ndarray:
        return user_scores(full_sort.ranks(embeddings), target_users=split.test.users)["recall@20"]

    before = recall(model.embeddings())
    after = recall(trained(model, split, max_epochs=60, batch_size=64, learning_rate=0.01).embeddings)
    # All 20 unseen items of the own group come first: recall@20 is 1 for a perfect model, 0.4 by
    # chance.
    assert after.mean() > 0.85
    assert paired_interval(after, before)[0] > 0.2
