"""Cache the encodings of texts: each is encoded once while held, in batches of one padded length.

What a text is padded to depends on the text alone, so that its encoding is the same to the bit
whatever else is in its batch: which texts are still unknown depends on threads and on restarts, and
rewards that rounded with it would train another policy.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from grpo_mmpc.encoders.cache import EncodingCache
from grpo_mmpc.encoders.loading import num_bytes, scoring
from grpo_mmpc.encoders.store import StoredEncodings
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.single_out import Failure, single_out

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MAX_BATCH_ITEMS = 64
MAX_BATCH_TOKENS = 8192
_SHORTEST_STEP = 16

V = TypeVar("V")


class TextEncodings(Generic[V]):
    """Cached text encodings of an encoder that the caller owns; thread-safe.

    Args:
        device: Where ``forward`` computes.
        tokenize: Token ids of texts.
        forward: Tensors on the CPU of N texts, from token ids and attention mask [N, L] on
            ``device``; L is 0 for texts without tokens. Runs without gradients and autocast.
        padding: The token id that texts are padded with; None takes 0.
        limit: The most tokens of a text that the model takes.
        finish: The encoding, from token ids and a tensor, which may have lost its shape on disk.
        max_bytes: Memory for texts that pass by, such as completions.
        max_kept_bytes: Memory for texts that come back, such as references.
        stored: Where those that come back are kept on disk as well.
    """

    def __init__(
        self,
        *,
        device: str,
        tokenize: Callable[[list[str]], list[list[int]]],
        forward: "Callable[[torch.Tensor, torch.Tensor], Iterable[torch.Tensor]]",
        padding: int | None,
        limit: int,
        finish: "Callable[[list[int], torch.Tensor], V]",
        max_bytes: int,
        max_kept_bytes: int,
        stored: StoredEncodings | None = None,
    ) -> None:
        self._device = device
        self._tokenize = tokenize
        self._forward = forward
        self._padding = padding or 0
        self._limit = limit
        self._finish = finish
        self._stored = stored
        # Completions come and go; they must not push the references out.
        self._passing: EncodingCache[str, V] = EncodingCache(max_bytes=max_bytes)
        self._kept: EncodingCache[str, V] = EncodingCache(max_bytes=max_kept_bytes)
        # A tokenizer keeps padding and truncation in itself, so that two threads cannot use it at
        # once. Held for one batch at a time, so that a short call need not wait for a long one.
        self._lock = threading.Lock()
        self.encoded_texts = 0
        """Texts that went through the model so far; the rest came from memory or disk."""

    def of(self, texts: Sequence[str], *, keep: bool = False) -> dict[str, V]:
        """Return the encodings by text, without texts that cannot be read (one log line each).

        With ``keep`` they get a place of their own in memory and on disk, for texts that come back.
        """
        encodings: dict[str, V] = {}
        missing = [text for text in dict.fromkeys(texts) if not self._find(text, encodings)]
        if not missing:
            return encodings
        with self._lock:
            ids = self._token_ids(missing)
        missing = list(ids)
        stored = self._stored if keep else None
        held = self._kept if keep else self._passing
        if stored is not None:
            rows = stored.read([_content(ids[text]) for text in missing])
            for text, row in zip(missing, rows, strict=True):
                if row is not None:
                    self._hold(text, ids[text], row, held, encodings)
            missing = [text for text in missing if text not in encodings]
        fresh: dict[bytes, torch.Tensor] = {}
        for length, positions in length_batches([len(ids[text]) for text in missing], limit=self._limit):
            with self._lock:
                # Another thread may have encoded some of them while this one waited.
                batch = [missing[i] for i in positions if not self._find(missing[i], encodings)]
                # Held before the lock is let go: the thread that waits for it looks there first.
                for text, row in zip(batch, self._encode([ids[text] for text in batch], length), strict=True):
                    self._hold(text, ids[text], row, held, encodings)
                    fresh[_content(ids[text])] = row
        if stored is not None:
            stored.write(fresh)
        return encodings

    def reads(self, texts: Sequence[str], tokenizer: Any) -> list[bool]:
        """Return whether at least half of each text's tokens are known; others are all alike."""
        unknown = tokenizer.unk_token_id
        if unknown is None:
            return [True] * len(texts)
        distinct, special = list(dict.fromkeys(texts)), {*tokenizer.all_special_ids} - {unknown}
        with self._lock:
            ids = self._token_ids(distinct)
        content = {text: [token for token in row if token not in special] for text, row in ids.items()}
        return [2 * content.get(text, []).count(unknown) <= len(content.get(text, [])) for text in texts]

    def _token_ids(self, texts: list[str]) -> dict[str, list[int]]:
        rows = single_out(
            self._tokenize,
            texts,
            batch_size=lambda: len(texts),
            what="the tokenizer",
            memory_advice="Shorten the text",
            error=ScoringError,
            num_distinct=len(texts),
        )
        for text, row in zip(texts, rows, strict=True):
            if isinstance(row, Failure):
                logger.warning("a text leaves an item unscored: %r: %s", text[:80], row.reason)
        return {text: row for text, row in zip(texts, rows, strict=True) if not isinstance(row, Failure)}

    def _find(self, text: str, encodings: dict[str, V]) -> bool:
        encoding = self._kept.get(text)
        encoding = self._passing.get(text) if encoding is None else encoding
        if encoding is not None:
            encodings[text] = encoding
        return encoding is not None

    def _hold(
        self, text: str, ids: list[int], row: "torch.Tensor", held: EncodingCache[str, V], encodings: dict[str, V]
    ) -> None:
        encodings[text] = self._finish(ids, row)
        held.put(text, encodings[text], num_bytes=num_bytes(row))

    def _encode(self, rows: list[list[int]], length: int) -> "list[torch.Tensor]":
        import torch  # heavy: imported on use

        if not rows:
            return []
        self.encoded_texts += len(rows)
        ids = torch.full((len(rows), length), self._padding)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with scoring(self._device):
            # clone: a view would keep the rows of the whole batch alive
            return [row.clone() for row in self._forward(ids.to(self._device), mask.to(self._device))]


def _content(ids: list[int]) -> bytes:
    return np.asarray(ids, dtype=np.int32).tobytes()


def length_batches(lengths: Sequence[int], *, limit: int) -> list[tuple[int, list[int]]]:
    """Return batches, longest first: what their items are padded to, and their positions.

    A batch holds at most 64 items and 8192 tokens with padding; an item that exceeds that alone is
    a batch of its own.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for position, length in enumerate(lengths):
        by_length[padded_length(length, limit=limit)].append(position)
    batches = []
    for length, positions in sorted(by_length.items(), reverse=True):
        size = min(MAX_BATCH_ITEMS, max(1, MAX_BATCH_TOKENS // max(1, length)))
        batches += [(length, positions[start : start + size]) for start in range(0, len(positions), size)]
    return batches


def padded_length(length: int, *, limit: int) -> int:
    """Return the next multiple of 16, or of an eighth to a quarter of a longer length.

    It is never above ``limit``, the most that a model takes, unless ``length`` is.
    """
    step = max(_SHORTEST_STEP, (1 << length.bit_length()) // 8)
    return min(-(-length // step) * step, max(length, limit))
