"""Fills (imputation methods): what replaces the vectors of items that lost a modality.

Observed rows pass through bit by bit. An item that a fill has nothing to go by for stays zero,
which recommenders read as "nothing is known", and is counted with the reason.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.propagation import propagate
from grpo_mmpc.recbench.records import Flags, Floats, Pairs, named

NEVER = "never had it"
"""The reason of items that lost nothing, because there was nothing to lose."""
_ROWS_PER_DRAW = 4096
WORKING_MEMORY_MB = 64
"""Bound of the memory for cosines, however many items there are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskedFeatures:
    """The features of one modality without the missing ones; made by ``mask_features``."""

    values: Floats
    """``[I, D]``; NaN on missing rows, finite on all others."""
    missing: Flags
    """``[I]``."""
    item_ids: Sequence[str] | None = None
    """For messages; without them items are named by position."""


def mask_features(values: Floats, *, missing: Flags, item_ids: Sequence[str] | None = None) -> MaskedFeatures:
    """Return features ``[I, D]`` in which nothing is left of the missing rows ``[I]``.

    Rows of items that never had the modality are NaN and must be among the missing.

    Raises:
        RecBenchError: A row is not finite and not missing; names the items.
    """
    kept = np.array(values, dtype=np.float32)
    kept[missing] = np.nan
    if unknown := np.flatnonzero(~missing & ~np.isfinite(kept).all(axis=1)).tolist():
        raise RecBenchError(
            f"{len(unknown)} items count as observed but their features are not finite: {named(unknown, item_ids)}; "
            "count items that cannot be encoded as missing"
        )
    return MaskedFeatures(values=kept, missing=missing.copy(), item_ids=item_ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FillInputs:
    """The inputs of fills besides the observed rows; each takes what it needs."""

    seed: int = 0
    """The seed of the random fills."""
    groups: Sequence[str | None] | None = None
    """Category or brand of each item, ``[I]``."""
    other: MaskedFeatures | None = None
    """The other modality."""
    num_neighbours: int = 10
    """Items that ``nearest_neighbour`` takes the mean of. One vector alone would make two items the
    same; ten keep what neighbours have in common."""
    train: Pairs | None = None
    """Training interactions: later ones would tell of the test."""
    completed: Floats | None = None
    """``[I, D]``: vectors of completions, NaN where there is none; rows of observed items are
    ignored."""
    lacking: Sequence[str | None] | None = None
    """``[I]``: why there is no completion, where that is known."""
    never: Flags | None = None
    """``[I]``: missing items that no fill answers for, because they never had the modality. The
    ceiling knows nothing of them either: filled, they would make a fill better than the truth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Filled:
    """The features that a recommender gets."""

    values: Floats
    """``[I, D]``, finite."""
    missing: Flags
    """``[I]``: rows that were filled or left zero."""
    fill: str
    """Name of the fill."""
    covered: int
    """Missing rows that the fill had an answer for; the others are zero."""
    reasons: dict[str, int]
    """Reasons why the others have none, most frequent first; they add up to the rows that are not
    covered."""
    item_ids: Sequence[str] | None = None
    """For messages."""


class _Answers(NamedTuple):
    """The answers of a fill for the M missing rows, in order."""

    vectors: Floats | NDArray[np.float64]
    """``[M, D]``, or ``[D]`` for all of them."""
    reasons: NDArray[np.object_]
    """``[M]``: why there is no answer; "" where there is one."""


def fill(name: str, masked: MaskedFeatures, inputs: FillInputs) -> Filled:
    """Fill the missing rows by the method of that name.

    Raises:
        RecBenchError: Vectors are not finite; names the items.
    """
    vectors, reasons = FILLS[name](masked, inputs)
    if inputs.never is not None:
        reasons[inputs.never[masked.missing]] = NEVER
    missing = np.flatnonzero(masked.missing)
    is_covered = reasons == ""
    values = masked.values.copy()
    values[missing] = vectors
    values[missing[~is_covered]] = 0.0
    if broken := np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
        raise RecBenchError(
            f"fill {name}: vectors of {len(broken)} items are not finite: {named(broken, masked.item_ids)}; "
            "look for extreme values in the features, or encode the completions again"
        )
    return Filled(
        values=values,
        missing=masked.missing,
        fill=name,
        covered=int(is_covered.sum()),
        reasons=dict(Counter(reasons[~is_covered].tolist()).most_common()),
        item_ids=masked.item_ids,
    )


def _reasons(masked: MaskedFeatures, reason: str = "") -> NDArray[np.object_]:
    return np.full(int(masked.missing.sum()), reason, dtype=object)


def _observed(masked: MaskedFeatures) -> Floats:
    return masked.values[~masked.missing]


def _zeros(masked: MaskedFeatures, _: FillInputs) -> _Answers:
    return _Answers(np.zeros(masked.values.shape[1], np.float32), _reasons(masked, "left empty"))


def _mean(masked: MaskedFeatures, _: FillInputs) -> _Answers:
    observed = _observed(masked)
    if not len(observed):
        return _Answers(np.zeros(masked.values.shape[1]), _reasons(masked, "no item is observed"))
    return _Answers(observed.mean(axis=0, dtype=np.float64), _reasons(masked))


def _category_mean(masked: MaskedFeatures, inputs: FillInputs) -> _Answers:
    assert inputs.groups is not None
    names = np.array([name or "" for name in inputs.groups], dtype=object)
    _, codes = np.unique(names.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    rank = np.cumsum(masked.missing) - 1  # position among the missing
    vectors = np.zeros((int(masked.missing.sum()), masked.values.shape[1]), np.float32)
    reasons = _reasons(masked)
    for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        lacking = rank[members[masked.missing[members]]]
        observed = members[~masked.missing[members]]
        if len(members) and not names[members[0]]:
            reasons[lacking] = "the item has no category"
        elif not len(observed):
            reasons[lacking] = "no item of the category is observed"
        else:
            vectors[lacking] = masked.values[observed].mean(axis=0, dtype=np.float64)
    return _Answers(vectors, reasons)


def _normal(masked: MaskedFeatures, seed: int) -> Floats:
    """Sample standard normal vectors; an item's does not depend on which others are missing."""
    generator = np.random.default_rng(seed)
    num_items, dim = masked.values.shape
    parts = [np.zeros((0, dim), np.float32)]
    for start in range(0, num_items, _ROWS_PER_DRAW):
        missing = masked.missing[start : start + _ROWS_PER_DRAW]
        parts.append(generator.standard_normal((len(missing), dim), dtype=np.float32)[missing])
    return np.concatenate(parts)


def _random_paper(masked: MaskedFeatures, inputs: FillInputs) -> _Answers:
    """Sample N(0, 1) as MMPCBench does: 20 times too long beside unit vectors of 384 numbers."""
    return _Answers(_normal(masked, inputs.seed), _reasons(masked))


def _random_matched(masked: MaskedFeatures, inputs: FillInputs) -> _Answers:
    """Sample with the observed mean and deviation by dimension: the right scale, no content."""
    observed = _observed(masked)
    if not len(observed):
        return _Answers(np.zeros(masked.values.shape[1]), _reasons(masked, "no item is observed"))
    mean, deviation = observed.mean(axis=0, dtype=np.float64), observed.std(axis=0, dtype=np.float64)
    return _Answers(
        mean.astype(np.float32) + deviation.astype(np.float32) * _normal(masked, inputs.seed), _reasons(masked)
    )


def _nearest_neighbour(masked: MaskedFeatures, inputs: FillInputs) -> _Answers:
    """Return the mean of the items, of those with both modalities, nearest in the other one.

    A zero vector has no direction and no content: such items are no neighbours and have none.
    """
    # heavy: imported on use
    import sklearn
    from sklearn.neighbors import NearestNeighbors

    assert inputs.other is not None
    positions = np.flatnonzero(masked.missing)
    keys = inputs.other.values
    # NaN for rows of NaN; in fp64, as small squares vanish in fp32
    lengths = np.sqrt(np.einsum("ij,ij->i", keys, keys, dtype=np.float64))
    has_direction = lengths > 0
    candidates = np.flatnonzero(~masked.missing & has_direction & (masked.values != 0).any(axis=1))
    reasons = _reasons(masked, "" if len(candidates) else "no item has both modalities")
    reasons[~has_direction[positions]] = "the other modality is a zero vector"
    reasons[inputs.other.missing[positions]] = "the other modality is missing too"
    vectors = np.zeros((len(positions), masked.values.shape[1]), np.float32)
    asked = positions[reasons == ""]
    if len(asked):
        unit = np.asarray(keys / np.maximum(lengths, np.finfo(np.float64).tiny)[:, None], dtype=np.float32)
        count = min(inputs.num_neighbours, len(candidates))
        with sklearn.config_context(working_memory=WORKING_MEMORY_MB):
            search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(unit[candidates])
            nearest = search.kneighbors(unit[asked], return_distance=False)  # [Q, k]
        means = np.zeros((len(asked), masked.values.shape[1]), np.float32)
        for column in nearest.T:  # one at a time: all at once would take [Q, k, D]
            means += masked.values[candidates[column]]
        vectors[reasons == ""] = means / count
    return _Answers(vectors, reasons)


def _feature_propagation(masked: MaskedFeatures, inputs: FillInputs) -> _Answers:
    """Spread observed rows over items that share training users (Rossi et al. 2022)."""
    assert inputs.train is not None
    spread = propagate(masked.values, missing=masked.missing, train=inputs.train)
    reasons = _reasons(masked)
    reasons[~spread.is_reached] = "no observed item is linked to it by training users"
    return _Answers(spread.vectors, reasons)


def _completed(masked: MaskedFeatures, inputs: FillInputs) -> _Answers:
    """Return the given vectors; rows that are NaN in part fail the check for finite values."""
    assert inputs.completed is not None
    vectors = inputs.completed[masked.missing]
    reasons = _reasons(masked)
    for row, position in enumerate(np.flatnonzero(masked.missing).tolist()):
        if np.isnan(vectors[row]).all():
            known = None if inputs.lacking is None else inputs.lacking[position]
            reasons[row] = known or ("no completion" if inputs.lacking is None else "its completion has no vector")
        elif not vectors[row].any():
            reasons[row] = "its completion is a zero vector"
    return _Answers(vectors, reasons)


FILLS: Mapping[str, Callable[[MaskedFeatures, FillInputs], _Answers]] = {
    "zeros": _zeros,
    "mean": _mean,
    "category_mean": _category_mean,
    "random_paper": _random_paper,
    "random_matched": _random_matched,
    "nearest_neighbour": _nearest_neighbour,
    "feature_propagation": _feature_propagation,
    "completed": _completed,
}
"""All fills by name."""
