"""The proof that no true vector of a missing item reaches a recommender."""

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.fills import Filled
from grpo_mmpc.recbench.records import Flags, Floats, Ints, named

TOLERANCE = 1e-6
"""The distance that copying and fp32 leave between two equal vectors, as a share of the true
one's length."""


def check_no_truth(filled: Filled, *, truth: Floats, allowed: Flags | None = None) -> None:
    """Make sure that no missing row is the item's true vector.

    MMPCBench starts from a copy of the true features and overwrites rows for which a completion
    exists; all other missing items keep the truth, and the fewer completions there are, the better
    they look.

    Args:
        filled: What a recommender would get.
        truth: ``[I, D]``, before anything was masked; NaN for items that never had the modality.
        allowed: ``[I]``: items whose row may be the truth, because an encoder made it of a
            completion of their own. Items of which an observed one has the same vector are allowed
            anyway: it is no secret.

    Raises:
        RecBenchError: A missing row is the truth; names the items.
    """
    equal = filled.missing & _same(filled.values, truth)
    if allowed is not None:
        equal &= ~allowed
    suspects = np.flatnonzero(equal)
    if not len(suspects):
        return
    positions = suspects[~observed_twins(truth, missing=filled.missing, asked=suspects)].tolist()
    if positions:
        raise RecBenchError(
            f"fill {filled.fill}: {len(positions)} of {int(filled.missing.sum())} missing items still have their true "
            f"vector: {named(positions, filled.item_ids)}; a row that no completion replaces must be zero, not the "
            "truth"
        )


def observed_twins(truth: Floats, *, missing: Flags, asked: Ints) -> Flags:
    """Return which of the asked items, ``[Q]``, share their true vector with an observed item."""
    from sklearn.neighbors import NearestNeighbors  # heavy: imported on use

    observed = np.flatnonzero(~missing & np.isfinite(truth).all(axis=1))
    if not len(observed):
        return np.zeros(len(asked), dtype=np.bool_)
    # In fp64: distances between near vectors are differences of large squares.
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(truth[observed].astype(np.float64))
    nearest = search.kneighbors(truth[asked].astype(np.float64), return_distance=False)[:, 0]
    return _same(truth[observed[nearest]], truth[asked])


def _same(values: Floats, truth: Floats) -> Flags:
    """Return the rows that are the truth up to the tolerance; a zero vector never is."""
    lengths = np.linalg.norm(truth, axis=1)
    distances = np.linalg.norm(values - truth, axis=1)  # NaN, and therefore not the same, where there is no truth
    return np.asarray((lengths > 0) & (distances <= TOLERANCE * lengths))
