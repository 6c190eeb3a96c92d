"""Hashes that are the same in every process, on every machine and in every version of this package.

Names of files, seeds, splits and masks are made of them: what a function returns for given
arguments must never change. All but ``crc`` are BLAKE2b; ``size`` is the number of bytes.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Part = str | bytes | bytearray | memoryview
"""A piece of what is hashed; text counts as UTF-8."""


def digest(*parts: Part, size: int = 16) -> bytes:
    """Return the hash of all parts one after another; nothing marks where one ends."""
    return digest_of(parts, size=size)


def digest_of(parts: Iterable[Part], *, size: int = 16) -> bytes:
    """Return ``digest(*parts)`` without holding all parts in memory at once."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        # Texts with half a surrogate pair are legal in JSON and in file names.
        state.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
    return state.digest()


def hex_digest(*parts: Part, size: int = 16) -> str:
    """Return ``digest`` as ``2 * size`` hexadecimal digits."""
    return digest_of(parts, size=size).hex()


def json_digest(content: Any, *, size: int = 8) -> str:
    """Return the hash of JSON content in hexadecimal digits; the order of keys does not matter."""
    return hex_digest(json.dumps(content, sort_keys=True), size=size)


def file_digest(path: Path) -> str:
    """Return the hash of a file's content, 32 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def number(text: str) -> int:
    """Return a text's hash as a whole number in [0, 2^64)."""
    # As of ``digest``, whose calls would take longer than the hash.
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def seed(text: str) -> int:
    """Return a seed in [0, 2^31) for any random generator; similar texts share nothing."""
    return int.from_bytes(digest(text, size=4), "big") >> 1


def crc(text: str) -> int:
    """Return a text's CRC-32, the seed of resamples and of the order of examples."""
    return zlib.crc32(text.encode())


def in_share(text: str, *, share: float) -> bool:
    """Return whether a text is among this share of all texts: those of 0.1 are among those of 0.2.

    Put a salt and a zero byte before the text for an independent choice.
    """
    # Whole numbers are compared: the largest hash would round up to 1.0.
    return number(text) < int(share * 2**64)


def stable_order(ids: Sequence[str], *, salt: str) -> list[int]:
    """Return positions in the order of the ids' hashes, a shuffle that is stable for subsets."""
    import numpy as np  # heavy: imported on use

    keys = np.fromiter((number(f"{salt}\0{one}") for one in ids), np.uint64, count=len(ids))
    order: list[int] = np.argsort(keys, kind="stable").tolist()
    return order
