"""The mean of the items that are nearest in another modality."""

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.recbench.records import Floats, Ints

WORKING_MEMORY_MB = 64
"""Bound of the memory for cosines, however many items there are."""


def neighbour_means(values: Floats, *, keys: Floats, asked: Ints, candidates: Ints, num_neighbours: int) -> Floats:
    """Return, for each asked item, the mean vector of the candidates with the nearest keys.

    Which of several equally near candidates count is arbitrary, but always the same.

    Args:
        values: ``[I, D]``; only candidates are read.
        keys: ``[I, E]``; of asked items and candidates neither NaN nor zero.
        asked: ``[Q]`` positions.
        candidates: ``[J]`` positions, at least one if any item is asked for.
        num_neighbours: k; all candidates where there are fewer.

    Returns:
        ``[Q, D]``.
    """
    # heavy: imported on use
    import sklearn
    from sklearn.neighbors import NearestNeighbors

    means = np.zeros((len(asked), values.shape[1]), np.float32)
    if not len(asked):
        return means
    count = min(num_neighbours, len(candidates))
    with sklearn.config_context(working_memory=WORKING_MEMORY_MB):
        search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(_unit(keys[candidates]))
        nearest = search.kneighbors(_unit(keys[asked]), return_distance=False)  # [Q, k]
    for column in nearest.T:  # one at a time: all at once would take [Q, k, D]
        means += values[candidates[column]]
    means /= count
    return means


def key_lengths(keys: Floats) -> NDArray[np.float64]:
    """Return lengths, ``[I]``, NaN for rows of NaN; in fp64, as small squares vanish in fp32."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", keys, keys, dtype=np.float64)))


def _unit(keys: Floats) -> Floats:
    return np.asarray(keys / key_lengths(keys)[:, None], dtype=np.float32)
