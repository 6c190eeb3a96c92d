"""The ranks of held-out items among all items a user has not seen.

Metrics look at the first 50 places only, so a target that 50 unseen items beat needs no more
looking. Items are taken in chunks, and a user whose targets are all out of reach is left out of the
next chunk: what remains to be computed is a fraction of the product of all users with all items,
and its result is that of the whole product.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.recommenders.recommender import Embeddings
from grpo_mmpc.recbench.records import Pairs

# With a chunk of 1024 items, 4 MB of scores: they stay in the cache of a CPU while they are
# compared.
_BLOCK_USERS = 1024
_PROBE_ITEMS = 512
_TILE = 64


class FullSort:
    """A ranker of the targets of a part of a split: prepared once, used after every epoch.

    Equal scores are ordered by a random order of the items, sampled once from the seed: neither the
    catalogue's order nor the target's being the target counts. A target that is itself among the
    seen pairs is beyond every rank. So are all but the first of a pair that is held out several
    times (paper mode keeps such): one place is one hit, though each counts as a target.
    """

    def __init__(
        self,
        *,
        targets: Pairs,
        seen: Sequence[Pairs],
        num_users: int,
        num_items: int,
        seed: int,
        max_rank: int = 50,
        chunk_items: int = 1024,
    ) -> None:
        """Index who has seen what.

        Args:
            targets: Held-out pairs, T of them.
            seen: Pairs that are not ranked, such as training and, for the test part, validation.
            num_users: U.
            num_items: I.
            seed: Of the order of tied items.
            max_rank: Ranks beyond it are not told apart.
            chunk_items: Items that are scored at a time; no result depends on it.
        """
        self.users, counts = np.unique(targets.users, return_counts=True)
        self._shape = (num_users, num_items)
        self._max_rank = max_rank
        self._device = torch.device("cpu")
        # Users with most targets first: those that have a t-th target are then the first rows of
        # any block.
        by_count = np.argsort(-counts, kind="stable")
        row_of = np.full(num_users, -1)
        row_of[self.users[by_count]] = np.arange(len(by_count))
        order = np.random.default_rng(seed).permutation(num_items)
        place = np.empty(num_items, dtype=np.int64)
        place[order] = np.arange(num_items)
        self._row_users = torch.from_numpy(self.users[by_count])  # [V]
        self._row_counts = torch.from_numpy(counts[by_count])  # [V]
        self._row_starts = self._row_counts.cumsum(0) - self._row_counts  # [V], a row's first target
        self._order = torch.from_numpy(order)  # [I], place -> item
        self._place = torch.from_numpy(place)
        # Targets of a row side by side.
        self._by_row = torch.from_numpy(np.argsort(row_of[targets.users], kind="stable"))  # [T]
        self._target_rows = torch.from_numpy(row_of[targets.users])[self._by_row]
        self._target_places = self._place[torch.from_numpy(targets.items)[self._by_row]]
        rows, places = _rows_and_places(seen, row_of=row_of, place=place, num_items=num_items)
        keys = np.asarray(self._target_rows) * num_items + np.asarray(self._target_places)
        is_repeated = np.ones(len(targets), dtype=np.bool_)
        is_repeated[np.unique(targets.users * num_items + targets.items, return_index=True)[1]] = False
        is_seen = np.isin(keys, rows * num_items + places)
        self._hidden = torch.from_numpy(is_seen) | torch.from_numpy(is_repeated)[self._by_row]  # [T]
        # Seen pairs, chunk after chunk and by row inside a chunk.
        self._edges = [*range(0, num_items, chunk_items), num_items]
        sort = np.lexsort((rows, places // chunk_items))
        self._seen_rows, self._seen_places = torch.from_numpy(rows[sort]), torch.from_numpy(places[sort])
        self._seen_edges = np.searchsorted(places[sort] // chunk_items, np.arange(len(self._edges)))

    def ranks(self, embeddings: Embeddings) -> Tensor:
        """Rank each target among items its user has not seen; ``max_rank + 1`` is beyond.

        Args:
            embeddings: Vectors of all users ``[U, D]`` and all items ``[I, D]``, on one device;
                ranks are computed there.

        Returns:
            ``[T]`` int32 on the CPU, in the order of the targets.

        Raises:
            RecBenchError: The tables have another size than the split, or a score is not finite.
        """
        _check_embeddings(embeddings, shape=self._shape)
        with torch.no_grad():
            self._to(embeddings.users.device)
            users = embeddings.users.detach()[self._row_users]  # [V, D]
            items = embeddings.items.detach()[self._order]  # [I, D], by place
            better = self._count_better(users, items)
        ranks = torch.where(self._hidden, self._max_rank + 1, (better + 1).clamp_(max=self._max_rank + 1))
        in_order = torch.empty_like(ranks)
        in_order[self._by_row] = ranks
        return in_order.to(torch.int32).cpu()

    def _count_better(self, users: Tensor, items: Tensor) -> Tensor:
        """Count the unseen items before each target, ``[T]``, no further than ``max_rank``."""
        scores = _dots(users, items, rows=self._target_rows, columns=self._target_places)
        # For items that win a tie: equal is above what lies just below.
        below = torch.nextafter(scores, torch.full_like(scores, -torch.inf))
        alive = self._within_reach_of_the_best(users, items, scores)
        is_alive = torch.zeros(len(users), dtype=torch.bool, device=scores.device)
        is_alive[alive] = True
        better = torch.where(is_alive[self._target_rows] & ~self._hidden, 0, self._max_rank)
        for chunk, (start, end) in enumerate(pairwise(self._edges)):
            seen = slice(*self._seen_edges[chunk : chunk + 2])
            rows, columns = _renumbered(self._seen_rows[seen], self._seen_places[seen] - start, alive, len(users))
            for block, product in _blocks(users, items[start:end], alive, rows, columns):
                owners = alive[block]
                for t in range(int(self._row_counts[owners[0]])):
                    owners = owners[: int((self._row_counts[owners] > t).sum())]
                    target = self._row_starts[owners] + t
                    place = self._target_places[target]
                    part = product[: len(owners)]
                    bounds = torch.where(place >= end, below[target], scores[target])
                    better[target] += _count_above(part, bounds)
                    inside = torch.nonzero((place >= start) & (place < end) & ~self._hidden[target]).squeeze(1)
                    if len(inside):
                        # Again for the chunk that has the target itself, whose score is read there:
                        # a product of another shape may round it differently.
                        better[target[inside]] -= _count_above(part[inside], scores[target[inside]])
                        better[target[inside]] += _count_before(part[inside], place[inside] - start)
            alive = self._within_reach(alive, better)
            if not len(alive):
                break
        return better

    def _within_reach_of_the_best(self, users: Tensor, items: Tensor, scores: Tensor) -> Tensor:
        """Return rows with a target in reach, by the items that an average user likes best."""
        best = torch.topk(items @ users.mean(dim=0), min(_PROBE_ITEMS, len(items))).indices
        columns = torch.full((len(items),), -1, device=items.device)
        columns[best] = torch.arange(len(best), device=items.device)
        everyone = torch.arange(len(users), device=users.device)
        is_probed = columns[self._seen_places] >= 0
        rows, order = torch.sort(self._seen_rows[is_probed])
        columns = columns[self._seen_places[is_probed]][order]
        highest = scores.new_full((len(users),), -torch.inf)
        highest.scatter_reduce_(0, self._target_rows[~self._hidden], scores[~self._hidden], "amax")
        kept = []
        for block, product in _blocks(users, items[best], everyone, rows, columns):
            # Strictly more than max_rank, for the target may be one of them if its score is rounded
            # differently.
            kept.append(_count_above(product, highest[block]) <= self._max_rank)
        return everyone[torch.cat(kept) & (highest > -torch.inf)]

    def _within_reach(self, alive: Tensor, better: Tensor) -> Tensor:
        """Return rows with a target that fewer than ``max_rank`` items beat so far."""
        is_open = torch.zeros(len(self._row_users), dtype=torch.bool, device=better.device)
        is_open[self._target_rows[better < self._max_rank]] = True
        return alive[is_open[alive]]

    def _to(self, device: torch.device) -> None:
        if device == self._device:
            return
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        self._device = device


def _check_embeddings(embeddings: Embeddings, *, shape: tuple[int, int]) -> None:
    """Refuse NaN, which compares as below everything or sorts as above: it must decide no rank."""
    for what, table, size in zip(("user", "item"), embeddings, shape, strict=True):
        if len(table) != size:
            raise RecBenchError(f"{len(table)} {what} embeddings for {size} {what}s of the split")
        # The sum of a row with NaN or infinity is one of these.
        broken = torch.nonzero(~torch.isfinite(table.sum(dim=1))).squeeze(1)
        if len(broken):
            raise RecBenchError(
                f"the embeddings of {len(broken)} of {size} {what}s are not finite (first: {what} {int(broken[0])}), "
                "so they cannot be ranked; look for NaN in features and for a learning rate that is too high"
            )
    norms = [_longest(table.detach()) for table in embeddings]
    if norms[0] * norms[1] >= torch.finfo(embeddings.users.dtype).max:
        raise RecBenchError(
            f"scores may overflow: the longest user and item embeddings have norms {norms[0]:.3g} and {norms[1]:.3g}"
        )


def _longest(table: Tensor) -> float:
    """Return the largest norm of a row, in fp64: fp32 squares overflow before scores do.

    Some rows at a time, because PyTorch makes an fp64 copy of what it is given.
    """
    parts = (table[start : start + _BLOCK_USERS] for start in range(0, len(table), _BLOCK_USERS))
    norms = [torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).max() for rows in parts]
    return float(torch.stack(norms).max())


def _rows_and_places(
    seen: Sequence[Pairs], *, row_of: NDArray[np.int64], place: NDArray[np.int64], num_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and places of seen pairs, each once, of users that have targets."""
    rows = np.concatenate([row_of[pairs.users] for pairs in seen] or [np.empty(0, dtype=np.int64)])
    places = np.concatenate([place[pairs.items] for pairs in seen] or [np.empty(0, dtype=np.int64)])
    keys = np.unique((rows * num_items + places)[rows >= 0])
    return keys // num_items, keys % num_items


