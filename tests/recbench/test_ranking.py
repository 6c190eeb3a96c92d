"""Ranks of held-out items, and what recall, NDCG, precision and MAP make of them."""

# ruff: noqa: E402  torchvision's operators must be declared before torchmetrics is imported
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()

from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_normalized_dcg,
    retrieval_precision,
    retrieval_recall,
)

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench import ranking
from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.ranking_metrics import user_scores
from grpo_mmpc.recbench.recommenders.recommender import Embeddings
from grpo_mmpc.recbench.records import Pairs


def pairs(*rows: tuple[int, int]) -> Pairs:
    table = np.array(sorted(rows), dtype=np.int64).reshape(-1, 2)
    return Pairs(users=table[:, 0], items=table[:, 1])


def scoring(rows: list[list[float]]) -> Embeddings:
    """Embeddings whose inner products are exactly these scores, one row per user."""
    return Embeddings(users=torch.tensor(rows), items=torch.eye(len(rows[0])))


def brute_force(scores: np.ndarray, *, targets: Pairs, seen: list[Pairs], seed: int, max_rank: int) -> list[int]:
    """The plain ranking: sort every user's unseen items, ties by the seed's order of items."""
    place = np.argsort(np.random.default_rng(seed).permutation(scores.shape[1]))
    ranks = []
    for user, item in zip(targets.users, targets.items, strict=True):
        hidden = {int(i) for part in seen for i in part.items[part.users == user]}
        ranking = sorted(
            (i for i in range(scores.shape[1]) if i not in hidden), key=lambda i: (-scores[user, i], place[i])
        )
        rank = ranking.index(item) + 1 if item in ranking else max_rank + 1
        ranks.append(min(rank, max_rank + 1))
    return ranks


