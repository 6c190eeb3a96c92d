"""The training loop: early stopping, what is kept, determinism, and trainings that go wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender
from grpo_mmpc.recbench.recommenders.vbpr import VBPR
from grpo_mmpc.recbench.records import Pairs, Split
from tests.recbench.worlds import taste_world, trained


def one_user(*, validation_item: int = 1, test_item: int = 2) -> Split:
    """A user that took item 0 and is asked for items 1 and 2 of five; another took the other
    four."""

    def pair(item: int) -> Pairs:
        return Pairs(users=np.array([0]), items=np.array([item]))

    return Split(
        user_ids=("u", "v"),
        item_ids=tuple("abcde"),
        train=Pairs(users=np.array([0, 1, 1, 1, 1]), items=np.arange(5)),
        validation=pair(validation_item),
        test=pair(test_item),
    )


class Scripted(Recommender):
    """Ranks item 1 (or 2) at the places it is told, epoch after epoch, and learns nothing."""

    def __init__(self, places: list[int], *, item: int = 1, loss: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.places, self.item, self.value = places, item, loss
        self.epoch = 0
        self.triples: list[tuple[list[int], list[int], list[int]]] = []

    def start_epoch(self, generator: torch.Generator) -> None:
        self.epoch += 1

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor, generator: torch.Generator) -> Tensor:
        self.triples.append((users.tolist(), positives.tolist(), negatives.tolist()))
        return self.weight * 0 + self.value

    def embeddings(self) -> Embeddings:
        others = [item for item in range(1, 5) if item != self.item]
        place = self.places[min(self.epoch, len(self.places)) - 1]
        order = [*others[: place - 1], self.item, *others[place - 1 :], 0]
        items = torch.empty(5, 2)
        items[order, 0] = torch.arange(5.0, 0.0, -1.0)
        items[:, 1] = self.epoch  # to tell epochs apart; users do not look at it
        return Embeddings(users=torch.tensor([[1.0, 0.0]] * 2), items=items)


def fitted(model: Recommender, split: Split | None = None, **options):
    return trained(model, split or one_user(), **{"monitor": "ndcg@4", **options})


class TestEarlyStopping:
    def test_training_stops_after_patience_evaluations_without_a_better_one(self):
        # Best in epoch 3; epochs 4 and 5 are no better (an equal score is not).
        found = fitted(Scripted([4, 3, 2, 2, 3, 1]), patience=2, max_epochs=50)
        assert (found.epochs, found.best_epoch) == (5, 3)
        assert found.validation == pytest.approx(1 / math.log2(2 + 1))  # NDCG of place 2

    def test_the_best_epoch_is_kept_not_the_last(self):
        found = fitted(Scripted([4, 1, 3, 3]), patience=5, max_epochs=4)
        assert found.epochs == 4
        assert found.embeddings.items[0, 1] == 2

    def test_embeddings_that_are_kept_do_not_change_with_further_training(self):
        split, features = taste_world(0, num_users=20, num_items=60)
        model = VBPR(split, features, generator=torch.Generator().manual_seed(0), device="cpu")
        found = fitted(model, split, monitor="recall@20", max_epochs=2)
        before = found.embeddings.items.clone()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        assert found.embeddings.items.equal(before)

    def test_the_validation_part_chooses_the_epoch_and_not_the_test_part(self):
        # Item 2, the test item, is best in epoch 1; item 1, the validation item, is second then and
        # first in epoch 2.
        assert fitted(Scripted([1, 3, 4], item=2), max_epochs=3).best_epoch == 2

    def test_an_evaluation_computes_the_embeddings_once_whether_or_not_it_is_the_best(self):
        class Counting(Scripted):
            asked = 0

            def embeddings(self) -> Embeddings:
                self.asked += 1
                return super().embeddings()

        model = Counting([4, 3, 3, 1])
        assert fitted(model, max_epochs=4).best_epoch == 4
        assert model.asked == 4


class TestBatches:
    def test_an_epoch_takes_every_pair_once_in_a_new_order_with_negatives_never_taken(self):
        split, _ = taste_world(0, num_users=12, num_items=60)
        model = Scripted([1])
        model.embeddings = lambda: Embeddings(users=torch.ones(12, 1), items=torch.ones(60, 1))  # type: ignore[method-assign]
        fitted(model, split, monitor="recall@20", max_epochs=2, batch_size=25)
        # 12 users x 6 pairs = 72: batches of 25, 25 and 22, twice.
        assert [len(users) for users, _, _ in model.triples] == [25, 25, 22] * 2
        taken = set(zip(split.train.users.tolist(), split.train.items.tolist(), strict=True))
        epochs = []
        for batches in (model.triples[:3], model.triples[3:]):
            users, positives, negatives = ([i for batch in batches for i in batch[part]] for part in range(3))
            epochs.append(list(zip(users, positives, strict=True)))
            assert sorted(epochs[-1]) == sorted(taken)
            assert not taken & set(zip(users, negatives, strict=True))
        assert epochs[0] != epochs[1]

    def test_steps_are_those_of_adam(self):
        # The published update by hand: with gradient g in the first step, Adam moves by lr * g /
        # (|g| + eps).
        split, features = taste_world(0, num_users=12, num_items=60)
        model = VBPR(split, features, generator=torch.Generator().manual_seed(0), device="cpu")
        before = [parameter.detach().clone() for parameter in model.parameters()]
        fitted(model, split, monitor="recall@20", max_epochs=1, learning_rate=0.01)
        for (name, parameter), old in zip(model.named_parameters(), before, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            moved = parameter.detach() - old
            assert torch.allclose(moved, -0.01 * gradient / (gradient.abs() + 1e-8), atol=1e-6), name
            assert moved.abs().max() > 0.009, name


class TestDeterminism:
    def run(self, *, seed: int) -> Embeddings:
        split, features = taste_world(0, num_users=60, num_items=200)
        model = VBPR(split, features, generator=torch.Generator().manual_seed(7), device="cpu")
        return trained(model, split, seed=seed, max_epochs=5, batch_size=64).embeddings

    def test_the_same_seed_gives_the_same_bits(self):
        first, second = self.run(seed=3), self.run(seed=3)
        assert first.users.equal(second.users) and first.items.equal(second.items)

    def test_another_seed_gives_others(self):
        assert not self.run(seed=3).users.equal(self.run(seed=4).users)

    def test_what_is_drawn_elsewhere_changes_nothing(self):
        first = self.run(seed=3)
        torch.manual_seed(1)
        torch.rand(10)
        assert first.users.equal(self.run(seed=3).users)


class TestBadInput:
    def test_a_loss_that_is_not_finite_names_the_epoch(self):
        with pytest.raises(RecBenchError, match="epoch 1: the training loss is nan"):
            fitted(Scripted([1], loss=math.nan))

    def test_embeddings_that_are_not_finite_name_the_epoch_and_the_item(self):
        class Broken(Scripted):
            def embeddings(self) -> Embeddings:
                users, items = super().embeddings()
                items[3] = math.nan if self.epoch == 2 else items[3]
                return Embeddings(users=users, items=items)

        with pytest.raises(
            RecBenchError, match=r"epoch 2: the embeddings of 1 of 5 items are not finite \(first: item 3\)"
        ):
            fitted(Broken([4, 3, 2]))

    def test_a_learning_rate_that_is_far_too_high_ends_in_an_error_not_in_scores(self):
        split, features = taste_world(0, num_users=20, num_items=60)
        model = VBPR(split, features, generator=torch.Generator().manual_seed(0), device="cpu")
        with pytest.raises(RecBenchError, match=r"epoch \d+: .*(overflow|not finite|loss is)"):
            fitted(model, split, monitor="recall@20", learning_rate=1e25)

    def test_a_user_that_took_every_item_is_not_trained_on_and_the_others_are(self):
        split = one_user()
        everything = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
        users, items = (np.array(side) for side in zip(*everything, strict=True))
        model = Scripted([1])
        fitted(model, replace(split, train=Pairs(users=users, items=items)), max_epochs=1)
        [(asked, positives, negatives)] = model.triples
        assert sorted(zip(asked, positives, strict=True)) == [(0, 0), (0, 1)]
        assert {*negatives} <= {2, 3, 4}

    def test_where_everybody_took_every_item_there_is_nothing_to_train_on(self):
        everything = Pairs(users=np.zeros(5, dtype=np.int64), items=np.arange(5))
        split = Split(
            user_ids=("u", "v"),
            item_ids=tuple("abcde"),
            train=everything,
            validation=one_user().validation,
            test=one_user().test,
        )
        with pytest.raises(RecBenchError, match="nothing to tell apart"):
            fitted(Scripted([1]), split)