def _dots(users: Tensor, items: Tensor, *, rows: Tensor, columns: Tensor) -> Tensor:
    """Score T pairs as diagonals of small products, which round as the large products do."""
    size = -len(rows) % _TILE
    tiles = (torch.nn.functional.pad(positions, (0, size)).view(-1, _TILE) for positions in (rows, columns))
    diagonals = [
        _product(users[of_users], items[of_items]).diagonal() for of_users, of_items in zip(*tiles, strict=True)
    ]
    return torch.cat(diagonals)[: len(rows)]


def _product(users: Tensor, items: Tensor) -> Tensor:
    """Return ``users @ items.T``, padded: for few rows a CPU has routines that round differently.

    Two items with the same embedding must have the same score wherever they come, or chance would
    break the tie.
    """
    missing = [max(0, _TILE - len(table)) for table in (users, items)]
    padded = [
        torch.nn.functional.pad(table, (0, 0, 0, size)) if size else table
        for table, size in zip((users, items), missing, strict=True)
    ]
    return (padded[0] @ padded[1].T)[: len(users), : len(items)]


def _renumbered(rows: Tensor, columns: Tensor, alive: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return seen pairs of the rows that are left, a row by its position among these."""
    position = torch.full((num_rows,), -1, device=rows.device)
    position[alive] = torch.arange(len(alive), device=rows.device)
    rows = position[rows]
    return rows[rows >= 0], columns[rows >= 0]


def _blocks(
    users: Tensor, items: Tensor, alive: Tensor, seen_rows: Tensor, seen_columns: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Score the rows that are left, block by block, -inf where seen."""
    starts = range(0, len(alive), _BLOCK_USERS)
    edges = torch.searchsorted(seen_rows, torch.tensor([*starts, len(alive)], device=seen_rows.device)).tolist()
    for start, first, last in zip(starts, edges, edges[1:], strict=False):
        block = slice(start, start + _BLOCK_USERS)
        product = _product(users[alive[block]], items)
        product[seen_rows[first:last] - start, seen_columns[first:last]] = -torch.inf
        yield block, product


def _count_above(scores: Tensor, bounds: Tensor) -> Tensor:
    """Count how many of a row's scores exceed its bound, ``[R]``."""
    return (scores > bounds.unsqueeze(1)).sum(dim=1, dtype=torch.int32)  # int32 is five times as fast as the default


def _count_before(scores: Tensor, columns: Tensor) -> Tensor:
    """Count a row's scores before that of its column: higher, or equal and to the left, ``[R]``."""
    own = scores.gather(1, columns.unsqueeze(1))
    is_left = torch.arange(scores.shape[1], device=scores.device) < columns.unsqueeze(1)
    return ((scores > own) | ((scores == own) & is_left)).sum(dim=1, dtype=torch.int32)
