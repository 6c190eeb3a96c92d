"""Group near-duplicate items: titles that differ in a word at most, similar images, one parent."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from string import ascii_lowercase, digits

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from grpo_mmpc.catalogue.normalise import title_key
from grpo_mmpc.catalogue.signatures import CHROMA_CELLS, LUMA_CELLS, Signatures, Thumbnails
from grpo_mmpc.utils.hashing import digest, number

LEAST_SHARED_WORDS = 9
"""Words that two titles share at least, of which one has one word more: nine tenths of all."""
LEAST_SHARED_OF_EXCHANGED = 18
"""Words that two titles share at least, of which each has a word of its own: nine tenths of all."""

CELL_TOLERANCE = 12
"""Largest difference of any thumbnail cell, of 256 levels, between two copies of one image.

Measured: JPEG of quality 30 to 90, WebP, half and double size, and combinations of them moved the
worst cell of 81 photos (198 x 198) by 5, and of 120 drawings with hard edges (84 x 84) by 6 to 8 in
95 % of cases. The two most similar of different photos lay 61 apart; of 3,600 drawn products that
differ in colour, pattern or one small mark, 27.
"""

_ASPECT_TOLERANCE = 0.05
_COARSE = 4
_BLOCK_ROWS = 4096
_TITLES_AT_ONCE = 2**16
_SPACED = np.array([byte if chr(byte) in ascii_lowercase + digits else ord(" ") for byte in range(256)], np.uint8)
"""What becomes of each byte of a title in small letters."""
_UNITS = r"\b([0-9]+)([a-z])"
_SPECIAL = r"[^\x00-\x7F]|[0-9][.,/][0-9]|[^a-z0-9.]\.[0-9]|^\.[0-9]|(^|[\s\x0b\x1c-\x1f(])-[.0-9]|[0-9] ?%|[0-9][\"']"
"""Titles whose numbers have parts, a sign or a mark as unit, and those that are not ASCII."""
_LOWER_BITS = 40

SEARCHED_EXACTLY = 10_000
"""Different thumbnails up to which every close pair is found; beyond it, random grids find them."""
_GRIDS, _GRID_LEVELS, _GRID_NEIGHBOURS = 16, 16.0, 8

Groups = npt.NDArray[np.int32]
_Hashes = npt.NDArray[np.uint64]
_Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def near_duplicate_groups(
    *,
    titles: Sequence[str | None],
    signatures: Signatures | None = None,
    parents: Sequence[str | None] | None = None,
) -> Groups:
    """Number the groups of N items 0, 1, ... in order of first appearance, ``[N]``.

    Two items share a group if a chain of items leads from one to the other in which neighbours have
    near-duplicate titles or perceptually equal images (``signatures``), or are variants of one
    product: the same one of ``parents``.

    Titles are near-duplicates with the same non-empty
    :func:`~grpo_mmpc.catalogue.normalise.title_key`, or if nine tenths of their distinct words, in
    any order, are the same and at most one word of each is not: one has a word more and they share
    :data:`LEAST_SHARED_WORDS`, or each has a word of its own and they share
    :data:`LEAST_SHARED_OF_EXCHANGED`. So short titles of one template ("Blue Mug 2 pack", "Blue Mug
    3 pack") stay apart: the word that differs is what is asked. A missing title, image or
    parent, and an image of one flat colour, say nothing and join nothing.
    """
    edges = [_title_edges(titles), _equal_text_edges(parents or [])]
    if signatures is not None:
        edges.append(_image_edges(signatures))
    return _connected(len(titles), np.concatenate(edges))


def _title_edges(titles: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """Link items with near-duplicate titles; pairs ``[E, 2]``.

    A set of words is the sum of its words' hashes, so a set without one of them is a subtraction,
    and two sets that differ in a word have one such sum in common: every pair is found, by sorting.
    """
    # 64-bit hashes instead of texts: 8 bytes a title and a word, whatever their length.
    vocabulary = _Vocabulary()
    owners, keys, counts, hashes = [], [], [], []
    for start in range(0, max(1, len(titles)), _TITLES_AT_ONCE):
        texts = _title_keys(titles[start : start + _TITLES_AT_ONCE])
        owner = np.flatnonzero(pc.not_equal(texts, ""))
        listed = pc.split_pattern(texts.take(pa.array(owner)), " ")
        coded = listed.flatten().dictionary_encode()
        word, length = coded.indices.to_numpy(), pc.list_value_length(listed).to_numpy()
        of_word = np.array([vocabulary[text] for text in coded.dictionary.to_pylist()], np.uint64)
        place = np.repeat(np.arange(len(owner)), length)
        owners.append(start + owner)
        keys.append(_sums(of_word[word] * _weights(length), length))  # words in their order
        pairs = np.sort(place << 32 | word)  # np.unique hashes numbers, far slower
        title, word = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], 2**32)
        counts.append(np.bincount(title, minlength=len(owner)))
        hashes.append(of_word[word])
    owned = np.concatenate(owners)
    same = _edges_of_equal(owned, np.concatenate(keys))
    return np.concatenate([same, _edges_of_similar(owned, np.concatenate(counts), np.concatenate(hashes))])


def _title_keys(titles: Sequence[str | None]) -> pa.StringArray:
    """Return the ``title_key`` of every title, by columns where titles are plain ASCII."""
    given = pa.array(titles, pa.string())
    lower = pc.ascii_lower(given)
    validity, ends, data = lower.buffers()
    spaced = pa.Array.from_buffers(  # a look at a table is faster than a pattern
        lower.type, len(lower), [validity, ends, pa.py_buffer(_SPACED[np.frombuffer(data or b"", np.uint8)])]
    )
    parts = pc.replace_substring_regex(spaced, _UNITS, r"\1 \2")
    plain = pc.binary_join(pc.ascii_split_whitespace(pc.ascii_trim_whitespace(parts)), " ")
    is_special = pc.fill_null(pc.match_substring_regex(lower, _SPECIAL), False)
    special = [title_key(title) for title in given.filter(is_special).to_pylist()]
    keys = pc.replace_with_mask(plain, is_special, pa.array(special, pa.string()))
    return pc.fill_null(keys, "")


def _sums(values: _Hashes, length: npt.NDArray[np.int64]) -> _Hashes:
    """Return the sum of each stretch of values, ``[N]`` for N lengths of at least 1."""
    return np.add.reduceat(values, np.cumsum(length) - length) if len(length) else values


def _weights(length: npt.NDArray[np.int64]) -> _Hashes:
    """Return an odd number for each place in each stretch: another one for each place."""
    place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    weights: _Hashes = np.array([number(f"place {one}") | 1 for one in range(length.max(initial=0))], np.uint64)[place]
    return weights


class _Vocabulary(dict[str, int]):
    """The hash of every word, computed once."""

    def __missing__(self, word: str) -> int:
        self[word] = value = number(word)
        return value


def _edges_of_similar(
    owner: npt.NDArray[np.int64], count: npt.NDArray[np.int64], flat: _Hashes
) -> npt.NDArray[np.int64]:
    """Link owners whose sets of words differ in a word at most.

    Args:
        owner: Of each set.
        count: The number of words of each, at least 1.
        flat: Their hashes, set after set.
    """
    if not len(owner):
        return np.empty((0, 2), dtype=np.int64)
    ends = np.cumsum(count)
    sums = _sums(flat, count)
    long = count >= LEAST_SHARED_WORDS
    whole = np.unique(sums[long])
    # Most rests are no title, which a look at their upper bits shows sooner than a search.
    may_be_whole = np.zeros(2 ** (64 - _LOWER_BITS), dtype=bool)
    may_be_whole[whole >> _LOWER_BITS] = True
    owners, values = [owner[long]], [sums[long]]
    for start in range(0, len(owner), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        first = ends[start] - count[start]
        size = np.repeat(count[block], count[block])
        without = np.repeat(sums[block], count[block]) - flat[first : first + len(size)]
        # Of shorter titles, what is left must be a title; of longer ones, two rests may meet.
        rest_is_title = may_be_whole[without >> _LOWER_BITS]
        some = without[rest_is_title]
        rest_is_title[rest_is_title] = whole[np.searchsorted(whole, some) % max(1, len(whole))] == some
        kept = (size > LEAST_SHARED_WORDS) & ((size > LEAST_SHARED_OF_EXCHANGED) | rest_is_title)
        owners.append(np.repeat(owner[block], count[block])[kept])
        values.append(without[kept])
    return _edges_of_equal(np.concatenate(owners), np.concatenate(values))


def _equal_text_edges(keys: Iterable[str | None]) -> npt.NDArray[np.int64]:
    named = [(index, number(key)) for index, key in enumerate(keys) if key]
    return _edges_of_equal(np.array([i for i, _ in named], np.int64), np.array([h for _, h in named], np.uint64))


def _image_edges(signatures: Signatures) -> npt.NDArray[np.int64]:
    """Link items with perceptually equal images; pairs ``[E, 2]``."""
    owner = np.flatnonzero(signatures.row >= 0)
    if not len(owner):
        return np.empty((0, 2), dtype=np.int64)
    files, first, file = np.unique(signatures.row[owner], return_index=True, return_inverse=True)
    cells, aspects = Thumbnails(signatures.files["thumbnail"]), signatures.files["aspect"].to_numpy()[files]
    varied, looks = np.empty(len(files), dtype=bool), bytearray()
    for block in _blocks(len(files)):
        some = cells[files[block]]
        varied[block] = _is_varied(some)
        for cell, aspect in zip(some, aspects[block], strict=True):
            looks += digest(cell.tobytes(), f"{aspect:.3f}", size=8)
    # Equal thumbnails first: ten thousand copies of one image make as many pairs, not 50 million.
    look = np.frombuffer(looks, dtype=np.uint64)
    shown = varied[file]
    same = _edges_of_equal(owner[shown], look[file[shown]])
    different = np.flatnonzero(varied)
    different = different[np.sort(np.unique(look[different], return_index=True)[1])]
    shape, owner = np.log(aspects[different]), owner[first[different]]
    close = [
        np.stack([owner[a], owner[b]], axis=1)[np.abs(shape[a] - shape[b]) <= _ASPECT_TOLERANCE]
        for a, b in _close_pairs(cells, files[different])
    ]
    return np.concatenate([same, *close])


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK_ROWS) for start in range(0, count, _BLOCK_ROWS))


def _is_varied(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return whether each image has several colours: a placeholder of one is no evidence."""
    luma, chroma = cells[:, : LUMA_CELLS**2], cells[:, LUMA_CELLS**2 :].reshape(len(cells), 2, -1)
    varied: npt.NDArray[np.bool_]
    varied = (np.ptp(luma, axis=1) > CELL_TOLERANCE) | (np.ptp(chroma, axis=2).max(axis=1) > CELL_TOLERANCE)
    return varied


def _close_pairs(cells: Thumbnails, rows: npt.NDArray[np.int64]) -> Iterator[_Pairs]:
    """Yield pairs of some rows' thumbnails of which no cell differs by more than the tolerance.

    Pairs are of places in ``rows``, a block at a time. Candidates come from coarse averages:
    averages of cells that are each within the tolerance are within the tolerance too.
    """
    if len(rows) < 2:
        return
    coarse = np.concatenate([_coarse(cells[rows[block]]) for block in _blocks(len(rows))])
    for a, b in _in_a_tree(coarse) if len(rows) <= SEARCHED_EXACTLY else _in_grids(coarse):
        for block in _blocks(len(a)):
            one, other = a[block], b[block]
            near = np.abs(coarse[one] - coarse[other]).max(axis=1) <= CELL_TOLERANCE
            one, other = one[near], other[near]
            first, second = cells[rows[one]], cells[rows[other]]
            near = (np.maximum(first, second) - np.minimum(first, second)).max(axis=1, initial=0) <= CELL_TOLERANCE
            yield one[near], other[near]


def _in_a_tree(coarse: npt.NDArray[np.float32]) -> Iterator[_Pairs]:
    """Yield every pair that may be close; the time grows with the square of the images."""
    from sklearn.neighbors import KDTree  # heavy: imported on use

    tree = KDTree(coarse, metric="chebyshev")
    for start in range(0, len(coarse), _BLOCK_ROWS):
        near = tree.query_radius(coarse[start : start + _BLOCK_ROWS], CELL_TOLERANCE)
        a = np.repeat(np.arange(start, start + len(near)), [len(candidates) for candidates in near])
        b = np.concatenate(near)
        yield a[b > a], b[b > a]


def _in_grids(coarse: npt.NDArray[np.float32]) -> Iterator[_Pairs]:
    """Yield pairs that share a cell of some randomly placed grid, in time linear in the images.

    Copies of one photo differ in their averages by a level or two, so most grids put them into one
    cell. In a crowded cell only the next few by their place along a random line are compared; the
    grid after it parts the images in another way.
    """
    chance = np.random.default_rng(0)
    for _ in range(_GRIDS):
        shift, factor = chance.random(coarse.shape[1]), chance.integers(2**63, size=coarse.shape[1], dtype=np.uint64)
        line = chance.standard_normal(coarse.shape[1])
        some = [coarse[block] for block in _blocks(len(coarse))]
        cells = ((np.floor(one / _GRID_LEVELS + shift).astype(np.uint64) * factor).sum(axis=1) for one in some)
        key, place = np.concatenate([*cells]), np.concatenate([one @ line for one in some])
        order = np.lexsort((place, key))
        for step in range(1, _GRID_NEIGHBOURS + 1):
            a, b = order[:-step], order[step:]
            together = key[a] == key[b]
            yield a[together], b[together]


def _coarse(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Average 4 x 4 blocks of brightness and 2 x 2 of each colour difference, ``[N, 24]``."""
    block = LUMA_CELLS // _COARSE
    luma = (
        cells[:, : LUMA_CELLS**2].reshape(-1, _COARSE, block, _COARSE, block).mean(axis=(2, 4)).reshape(len(cells), -1)
    )
    half = CHROMA_CELLS // 2
    chroma = cells[:, LUMA_CELLS**2 :].reshape(-1, 2, 2, half, 2, half).mean(axis=(3, 5)).reshape(len(cells), -1)
    return np.concatenate([luma, chroma], axis=1, dtype=np.float32)


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
    numbered: Groups = np.argsort(np.argsort(first))[component.reshape(-1)].astype(np.int32)
    return numbered


def largest_groups(groups: Groups, *, limit: int) -> list[list[int]]:
    """Return the item positions of the largest groups of at least two, largest first."""
    sizes = np.bincount(groups)
    order = np.argsort(-sizes, kind="stable")
    return [np.flatnonzero(groups == g).tolist() for g in islice(order, limit) if sizes[g] > 1]
