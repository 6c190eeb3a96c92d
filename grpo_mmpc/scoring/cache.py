"""A least-recently-used store of encodings that is bounded by memory, not by count."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from grpo_mmpc.scoring.loading import num_bytes, scoring

if TYPE_CHECKING:
    import torch

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class EncodingCache(Generic[K, V]):
    """Keeps the most recently used encodings up to a number of bytes.

    Titles differ in length by two orders of magnitude, so a bound on entries would bound nothing.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The encoding, now the most recently used one; None if it is not held."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, *, num_bytes: int) -> None:
        """Hold an encoding, and let go of the oldest ones until all fit. One that is too large alone is not held."""
        _, replaced = self._entries.pop(key, (None, 0))
        self.num_bytes -= replaced
        if num_bytes > self.max_bytes:
            return
        self._entries[key] = (value, num_bytes)
        self.num_bytes += num_bytes
        while self.num_bytes > self.max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.num_bytes -= freed


def encode_missing(
    keys: Sequence[K],
    *,
    held: "EncodingCache[K, torch.Tensor]",
    encode: "Callable[[Sequence[K]], dict[K, torch.Tensor]]",
    device: str,
    batch_size: int = 64,
) -> "dict[K, torch.Tensor]":
    """Encodings by key; what is not held is encoded in batches, each distinct key once, and held from then on.

    Args:
        keys: What to encode.
        held: The store.
        encode: Encodings of a batch of keys, without those that cannot be encoded; runs without gradients and autocast.
        device: Where ``encode`` computes.
        batch_size: Most keys of one call of ``encode``.
    """
    found: dict[K, torch.Tensor] = {}
    missing: list[K] = []
    for key in dict.fromkeys(keys):
        encoding = held.get(key)
        if encoding is None:
            missing.append(key)
        else:
            found[key] = encoding
    for start in range(0, len(missing), batch_size):
        with scoring(device):
            encoded = encode(missing[start : start + batch_size])
        for key, encoding in encoded.items():
            found[key] = encoding
            held.put(key, encoding, num_bytes=num_bytes(encoding))
    return found