class TestFullSort:
    def test_a_rank_counts_the_unseen_items_with_higher_scores(self):
        full_sort = FullSort(targets=pairs((0, 2)), seen=[pairs((0, 0))], num_users=1, num_items=4, seed=0)
        # Item 0 (0.9) is seen, item 3 (0.7) is above item 2 (0.5), item 1 (0.1) below.
        assert full_sort.ranks(scoring([[0.9, 0.1, 0.5, 0.7]])).tolist() == [2]

    def test_items_seen_by_one_user_are_ranked_for_another(self):
        full_sort = FullSort(targets=pairs((0, 1), (1, 1)), seen=[pairs((0, 0))], num_users=2, num_items=2, seed=0)
        assert full_sort.ranks(scoring([[0.9, 0.1], [0.9, 0.1]])).tolist() == [1, 2]

    def test_all_seen_parts_are_left_out(self):
        full_sort = FullSort(
            targets=pairs((0, 2)), seen=[pairs((0, 0)), pairs((0, 1))], num_users=1, num_items=3, seed=0
        )
        assert full_sort.ranks(scoring([[0.9, 0.8, 0.1]])).tolist() == [1]

    def test_ranks_beyond_the_last_that_counts_are_not_told_apart(self):
        full_sort = FullSort(
            targets=pairs((0, 0), (0, 1), (0, 2), (0, 3)), seen=[], num_users=1, num_items=4, seed=0, max_rank=2
        )
        assert full_sort.ranks(scoring([[0.1, 0.4, 0.2, 0.3]])).tolist() == [3, 1, 3, 2]

    def test_a_target_that_was_seen_is_never_ranked(self):
        # A pair of training that is also a test pair is masked, as the toolbox masks it.
        full_sort = FullSort(targets=pairs((0, 0)), seen=[pairs((0, 0))], num_users=1, num_items=80, seed=0)
        assert full_sort.ranks(scoring([[1.0] + [0.0] * 79])).tolist() == [51]

    @pytest.mark.parametrize("chunk_items", [1, 2, 1024])
    def test_a_pair_that_is_held_out_twice_takes_one_place_and_counts_as_two_targets(self, chunk_items):
        # Paper mode keeps repeated pairs. As the toolbox has it, one hit of two targets: recall
        # 1/2, precision 1/5, MAP (1/1)/2, NDCG 1 / (1 + 1/log2 3). User 1 has item 2 on place 2,
        # with a target between its repeats.
        full_sort = FullSort(
            targets=Pairs(users=np.array([0, 0, 1, 1, 1]), items=np.array([3, 3, 2, 1, 2])),
            seen=[],
            num_users=2,
            num_items=6,
            seed=0,
            chunk_items=chunk_items,
        )
        ranks = full_sort.ranks(scoring([[0.1, 0.2, 0.3, 0.9, 0.0, 0.4], [0.1, 0.5, 0.8, 0.9, 0.0, 0.4]]))
        assert ranks.tolist() == [1, 51, 2, 3, 51]
        scores = user_scores(ranks, target_users=np.array([0, 0, 1, 1, 1]), cutoffs=(5,))
        assert {name: round(float(value[0]), 4) for name, value in scores.items()} == {
            "recall@5": 0.5,
            "precision@5": 0.2,
            "map@5": 0.5,
            "ndcg@5": 0.6131,
        }

    def test_lengths_of_embeddings_are_looked_at_without_a_copy_of_the_tables(self):
        full_sort = FullSort(targets=pairs((0, 1)), seen=[], num_users=1, num_items=20_000, seed=0)
        embeddings = Embeddings(users=torch.ones(1, 64), items=torch.ones(20_000, 64))
        with torch.profiler.profile(profile_memory=True) as profile:
            ranking._check_embeddings(embeddings, shape=full_sort._shape)
        assert max(event.cpu_memory_usage for event in profile.events()) < 20_000 * 64 * 4

    @pytest.mark.parametrize(("user", "item"), [(1e-15, 1e25), (1e25, 1e-15)])
    def test_long_and_short_embeddings_whose_scores_are_finite_are_ranked(self, user, item):
        full_sort = FullSort(targets=pairs((0, 1)), seen=[], num_users=1, num_items=2, seed=0)
        items = torch.tensor([[2 * item] * 2, [item] * 2])
        assert full_sort.ranks(Embeddings(users=torch.full((1, 2), user), items=items)).tolist() == [2]

    def test_users_are_those_with_targets(self):
        full_sort = FullSort(targets=pairs((4, 0), (1, 0), (4, 1)), seen=[], num_users=6, num_items=2, seed=0)
        assert full_sort.users.tolist() == [1, 4]

    def test_equal_scores_put_every_item_first_equally_often(self):
        # 200 orders, 4 items: first place 50 times each. Standard deviation 6.1, bound at 4 of
        # them.
        firsts = np.zeros(4)
        for seed in range(200):
            full_sort = FullSort(
                targets=pairs((0, 0), (0, 1), (0, 2), (0, 3)), seen=[], num_users=1, num_items=4, seed=seed
            )
            ranks = full_sort.ranks(scoring([[0.5] * 4]))
            assert sorted(ranks.tolist()) == [1, 2, 3, 4]
            firsts[int(ranks.argmin())] += 1
        assert np.abs(firsts - 50).max() <= 24

    @settings(max_examples=150, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        num_users=st.integers(1, 9),
        num_items=st.integers(1, 40),
        max_rank=st.integers(1, 12),
        chunk_items=st.integers(1, 50),
        spread=st.integers(0, 3),
    )
    def test_ranks_are_those_of_sorting_every_user_for_any_chunk(
        self, seed, num_users, num_items, max_rank, chunk_items, spread
    ):
        rng = np.random.default_rng(seed)
        # Small integers: scores are exact, and many are equal.
        users = rng.integers(-spread, spread + 1, size=(num_users, 3))
        items = rng.integers(-spread, spread + 1, size=(num_items, 3))

        def some(share: float) -> Pairs:
            table = np.argwhere(rng.random((num_users, num_items)) < share)
            return Pairs(users=table[:, 0], items=table[:, 1])

        seen, targets = [some(0.2), some(0.1)], some(0.15)
        if not len(targets):
            targets = pairs((num_users - 1, num_items - 1))
        full_sort = FullSort(
            targets=targets,
            seen=seen,
            num_users=num_users,
            num_items=num_items,
            seed=seed,
            max_rank=max_rank,
            chunk_items=chunk_items,
        )
        ranks = full_sort.ranks(Embeddings(torch.tensor(users).float(), torch.tensor(items).float()))
        expected = brute_force(users @ items.T, targets=targets, seen=seen, seed=seed, max_rank=max_rank)
        assert ranks.tolist() == expected

    def test_large_tables_rank_as_sorting_every_user_does(self):
        # Several blocks of users and chunks of items, real-valued scores, users with one to six
        # targets.
        rng = np.random.default_rng(1)
        users, items = rng.normal(size=(2500, 16)), rng.normal(size=(3000, 16)) + 0.3
        taken = [rng.choice(3000, size=12, replace=False) for _ in range(2500)]
        counts = rng.integers(1, 7, size=2500)
        targets = pairs(*((u, int(i)) for u in range(2500) for i in taken[u][: counts[u]]))
        seen = [pairs(*((u, int(i)) for u in range(2500) for i in taken[u][6:]))]
        full_sort = FullSort(targets=targets, seen=seen, num_users=2500, num_items=3000, seed=3)
        embeddings = Embeddings(torch.tensor(users).float(), torch.tensor(items).float())
        scores = (embeddings.users.double() @ embeddings.items.double().T).numpy()
        scores[seen[0].users, seen[0].items] = -np.inf
        own = scores[targets.users, targets.items, None]
        # Scores nearer to each other than fp32 tells apart may come in either order.
        first = 1 + (scores[targets.users] > own + 1e-5).sum(axis=1)
        last = (scores[targets.users] > own - 1e-5).sum(axis=1)  # the target itself among them
        ranks = full_sort.ranks(embeddings)
        assert (np.minimum(first, 51) <= ranks.numpy()).all() and (ranks.numpy() <= np.minimum(last, 51)).all()
        assert (first == last).mean() > 0.95
        assert 0.01 < (ranks <= 50).float().mean() < 0.5

    @pytest.mark.parametrize(("num_users", "num_items"), [(1, 300), (3, 300), (40, 300), (1, 5), (40, 5)])
    def test_items_with_the_same_embedding_are_tied_whatever_is_multiplied_with_them(self, num_users, num_items):
        # Items of one random real-valued vector: a target's rank is its place in the order, to the
        # last bit of rounding, though products of few rows or columns are rounded differently from
        # others.
        vectors = torch.randn(num_users, 130, generator=torch.Generator().manual_seed(0))
        targets = pairs(*((user, user % num_items) for user in range(num_users)))
        full_sort = FullSort(
            targets=targets,
            seen=[],
            num_users=num_users,
            num_items=num_items,
            seed=5,
            max_rank=300,
            chunk_items=37,
        )
        ranks = full_sort.ranks(Embeddings(users=vectors, items=vectors[:1].expand(num_items, -1).contiguous()))
        place = np.argsort(np.random.default_rng(5).permutation(num_items))
        assert ranks.tolist() == (place[targets.items] + 1).tolist()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_embeddings_that_are_not_finite_are_refused_not_ranked_first(self, value):
        full_sort = FullSort(targets=pairs((0, 2)), seen=[], num_users=1, num_items=3, seed=0)
        with pytest.raises(RecBenchError, match=r"1 of 3 items are not finite \(first: item 1\)"):
            full_sort.ranks(Embeddings(users=torch.ones(1, 2), items=torch.tensor([[1.0, 0], [value, 0], [0, 0]])))

    def test_scores_that_overflow_are_refused(self):
        full_sort = FullSort(targets=pairs((0, 1)), seen=[], num_users=1, num_items=2, seed=0)
        with pytest.raises(RecBenchError, match="overflow"):
            full_sort.ranks(Embeddings(users=torch.full((1, 1), 1e30), items=torch.tensor([[1e30], [1.0]])))

    def test_tables_of_another_size_are_refused(self):
        full_sort = FullSort(targets=pairs((0, 1)), seen=[], num_users=1, num_items=2, seed=0)
        with pytest.raises(RecBenchError, match="3 item embeddings for 2 items"):
            full_sort.ranks(Embeddings(users=torch.ones(1, 1), items=torch.ones(3, 1)))


