"""Group near-duplicate items: equal normalised title or similar image."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from grpo_mmpc.catalogue.normalise import title_key
from grpo_mmpc.catalogue.signatures import CHROMA_CELLS, LUMA_CELLS, ImageSignature, thumbnails
from grpo_mmpc.utils.hashing import number

CELL_TOLERANCE = 12
"""Largest difference of any thumbnail cell, of 256 levels, between two copies of one image.

Measured: JPEG of quality 30 to 90, WebP, half and double size, and combinations of them moved the
worst cell of 81 photos (198 x 198) by 5, and of 120 drawings with hard edges (84 x 84) by 6 to 8 in
95 % of cases. The two most similar of different photos lay 61 apart; of 3,600 drawn products that
differ in colour, pattern or one small mark, 27.
"""

_ASPECT_TOLERANCE = 0.05
_COARSE = 4
_QUERY_ROWS = 4096

Groups = npt.NDArray[np.int64]


def near_duplicate_groups(
    *,
    titles: Sequence[str | None],
    signatures: Sequence[ImageSignature | None],
    parents: Sequence[str | None] | None = None,
) -> Groups:
    """Number the groups of N items 0, 1, ... in order of first appearance, ``[N]``.

    Two items share a group if a chain of items leads from one to the other in which neighbours have
    the same non-empty :func:`~grpo_mmpc.catalogue.normalise.title_key` or perceptually equal
    images, or are variants of one product: the same one of ``parents``. A missing title, image or
    parent, and an image of one flat colour, say nothing and join nothing.
    """
    edges = np.concatenate([_title_edges(titles), _image_edges(signatures), _equal_text_edges(parents or [])])
    return _connected(len(titles), edges)


def _title_edges(titles: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """Link every item to the first with the same title key; pairs ``[E, 2]``."""
    return _equal_text_edges(title_key(title) for title in titles)


def _equal_text_edges(keys: Iterable[str | None]) -> npt.NDArray[np.int64]:
    # 64-bit hashes instead of the keys: 8 bytes an item, whatever the length of its title.
    indices: list[int] = []
    hashes: list[int] = []
    for index, key in enumerate(keys):
        if key:
            indices.append(index)
            hashes.append(number(key))
    return _edges_of_equal(np.array(indices, dtype=np.int64), np.array(hashes, dtype=np.uint64))


def _image_edges(signatures: Sequence[ImageSignature | None]) -> npt.NDArray[np.int64]:
    """Link items with perceptually equal images; pairs ``[E, 2]``."""
    good = [(i, s) for i, s in enumerate(signatures) if s is not None and s.problem is None]
    if not good:
        return np.empty((0, 2), dtype=np.int64)
    cells = thumbnails([s for _, s in good])
    aspects = np.array([s.aspect for _, s in good])
    owner = np.array([i for i, _ in good], dtype=np.int64)
    # A placeholder of one colour is no evidence that two products are the same.
    luma, chroma = cells[:, : LUMA_CELLS**2], cells[:, LUMA_CELLS**2 :].reshape(len(cells), 2, -1)
    varied = (np.ptp(luma, axis=1) > CELL_TOLERANCE) | (np.ptp(chroma, axis=2).max(axis=1) > CELL_TOLERANCE)
    cells, aspects, owner = cells[varied], aspects[varied], owner[varied]
    # Equal thumbnails first: ten thousand copies of one image make as many pairs, not 50 million.
    look, first, which = np.unique(
        np.concatenate([cells, np.rint(aspects * 1000).astype("<u4").view(np.uint8).reshape(-1, 4)], axis=1),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    same = _edges_of_equal(owner, which.reshape(-1).astype(np.uint64))
    close = [
        (owner[first[a]], owner[first[b]])
        for a, b in _close_pairs(look[:, : cells.shape[1]])
        if abs(np.log(aspects[first[a]] / aspects[first[b]])) <= _ASPECT_TOLERANCE
    ]
    return np.concatenate([same, np.array(close, dtype=np.int64).reshape(-1, 2)])


def _close_pairs(cells: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield every pair of thumbnails of which no cell differs by more than the tolerance.

    Candidates come from a tree over coarse averages: averages of cells that are each within the
    tolerance are within the tolerance too, so no pair is missed.
    """
    if len(cells) < 2:
        return
    from sklearn.neighbors import KDTree  # heavy: imported on use

    coarse = _coarse(cells)
    tree = KDTree(coarse, metric="chebyshev")
    wide = cells.astype(np.int16)
    for start in range(0, len(cells), _QUERY_ROWS):
        near = tree.query_radius(coarse[start : start + _QUERY_ROWS], CELL_TOLERANCE)
        for a, candidates in enumerate(near, start=start):
            later = candidates[candidates > a]
            if len(later):
                worst = np.abs(wide[later] - wide[a]).max(axis=1)
                yield from ((a, int(b)) for b in later[worst <= CELL_TOLERANCE])


def _coarse(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Average 4 x 4 blocks of brightness and 2 x 2 of each colour difference, ``[N, 24]``."""
    block = LUMA_CELLS // _COARSE
    luma = (
        cells[:, : LUMA_CELLS**2].reshape(-1, _COARSE, block, _COARSE, block).mean(axis=(2, 4)).reshape(len(cells), -1)
    )
    half = CHROMA_CELLS // 2
    chroma = cells[:, LUMA_CELLS**2 :].reshape(-1, 2, 2, half, 2, half).mean(axis=(3, 5)).reshape(len(cells), -1)
    averages: npt.NDArray[np.float64] = np.concatenate([luma, chroma], axis=1)
    return averages


def _edges_of_equal(owner: npt.NDArray[np.int64], value: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Link every owner to the first owner with the same value."""
    if not len(owner):
        return np.empty((0, 2), dtype=np.int64)
    _, first, which = np.unique(value, return_index=True, return_inverse=True)
    edges = np.stack([owner[first[which.reshape(-1)]], owner], axis=1)
    linked: npt.NDArray[np.int64] = edges[edges[:, 0] != edges[:, 1]]
    return linked


def _connected(num_items: int, edges: npt.NDArray[np.int64]) -> Groups:
    """Number the connected components in order of their first member."""
    # heavy: imported on use
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    links = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(num_items, num_items))
    _, labels = connected_components(links, directed=False)
    _, first, component = np.unique(labels, return_index=True, return_inverse=True)
    numbered: Groups = np.argsort(np.argsort(first))[component.reshape(-1)].astype(np.int64)
    return numbered


def largest_groups(groups: Groups, *, limit: int) -> list[list[int]]:
    """Return the item positions of the largest groups of at least two, largest first."""
    sizes = np.bincount(groups)
    order = np.argsort(-sizes, kind="stable")
    return [np.flatnonzero(groups == g).tolist() for g in islice(order, limit) if sizes[g] > 1]
