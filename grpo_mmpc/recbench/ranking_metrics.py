"""The metrics of ranks: recall, NDCG, precision and MAP of every user."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Scores = dict[str, NDArray[np.float64]]
"""By metric, the score of each user, ``[V]``."""


def user_scores(ranks: Tensor, *, target_users: NDArray[np.int64], cutoffs: Sequence[int] = (5, 10, 20, 50)) -> Scores:
    """Score every user with a target by recall, NDCG, precision and MAP as the MMRec toolbox does.

    With n targets of a user and hits the targets ranked k or better: ``recall@k`` = hits / n;
    ``precision@k`` = hits / k; ``ndcg@k`` = sum over hits of 1 / log2(rank + 1), over the same sum
    for ranks 1 .. min(k, n); ``map@k`` = sum over hits of (hits up to its rank / its rank), over
    min(k, n). All are in [0, 1].

    Args:
        ranks: Of T targets, from 1; ranks of one user are distinct as far as they count.
        target_users: Whose target each is, ``[T]``.
        cutoffs: Values of k, none beyond the ``max_rank`` of the ``FullSort`` that ranked.

    Returns:
        ``"recall@20"`` and so on -> ``[V]``, users ascending.
    """
    places = ranks.cpu().numpy().astype(np.int64)
    _, rows, counts = np.unique(target_users, return_inverse=True, return_counts=True)
    order = np.lexsort((places, rows))
    places, rows = places[order], rows[order]
    hits_so_far = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows] + 1
    gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(cutoffs) + 2)))])
    scores: Scores = {}

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(rows, weights=values, minlength=len(counts)).astype(np.float64)

    for k in cutoffs:
        is_hit = places <= k
        hits = total(is_hit.astype(np.float64))
        reachable = np.minimum(counts, k)
        scores[f"recall@{k}"] = hits / counts
        scores[f"ndcg@{k}"] = total(is_hit / np.log2(places + 1.0)) / gains[reachable]
        scores[f"precision@{k}"] = hits / k
        scores[f"map@{k}"] = total(is_hit * hits_so_far / places) / reachable
    return scores
