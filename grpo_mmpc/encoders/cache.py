"""A least-recently-used store of encodings that is bounded by memory, not by count."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class EncodingCache(Generic[K, V]):
    """The most recently used encodings up to a number of bytes; any number of threads may use it.

    Titles differ in length by two orders of magnitude, so a bound on entries would bound nothing.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return an encoding, which becomes the most recently used one; None if it is not held."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, *, num_bytes: int) -> None:
        """Hold an encoding, drop the oldest until all fit; one too large alone is not held."""
        with self._lock:
            _, replaced = self._entries.pop(key, (None, 0))
            self.num_bytes -= replaced
            if num_bytes > self.max_bytes:
                return
            self._entries[key] = (value, num_bytes)
            self.num_bytes += num_bytes
            while self.num_bytes > self.max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self.num_bytes -= freed
