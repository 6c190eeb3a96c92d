"""Rewards of the tests."""

import itertools


def exact():
    """1 for the true title and nothing else."""

    def score(*, predictions, references, **columns):
        return [float(p == r) for p, r in zip(predictions, references, strict=True)]

    score.targets = ("text",)  # type: ignore[attr-defined]
    score.value_range = (0.0, 1.0)  # type: ignore[attr-defined]
    return score


def longer():
    """The longer the better."""

    def score(*, predictions, **columns):
        return [float(len(p)) for p in predictions]

    return score


def lucky():
    """Another number with every call."""
    numbers = itertools.count()

    def score(*, predictions, **columns):
        return [float(next(numbers)) for _ in predictions]

    return score


def broken():
    """Cannot score."""

    def score(**columns):
        raise FileNotFoundError("weights.bin is not there")

    return score


def half_blind():
    """Scores every second completion of a batch that it is given."""

    def score(*, predictions, **columns):
        return [1.0 if len(p) % 2 else None for p in predictions]

    return score
