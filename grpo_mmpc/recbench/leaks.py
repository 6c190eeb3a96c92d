"""The proof that no true vector of a missing item reaches a recommender."""

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.fills import Filled
from grpo_mmpc.recbench.records import Flags, Floats, named

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
    if truth.shape != filled.values.shape:
        raise RecBenchError(
            f"true features are {truth.shape}, filled ones {filled.values.shape}: expected the same shape"
        )
    equal = filled.missing & _same(filled.values, truth)
    if allowed is not None:
        equal &= ~allowed
    if not equal.any():
        return
    positions = np.flatnonzero(equal & ~observed_twins(truth, missing=filled.missing)).tolist()
    if positions:
        raise RecBenchError(
            f"fill {filled.fill}: {len(positions)} of {int(filled.missing.sum())} missing items still have their true "
            f"vector: {named(positions, filled.item_ids)}; a row that no completion replaces must be zero, not the "
            "truth"
        )


def observed_twins(truth: Floats, *, missing: Flags) -> Flags:
    """Return the missing items, ``[I]``, of which an observed item has the same true vector.

    Vectors that are the same lie at the same place along any direction; only those near along one
    are compared.
    """
    twins = np.zeros(len(truth), dtype=np.bool_)
    normal = np.random.default_rng(0).standard_normal(truth.shape[1])
    direction = normal / np.linalg.norm(normal)
    places = truth @ direction  # fp64, [I]; NaN where there is no vector
    lengths = np.linalg.norm(truth, axis=1)
    observed = np.flatnonzero(~missing & np.isfinite(places))
    observed = observed[np.argsort(places[observed], kind="stable")]
    asked = np.flatnonzero(missing & np.isfinite(places))
    reach = TOLERANCE * lengths[asked]
    firsts = np.searchsorted(places[observed], places[asked] - reach, side="left")
    ends = np.searchsorted(places[observed], places[asked] + reach, side="right")
    for position, first, end in zip(asked, firsts, ends, strict=True):
        if first < end:
            near = truth[observed[first:end]]
            twins[position] = bool(_same(near, np.broadcast_to(truth[position], near.shape)).any())
    return twins


def _same(values: Floats, truth: Floats) -> Flags:
    """Return the rows that are the truth up to the tolerance; a zero vector never is."""
    lengths = np.linalg.norm(truth, axis=1)
    distances = np.linalg.norm(values - truth, axis=1)  # NaN, and therefore not the same, where there is no truth
    return np.asarray((lengths > 0) & (distances <= TOLERANCE * lengths))
