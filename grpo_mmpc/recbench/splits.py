"""The split of each user's interactions in time: training, validation and test part."""

from dataclasses import dataclass

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.interactions import Interactions, Mode, time_order
from grpo_mmpc.recbench.records import Ints, Pairs, Split

_TRAIN, _VALIDATION, _TEST = range(3)
_SHORT = 10
"""Users with fewer interactions give one to each of validation and test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitStatistics:
    """The sizes of a split."""

    users: int
    items: int
    train: int
    """Interactions, here and in the next two."""
    validation: int
    test: int
    density: float
    """Share of all (user, item) cells that are interactions."""
    median_per_user: float
    cold_test_items: int
    """Items of the test part that nobody takes in the training part: only their features can
    recommend them."""

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"{self.users:,} users, {self.items:,} items, {self.train:,} / {self.validation:,} / {self.test:,} "
            f"interactions to train / validate / test, density {self.density:.2%}, median {self.median_per_user:g} "
            f"per user, {self.cold_test_items:,} test items without a training interaction"
        )


def chronological_split(interactions: Interactions, *, mode: Mode) -> Split:
    """Hold out the last fifth of each user's interactions, its earlier half for validation.

    The rule of MMPCBench (arXiv 2601.19750). With n interactions of a user:

    - n < 10: the last one is the test part, the one before it the validation part.
    - otherwise k = int(0.2 n) are held out: the first k // 2 of them validate, the rest test, so
      that of an odd number the test part gets one more (n = 15: 12 train, 1 validates, 2 test).

    Args:
        interactions: In corrected mode from a corrected filter: each pair once.
        mode: What comes first of equal times: in ``corrected`` the smaller item_id, in ``paper``
            the earlier row. In paper mode a pair may repeat within a part and across parts (a flaw
            of the protocol).

    Raises:
        RecBenchError: A user has fewer than three interactions, or a pair repeats in corrected
            mode.
    """
    order, lengths = _prepare(interactions, mode=mode)
    held_out = np.where(lengths < _SHORT, 2, lengths // 5)
    validation = np.where(lengths < _SHORT, 1, held_out // 2)
    return _split(interactions, order, lengths, validation=validation, test=held_out - validation)


def leave_one_out_split(interactions: Interactions) -> Split:
    """Test on each user's last interaction, validate on the one before it.

    Of equal times, the smaller item_id comes first.

    Raises:
        RecBenchError: A user has fewer than three interactions, or a pair repeats.
    """
    order, lengths = _prepare(interactions, mode="corrected")
    one = np.ones_like(lengths)
    return _split(interactions, order, lengths, validation=one, test=one)


def split_statistics(split: Split) -> SplitStatistics:
    """Return sizes, density and cold items of a split; ``print`` shows them on one line."""
    parts = (split.train, split.validation, split.test)
    total = sum(len(part) for part in parts)
    per_user = np.bincount(np.concatenate([part.users for part in parts]), minlength=split.num_users)
    return SplitStatistics(
        users=split.num_users,
        items=split.num_items,
        train=len(split.train),
        validation=len(split.validation),
        test=len(split.test),
        density=total / (split.num_users * split.num_items),
        median_per_user=float(np.median(per_user)),
        cold_test_items=len(np.setdiff1d(split.test.items, split.train.items)),
    )


def _prepare(interactions: Interactions, *, mode: Mode) -> tuple[Ints, Ints]:
    """Return the order in time ``[N]`` and the lengths of users' histories ``[U]``, checked."""
    lengths = np.bincount(interactions.users, minlength=len(interactions.user_ids))
    if len(lengths) == 0:
        raise RecBenchError("there is no interaction to split; loosen the filter")
    if lengths.min() < 3:
        user = int(lengths.argmin())
        raise RecBenchError(
            f"user {interactions.user_ids[user]} has {lengths[user]} interactions, expected at least 3 to split; "
            "filter with min_per_user=3 or more"
        )
    if mode == "corrected":
        pairs, counts = np.unique(np.stack([interactions.users, interactions.items]), axis=1, return_counts=True)
        if counts.max() > 1:
            user, item = pairs[:, int(counts.argmax())]
            raise RecBenchError(
                f"user {interactions.user_ids[user]} has item {interactions.item_ids[item]} {counts.max()} times, so "
                "that it could be in the training part and in the test part; filter the interactions in corrected mode"
            )
    _, id_ranks = np.unique(np.array(interactions.item_ids, dtype=object), return_inverse=True)
    order = time_order(interactions.users, id_ranks[interactions.items], interactions.timestamps, mode=mode)
    return order, lengths


def _split(interactions: Interactions, order: Ints, lengths: Ints, *, validation: Ints, test: Ints) -> Split:
    """Cut each user's interactions: hold out the last ``test``, and ``validation`` before them."""
    part_sizes = np.stack([lengths - validation - test, validation, test], axis=1)  # [U, 3], one user after the other
    parts = np.repeat(np.tile([_TRAIN, _VALIDATION, _TEST], len(lengths)), part_sizes.reshape(-1))

    def pairs(part: int) -> Pairs:
        rows = order[parts == part]
        return Pairs(users=interactions.users[rows], items=interactions.items[rows])

    return Split(
        user_ids=interactions.user_ids,
        item_ids=interactions.item_ids,
        train=pairs(_TRAIN),
        validation=pairs(_VALIDATION),
        test=pairs(_TEST),
    )
