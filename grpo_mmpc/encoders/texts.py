"""Keeps what an encoder made of texts: every distinct text is encoded once while it is held, in batches of like length."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from grpo_mmpc.encoders.batching import length_batches
from grpo_mmpc.encoders.cache import EncodingCache
from grpo_mmpc.encoders.loading import num_bytes, scoring
from grpo_mmpc.encoders.store import StoredEncodings

if TYPE_CHECKING:
    import torch

V = TypeVar("V")


class TextEncodings(Generic[V]):
    """Encodings of texts by an encoder that the caller owns; any number of threads may ask.

    Args:
        device: Where ``forward`` computes.
        tokenize: Token ids of texts.
        forward: Tensors on the CPU of texts of like length, from their token ids; runs without
            gradients and autocast.
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
        forward: "Callable[[list[list[int]]], Iterable[torch.Tensor]]",
        finish: "Callable[[list[int], torch.Tensor], V]",
        max_bytes: int,
        max_kept_bytes: int,
        stored: StoredEncodings | None = None,
    ) -> None:
        self._device = device
        self._tokenize = tokenize
        self._forward = forward
        self._finish = finish
        self._stored = stored
        # Completions come and go; they must not push the references out.
        self._passing: EncodingCache[str, V] = EncodingCache(max_bytes=max_bytes)
        self._kept: EncodingCache[str, V] = EncodingCache(max_bytes=max_kept_bytes)
        # A tokenizer keeps padding and truncation in itself, so that two threads cannot use it at
        # once. Held for one batch at a time: a short call need not wait until a long one is
        # through.
        self._lock = threading.Lock()
        self.encoded_texts = 0
        """Texts that went through the model so far; the rest came from memory or disk."""

    def of(self, texts: Sequence[str], *, keep: bool = False) -> dict[str, V]:
        """Encodings by text.

        Args:
            texts: What to encode.
            keep: Whether these texts come back, and have a place of their own in memory and on
                disk.
        """
        found: dict[str, V] = {}
        missing = [text for text in dict.fromkeys(texts) if not self._find(text, found)]
        if not missing:
            return found
        with self._lock:
            ids = dict(zip(missing, self._tokenize(missing), strict=True))
        stored = self._stored if keep else None
        held = self._kept if keep else self._passing
        if stored is not None:
            rows = stored.read([_content(ids[text]) for text in missing])
            for text, row in zip(missing, rows, strict=True):
                if row is not None:
                    self._hold(text, ids[text], row, held, found)
            missing = [text for text in missing if text not in found]
        fresh: dict[bytes, torch.Tensor] = {}
        for positions in length_batches([len(ids[text]) for text in missing]):
            with self._lock:
                # Another thread may have encoded some of them while this one waited.
                batch = [missing[i] for i in positions if not self._find(missing[i], found)]
                # Held before the lock is let go: the thread that waits for it looks there first.
                for text, row in zip(batch, self._encode([ids[text] for text in batch]), strict=True):
                    self._hold(text, ids[text], row, held, found)
                    fresh[_content(ids[text])] = row
        if stored is not None:
            stored.write(fresh)
        return found

    def _find(self, text: str, found: dict[str, V]) -> bool:
        encoding = self._kept.get(text)
        encoding = self._passing.get(text) if encoding is None else encoding
        if encoding is not None:
            found[text] = encoding
        return encoding is not None

    def _hold(
        self, text: str, ids: list[int], row: "torch.Tensor", held: EncodingCache[str, V], found: dict[str, V]
    ) -> None:
        found[text] = self._finish(ids, row)
        held.put(text, found[text], num_bytes=num_bytes(row))

    def _encode(self, ids: list[list[int]]) -> "list[torch.Tensor]":
        if not ids:
            return []
        self.encoded_texts += len(ids)
        with scoring(self._device):
            # clone: a view would keep the rows of the whole batch alive after most of them were let
            # go
            return [row.clone() for row in self._forward(ids)]


def _content(ids: list[int]) -> bytes:
    return np.asarray(ids, dtype=np.int32).tobytes()