class TestUserScores:
    def test_one_hit_of_two_targets(self):
        # Ranks 2 and 9, k = 5. Recall 1/2, precision 1/5, MAP (1/2)/2, NDCG (1/log2 3)/(1 + 1/log2
        # 3).
        scores = user_scores(torch.tensor([2, 9]), target_users=np.array([0, 0]), cutoffs=(5,))
        gain = 1 / math.log2(3)
        assert {name: value.tolist() for name, value in scores.items()} == {
            "recall@5": [0.5],
            "precision@5": [0.2],
            "map@5": [0.25],
            "ndcg@5": [pytest.approx(gain / (1 + gain))],
        }

    def test_map_sums_the_precision_at_each_hit(self):
        # Ranks 1 and 4 of 3 targets: (1/1 + 2/4) / min(5, 3) = 0.5.
        scores = user_scores(torch.tensor([4, 51, 1]), target_users=np.array([7, 7, 7]), cutoffs=(5,))
        assert scores["map@5"].tolist() == [0.5]

    def test_more_targets_than_places_can_still_score_one(self):
        # Six targets on ranks 1 .. 6: the first five places are all hits.
        scores = user_scores(torch.arange(1, 7), target_users=np.zeros(6, dtype=np.int64), cutoffs=(5,))
        assert scores["ndcg@5"].tolist() == scores["map@5"].tolist() == scores["precision@5"].tolist() == [1.0]
        assert scores["recall@5"].tolist() == [pytest.approx(5 / 6)]

    def test_users_come_ascending_and_do_not_mix(self):
        scores = user_scores(torch.tensor([1, 51, 2]), target_users=np.array([9, 4, 9]), cutoffs=(5, 20))
        assert scores["recall@20"].tolist() == [0.0, 1.0]
        assert scores["precision@5"].tolist() == [0.0, 0.4]

    def test_a_rank_beyond_all_scores_zero_in_everything(self):
        scores = user_scores(torch.tensor([51]), target_users=np.array([0]))
        assert len(scores) == 16 and all(value.tolist() == [0.0] for value in scores.values())

    @pytest.mark.parametrize("seed", range(20))
    def test_scores_are_those_of_scikit_learn_and_torchmetrics_with_ties_broken_alike(self, seed):
        rng = np.random.default_rng(seed)
        num_users, num_items = 12, 90
        raw = rng.integers(0, 6, size=(num_users, num_items))  # many ties
        targets = pairs(
            *((u, int(i)) for u in range(num_users) for i in rng.choice(num_items, 1 + u % 9, replace=False))
        )
        full_sort = FullSort(targets=targets, seen=[], num_users=num_users, num_items=num_items, seed=seed)
        ranks = full_sort.ranks(scoring(raw.astype(float).tolist()))
        # The order of tied items, told to the others as an amount that is too small to change
        # anything else.
        place = np.argsort(np.random.default_rng(seed).permutation(num_items))
        untied = raw - place / 1000
        for k in (5, 10, 20, 50):
            scores = user_scores(ranks, target_users=targets.users, cutoffs=(k,))
            for user in range(num_users):
                relevant = np.zeros(num_items)
                relevant[targets.items[targets.users == user]] = 1
                told, truth = torch.tensor(untied[user]), torch.tensor(relevant).long()
                found = {name.partition("@")[0]: value[user] for name, value in scores.items()}
                assert found["ndcg"] == pytest.approx(ndcg_score([relevant], [untied[user]], k=k), abs=1e-9)
                assert found["ndcg"] == pytest.approx(float(retrieval_normalized_dcg(told, truth, top_k=k)), abs=1e-6)
                assert found["recall"] == pytest.approx(float(retrieval_recall(told, truth, top_k=k)), abs=1e-6)
                assert found["precision"] == pytest.approx(float(retrieval_precision(told, truth, top_k=k)), abs=1e-6)
                # torchmetrics divides by the hits, the toolbox by what could have been hit.
                hits = found["recall"] * relevant.sum()
                average = float(retrieval_average_precision(told, truth, top_k=k))
                assert found["map"] == pytest.approx(average * hits / min(k, relevant.sum()), abs=1e-6)
