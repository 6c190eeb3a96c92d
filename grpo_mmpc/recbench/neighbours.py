"""Means of the items that are nearest in another modality."""

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.recbench.records import Floats, Ints

_BLOCK_BYTES = 64 * 2**20


def neighbour_means(values: Floats, *, keys: Floats, asked: Ints, candidates: Ints, num_neighbours: int) -> Floats:
    """For each asked item, the mean vector of the candidates whose keys have the largest cosine with its own.

    Blocks of asked items bound the memory for cosines to 64 MB, however many items there are. Which
    of several equally near candidates count is arbitrary, but always the same.

    Args:
        values: ``[I, D]``; only candidates are read.
        keys: ``[I, E]``; of asked items and candidates neither NaN nor zero.
        asked: ``[Q]`` positions.
        candidates: ``[J]`` positions, at least one if any item is asked for.
        num_neighbours: k; all candidates where there are fewer.

    Returns:
        ``[Q, D]``.
    """
    means = np.zeros((len(asked), values.shape[1]), np.float32)
    if not len(asked):
        return means
    count = min(num_neighbours, len(candidates))
    known = _unit(keys[candidates])  # [J, E]
    step = max(1, _BLOCK_BYTES // (4 * len(candidates)))
    for start in range(0, len(asked), step):
        block = slice(start, start + step)
        cosines = _unit(keys[asked[block]]) @ known.T  # [Q, J]
        nearest = np.argpartition(cosines, len(candidates) - count, axis=1)[:, -count:]  # [Q, k]
        for column in nearest.T:  # one at a time: all at once would take [Q, k, D]
            means[block] += values[candidates[column]]
    means /= count
    return means


def key_lengths(keys: Floats) -> NDArray[np.float64]:
    """Euclidean lengths, ``[I]``; NaN for rows of NaN. In fp64, because squares of small numbers vanish in fp32."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", keys, keys, dtype=np.float64)))


def _unit(keys: Floats) -> Floats:
    return np.asarray(keys / key_lengths(keys)[:, None], dtype=np.float32)
