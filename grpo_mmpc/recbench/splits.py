"""The split of each user's interactions in time: training, validation and test part."""

from dataclasses import dataclass

import numpy as np

from grpo_mmpc.recbench.interactions import Interactions
from grpo_mmpc.recbench.records import Ints, Pairs, Split
from grpo_mmpc.reports.common.labels import plural

_TRAIN, _VALIDATION, _TEST = range(3)
_SHORT = 10
"""Users with fewer interactions give one to each of validation and test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitStatistics:
    """The sizes of a split; its parts are counted in interactions."""

    users: int
    items: int
    train: int
    validation: int
    test: int
    density: float
    """Share of all (user, item) cells that are interactions."""
    median_per_user: float
    untrained_users: int
    """Users who took every item of the training part: with nothing to tell apart, they are not
    trained on."""
    cold_test_items: int
    """Items of the test part that nobody takes in the training part: only their features can
    recommend them."""

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"{plural(self.users, 'user')}, {plural(self.items, 'item')}, {self.train:,} / {self.validation:,} / "
            f"{self.test:,} interactions to train / validate / test, density {self.density:.2%}, median "
            f"{self.median_per_user:g} per user, {plural(self.cold_test_items, 'test item')} without a training "
            "interaction"
            + (f", {plural(self.untrained_users, 'user')} who took every item" if self.untrained_users else "")
        )


def chronological_split(interactions: Interactions) -> Split:
    """Hold out the last fifth of each user's interactions, its earlier half for validation.

    The rule of MMPCBench (arXiv 2601.19750). With n >= 3 interactions of a user:

    - n < 10: the last one is the test part, the one before it the validation part.
    - otherwise k = int(0.2 n) are held out: the first k // 2 of them validate, the rest test, so
      that of an odd number the test part gets one more (n = 15: 12 train, 1 validates, 2 test).

    In paper mode a pair may repeat within a part and across parts, a flaw of the protocol.
    """
    lengths = np.bincount(interactions.users)
    held_out = np.where(lengths < _SHORT, 2, lengths // 5)
    validation = np.where(lengths < _SHORT, 1, held_out // 2)
    return _split(interactions, lengths, validation=validation, test=held_out - validation)


def leave_one_out_split(interactions: Interactions) -> Split:
    """Test on each user's last interaction, validate on the one before it."""
    lengths = np.bincount(interactions.users)
    one = np.ones_like(lengths)
    return _split(interactions, lengths, validation=one, test=one)


def split_statistics(split: Split) -> SplitStatistics:
    """Return sizes, density and cold items of a split; ``print`` shows them on one line."""
    parts = (split.train, split.validation, split.test)
    total = sum(len(part) for part in parts)
    pairs = np.unique(np.stack([split.train.users, split.train.items]), axis=1)
    per_user = np.bincount(np.concatenate([part.users for part in parts]), minlength=split.num_users)
    return SplitStatistics(
        users=split.num_users,
        items=split.num_items,
        train=len(split.train),
        validation=len(split.validation),
        test=len(split.test),
        density=total / (split.num_users * split.num_items),
        median_per_user=float(np.median(per_user)),
        untrained_users=int((np.bincount(pairs[0]) == len(np.unique(pairs[1]))).sum()),
        cold_test_items=len(np.setdiff1d(split.test.items, split.train.items)),
    )


def _split(interactions: Interactions, lengths: Ints, *, validation: Ints, test: Ints) -> Split:
    """Cut each user's interactions: hold out the last ``test``, and ``validation`` before them."""
    part_sizes = np.stack([lengths - validation - test, validation, test], axis=1)  # [U, 3], one user after the other
    parts = np.repeat(np.tile([_TRAIN, _VALIDATION, _TEST], len(lengths)), part_sizes.reshape(-1))

    def pairs(part: int) -> Pairs:
        return Pairs(users=interactions.users[parts == part], items=interactions.items[parts == part])

    return Split(
        user_ids=interactions.user_ids,
        item_ids=interactions.item_ids,
        train=pairs(_TRAIN),
        validation=pairs(_VALIDATION),
        test=pairs(_TEST),
    )
