"""Feature propagation: known vectors spread over a graph of items until nothing changes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.recbench.records import Flags, Floats, Pairs

MAX_ITERATIONS = 40
_TOLERANCE = 1e-4
_COLUMNS = 32  # at a time: a block of users x columns stays in the cache, four times as fast as all at once


class Propagated(NamedTuple):
    """The result for M missing rows."""

    vectors: Floats
    """``[M, D]``."""
    is_reached: Flags
    """``[M]``: rows that a chain of shared users, 40 items long at most, links to an observed item;
    the others are zero."""


def propagate(values: Floats, *, missing: Flags, train: Pairs) -> Propagated:
    """Iterate ``x <- D^-1/2 A D^-1/2 x``, observed rows put back after every step.

    ``A`` counts the training users that two items share; its diagonal is zero. It is never built:
    the items of one user are all linked with each other, so that ``A x`` is a sum over users and
    back, minus what each item sent to itself. Dimensions do not depend on each other; each block of
    them stops when its vectors change by less than 1e-4 of their length, at the latest after 40
    steps.

    Args:
        values: ``[I, D]``; missing rows are not read.
        missing: ``[I]``.
        train: Each pair once.

    References:
        Rossi et al. 2022, "On the Unreasonable Effectiveness of Feature propagation in Learning on
        Graphs with Missing Node Features", algorithm 1.
    """
    from scipy.sparse import csr_array  # type: ignore[import-untyped]  # heavy: imported on use

    num_items, dim = values.shape
    sizes = np.bincount(train.users)
    users_of_item = np.bincount(train.items, minlength=num_items)
    degrees = np.bincount(train.items, weights=sizes[train.users], minlength=num_items) - users_of_item
    scale = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1)), 0).astype(np.float32)
    users, items = train.users.astype(np.int32), train.items.astype(np.int32)  # less to read in each step
    # D^-1/2 is on both sides: of what goes up to the users, and of what comes down again.
    taken: Any = csr_array((scale[train.items], (users, items)), shape=(len(sizes), num_items))  # [U, I]
    observed, lacking = taken[:, ~missing].tocsr(), taken[:, missing].tocsr()
    back = lacking.T.tocsr()  # [M, U]
    to_itself = (users_of_item * scale**2).astype(np.float32)[missing, None]
    is_reached, num_steps = _reached(taken, observed=~missing)
    vectors = np.zeros((int(missing.sum()), dim), dtype=np.float32)
    for start in range(0, dim, _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        source = back @ (observed @ values[~missing, columns])  # what observed items send, the same in every step
        current: NDArray[np.float32] = source
        for step in range(2, MAX_ITERATIONS + 1):
            before = current
            current = source + back @ (lacking @ before) - to_itself * before
            change, length = np.linalg.norm(current - before), np.linalg.norm(current)
            if step >= num_steps and change <= _TOLERANCE * length:  # far items have heard something, and all agree
                break
        vectors[:, columns] = current
    vectors[~is_reached[missing]] = 0.0
    return Propagated(vectors, is_reached[missing])


def _reached(taken: Any, *, observed: Flags) -> tuple[Flags, int]:
    """Return items observed or linked to one that is, and the farthest's steps (40 at most)."""
    links = taken.astype(bool).astype(np.float32)
    reached = observed
    for step in range(MAX_ITERATIONS):
        spread = reached | (links.T @ (links @ reached.astype(np.float32)) > 0)
        if (spread == reached).all():
            return reached, step
        reached = spread
    return reached, MAX_ITERATIONS
