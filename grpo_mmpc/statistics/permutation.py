"""The paired permutation test: without a difference, swapping sides changes nothing."""

import math
from collections.abc import Sequence

import numpy as np

from grpo_mmpc.statistics.verdicts import Floats

EXACT_UNITS = 13
"""Up to here all 2**n swaps (8,192) are gone through, fewer than are sampled otherwise."""

MAX_FLIPS = 200_000
"""Time and memory grow with flips; a catalogue may have hundreds of categories."""

_CHUNK_CELLS = 1_000_000
"""Signs held at once (1 MB): memory stays flat whatever the number of items and flips."""


def num_flips(*, at_least: int, family: int, confidence: float) -> int:
    """Return the number of random flips that a family of comparisons needs.

    R flips cannot give a p-value below ``1 / (R + 1)``, which correction for m comparisons
    multiplies by m. The smallest corrected value is kept at a fifth of the level, up to
    ``MAX_FLIPS``: larger families find less than they could, and never too much.
    """
    return max(at_least, min(MAX_FLIPS, math.ceil(5 * family / (1 - confidence) - 1e-9)))


def flipped_sums(values: Floats, *, flips: int, seed: Sequence[int]) -> Floats:
    """Return column sums ``[R, K]`` after every row ``[N, K]`` was multiplied by a random sign.

    The sums of two groups of items that were flipped apart add up to those of both together. The
    same seed, N and R sample the same signs.
    """
    num_items, num_columns = values.shape
    generator = np.random.default_rng(list(seed))
    sums = np.empty((flips, num_columns))
    chunk = max(1, _CHUNK_CELLS // max(1, num_items))
    num_bytes = -(-num_items // 64) * 8
    for start in range(0, flips, chunk):
        rows = min(chunk, flips - start)
        # One random bit per sign. Rows take whole 64-bit words, so that cutting into chunks does
        # not change the signs.
        sampled = np.frombuffer(generator.bytes(rows * num_bytes), dtype=np.uint8).reshape(rows, num_bytes)
        bits = np.unpackbits(sampled, axis=1, count=num_items)  # [rows, N]
        sums[start : start + rows] = bits.astype(np.float64) @ values
    flipped: Floats = 2 * sums - values.sum(axis=0)
    return flipped


def every_flip(values: Floats) -> Floats:
    """Return column sums ``[2**N, K]`` under all signs of at most ``EXACT_UNITS`` rows."""
    num_items = len(values)
    if num_items > EXACT_UNITS:
        raise ValueError(f"{num_items} items have 2**{num_items} flips; all are gone through up to {EXACT_UNITS} items")
    bits = np.arange(2**num_items)[:, None] >> np.arange(num_items) & 1  # [2**N, N]
    sums: Floats = (2.0 * bits - 1.0) @ values
    return sums


def permutation_p(flipped: Floats, observed: Floats, *, exact: bool) -> Floats:
    """Return two-sided p-values: how often flips are at least as far from 0 as observed.

    Args:
        flipped: Differences under flips, ``[R, ...]``; NaN (no value under this flip) counts
            against the finding.
        observed: The differences, ``[...]``.
        exact: ``flipped`` holds all flips: p is their share. Random flips give ``(b + 1) /
            (R + 1)``, which no true null hypothesis falls below too often (Phipson & Smyth 2010,
            arXiv 1603.05766).

    Returns:
        ``[...]``, in (0, 1].
    """
    sizes = np.abs(flipped)
    # The observed value itself is among the flips; rounding must not make it differ from itself.
    tolerance = 1e-9 * np.max(np.nan_to_num(sizes), axis=0, initial=0.0)
    at_least = np.count_nonzero(~(sizes < np.abs(observed) - tolerance), axis=0)
    p: Floats = at_least / len(flipped) if exact else (at_least + 1.0) / (len(flipped) + 1.0)
    return np.asarray(p, dtype=np.float64)
