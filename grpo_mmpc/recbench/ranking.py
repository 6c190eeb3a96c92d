"""Ranks of held-out items among all items a user has not seen, and the metrics of these ranks.

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

Scores = dict[str, NDArray[np.float64]]


class FullSort:
    """Ranks the targets of a part of a split. Prepared once, used after every epoch.

    Equal scores are ordered by a random order of the items, drawn once from the seed: neither the
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

        Raises:
            RecBenchError: There is no target, or a pair names a user or an item beyond the split.
        """
        if not len(targets):
            raise RecBenchError("no held-out interaction to rank; the part of the split is empty")
        for pairs in (targets, *seen):
            _check_positions(pairs, num_users=num_users, num_items=num_items)
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
        """Rank of each target among the items its user has not seen, best 1; ``max_rank + 1`` is anything beyond.

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
        """How many unseen items come before each target, ``[T]``, at least ``max_rank`` where it is that or more."""
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
        """Rows some target of which may yet be ranked, after a look at the items that an average user likes best."""
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
        """Rows with a target that fewer than ``max_rank`` items beat so far."""
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


def user_scores(
    ranks: Tensor, *, target_users: NDArray[np.int64], cutoffs: Sequence[int] = (5, 10, 20, 50), max_rank: int = 50
) -> Scores:
    """Recall, NDCG, precision and MAP of every user that has a target, as the MMRec toolbox defines them.

    With n targets of a user and hits the targets ranked k or better: ``recall@k`` = hits / n;
    ``precision@k`` = hits / k; ``ndcg@k`` = sum over hits of 1 / log2(rank + 1), over the same sum
    for ranks 1 .. min(k, n); ``map@k`` = sum over hits of (hits up to its rank / its rank), over
    min(k, n). All are in [0, 1].

    Args:
        ranks: Of T targets, from 1; ranks of one user are distinct as far as they count.
        target_users: Whose target each is, ``[T]``.
        cutoffs: Values of k.
        max_rank: Of the ``FullSort`` that ranked.

    Returns:
        ``"recall@20"`` and so on -> ``[V]``, users ascending.

    Raises:
        ValueError: A cutoff is beyond ``max_rank``, where every miss would count as a hit.
    """
    if max(cutoffs) > max_rank:
        raise ValueError(
            f"cutoff {max(cutoffs)} is beyond max_rank {max_rank}: ranks beyond it are not told apart; rank with a larger one"
        )
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


def _check_positions(pairs: Pairs, *, num_users: int, num_items: int) -> None:
    for what, values, size in (("user", pairs.users, num_users), ("item", pairs.items, num_items)):
        wrong = values[(values < 0) | (values >= size)]
        if len(wrong):
            raise RecBenchError(f"interaction of {what} {wrong[0]}, but there are {size} {what}s (0 .. {size - 1})")


def _check_embeddings(embeddings: Embeddings, *, shape: tuple[int, int]) -> None:
    """A NaN compares as below everything, or sorts as above everything: neither may decide a rank."""
    for what, table, size in zip(("user", "item"), embeddings, shape, strict=True):
        if len(table) != size:
            raise RecBenchError(f"{len(table)} {what} embeddings for {size} {what}s of the split")
        # The sum of a row with NaN or infinity is one of these.
        broken = torch.nonzero(~torch.isfinite(table.sum(dim=1))).squeeze(1)
        if len(broken):
            raise RecBenchError(
                f"the embeddings of {len(broken)} of {size} {what}s are not finite (first: {what} {int(broken[0])}), so they "
                "cannot be ranked; look for NaN in features and for a learning rate that is too high"
            )
    norms = [_longest(table.detach()) for table in embeddings]
    if norms[0] * norms[1] >= torch.finfo(embeddings.users.dtype).max:
        raise RecBenchError(
            f"scores may overflow: the longest user and item embeddings have norms {norms[0]:.3g} and {norms[1]:.3g}"
        )


def _longest(table: Tensor) -> float:
    """Largest norm of a row, in fp64: in fp32 squares could over- or underflow where scores do not.

    Some rows at a time, because PyTorch makes an fp64 copy of what it is given.
    """
    parts = (table[start : start + _BLOCK_USERS] for start in range(0, len(table), _BLOCK_USERS))
    norms = [torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).max() for rows in parts]
    return float(torch.stack(norms).max())


def _rows_and_places(
    seen: Sequence[Pairs], *, row_of: NDArray[np.int64], place: NDArray[np.int64], num_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and places of seen pairs, each once, of users that have targets."""
    rows = np.concatenate([row_of[pairs.users] for pairs in seen] or [np.empty(0, dtype=np.int64)])
    places = np.concatenate([place[pairs.items] for pairs in seen] or [np.empty(0, dtype=np.int64)])
    keys = np.unique((rows * num_items + places)[rows >= 0])
    return keys // num_items, keys % num_items


def _dots(users: Tensor, items: Tensor, *, rows: Tensor, columns: Tensor) -> Tensor:
    """Scores of T pairs, as the diagonals of small products: a matrix product rounds as the large ones do, a sum does not."""
    size = -len(rows) % _TILE
    tiles = (torch.nn.functional.pad(positions, (0, size)).view(-1, _TILE) for positions in (rows, columns))
    diagonals = [
        _product(users[of_users], items[of_items]).diagonal() for of_users, of_items in zip(*tiles, strict=True)
    ]
    return torch.cat(diagonals)[: len(rows)]


def _product(users: Tensor, items: Tensor) -> Tensor:
    """``users @ items.T``, never of a few rows or columns: for those a CPU has other routines, which round differently.

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
    """Seen pairs of the rows that are left, a row given by its position among these."""
    position = torch.full((num_rows,), -1, device=rows.device)
    position[alive] = torch.arange(len(alive), device=rows.device)
    rows = position[rows]
    return rows[rows >= 0], columns[rows >= 0]


def _blocks(
    users: Tensor, items: Tensor, alive: Tensor, seen_rows: Tensor, seen_columns: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Scores of the rows that are left, block by block, -inf where seen. ``seen_rows`` are positions in ``alive``, ascending."""
    starts = range(0, len(alive), _BLOCK_USERS)
    edges = torch.searchsorted(seen_rows, torch.tensor([*starts, len(alive)], device=seen_rows.device)).tolist()
    for start, first, last in zip(starts, edges, edges[1:], strict=False):
        block = slice(start, start + _BLOCK_USERS)
        product = _product(users[alive[block]], items)
        product[seen_rows[first:last] - start, seen_columns[first:last]] = -torch.inf
        yield block, product


def _count_above(scores: Tensor, bounds: Tensor) -> Tensor:
    """How many of a row's scores exceed its bound, ``[R]``."""
    return (scores > bounds.unsqueeze(1)).sum(dim=1, dtype=torch.int32)  # int32 is five times as fast as the default


def _count_before(scores: Tensor, columns: Tensor) -> Tensor:
    """How many of a row's scores come before the one in its column: higher, or equal and further left, ``[R]``."""
    own = scores.gather(1, columns.unsqueeze(1))
    is_left = torch.arange(scores.shape[1], device=scores.device) < columns.unsqueeze(1)
    return ((scores > own) | ((scores == own) & is_left)).sum(dim=1, dtype=torch.int32)
