"""Encodings of references and real images on disk, shared by all runs and processes of a user.

One SQLite file, ``encodings/encodings.sqlite`` in the toolkit's cache folder. It only ever saves
time: whatever goes wrong with it, encoders go on without. A value is found by what it was made
from, never by a path or a model's name.
"""

import json
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_mmpc.encoders.loading import shared
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cache import cache_folder
from grpo_mmpc.utils.hashing import digest, digest_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Row = NDArray[np.float32]

logger = logging.getLogger(__name__)

LIMIT_VARIABLE = "GRPO_MMPC_ENCODINGS_GB"
_DEFAULT_GB = 4.0
_KEYS_PER_QUERY = 500  # SQLite takes at least 999 parameters
_DAY_S = 24 * 3600
_VERSION = 2  # raised whenever an encoder computes the same encoding otherwise, if only in its last bits
_WAIT_S = 10.0


def encoding_store() -> "EncodingStore | None":
    """Return the store of this user; None if ``GRPO_MMPC_ENCODINGS_GB=0`` switches it off.

    Raises:
        ScoringError: The variable is not a number.
    """
    value = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(value) if value else _DEFAULT_GB
    except ValueError as error:
        raise ScoringError(
            f"{LIMIT_VARIABLE}={value!r} is not a number of gigabytes; 0 keeps nothing on disk"
        ) from error
    if limit <= 0:
        return None
    path = cache_folder("encodings") / "encodings.sqlite"
    return shared(EncodingStore, path=path, max_bytes=int(limit * 2**30))


def encoder_identity(model: Any, **options: Any) -> bytes:
    """Hash what the encodings of a model depend on: weights, options and versions of the code.

    About a second for each GB of weights.
    """
    import torch  # heavy: imported on use

    def parts() -> "Iterator[str | memoryview]":
        for name, tensor in sorted(model.state_dict().items()):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}"
            yield memoryview(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        versions = {package: version(package) for package in ("torch", "transformers", "pillow")}
        yield json.dumps({**options, "encoding": _VERSION, "versions": versions}, sort_keys=True)

    return digest_of(parts())


def stored_encodings(store: "EncodingStore | None", model: Any, **options: Any) -> "StoredEncodings | None":
    """Return the part of a store that belongs to a loaded model; see ``encoder_identity``."""
    return None if store is None else store.of(encoder_identity(model, **options))


class EncodingStore:
    """A file of encodings with a size limit, shared by threads and processes.

    Values carry checksums, because the file is written without waiting for the disk: after a power
    failure a damaged value is taken for absent, and a file that is no database any more is started
    anew.
    """

    def __init__(self, *, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._given_up = False

    def of(self, identity: bytes) -> "StoredEncodings":
        """Return the part of the store that belongs to one encoder."""
        return StoredEncodings(self, identity)

    def read(self, keys: Sequence[bytes]) -> "dict[bytes, Row]":
        """Return the encodings that are there, by key, each a flat vector."""
        values: dict[bytes, Row] = {}

        def run(connection: sqlite3.Connection) -> None:
            today = int(time.time() // _DAY_S)
            unused: list[bytes] = []
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    f"SELECT key, value, checksum, used_day FROM encodings WHERE key IN ({marks})", part
                )
                for key, value, checksum, used_day in rows:
                    if zlib.crc32(value) == checksum:
                        values[key] = np.frombuffer(value, dtype=np.float32)
                        if used_day != today:
                            unused.append(key)
            with connection:
                connection.executemany("UPDATE encodings SET used_day = ? WHERE key = ?", [(today, k) for k in unused])

        self._attempt(run)
        return values

    def write(self, values: "Mapping[bytes, Row]") -> None:
        """Keep encodings; drop the least recently used ones if the file exceeds its limit."""
        today = int(time.time() // _DAY_S)
        blobs = ((key, np.ascontiguousarray(value, dtype=np.float32).tobytes()) for key, value in values.items())

        def run(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO encodings VALUES (?, ?, ?, ?)",
                    [(key, blob, zlib.crc32(blob), today) for key, blob in blobs],
                )
                while self._used_bytes(connection) > self._max_bytes:
                    connection.execute(
                        "DELETE FROM encodings WHERE rowid IN (SELECT rowid FROM encodings ORDER BY used_day, rowid "
                        "LIMIT 1 + (SELECT count(*) FROM encodings) / 10)"
                    )

        self._attempt(run)

    def _used_bytes(self, connection: sqlite3.Connection) -> int:
        total, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        # An empty file still has its first pages, whatever the limit says.
        return (total - free) * size if connection.execute("SELECT 1 FROM encodings LIMIT 1").fetchone() else 0

    def _attempt(self, run: Any) -> None:
        """Run on the open file; never raises, and gives up on a file that cannot be used."""
        with self._lock:
            for is_last in (False, True):
                if self._given_up:
                    return
                try:
                    self._connection = self._connection or self._open()
                    run(self._connection)
                    return
                except (sqlite3.Error, OSError) as error:
                    is_damaged = not isinstance(error, sqlite3.OperationalError | OSError)
                    if self._connection is not None:
                        self._connection.close()
                        self._connection = None
                    if is_damaged and not is_last:
                        logger.warning("%s is damaged (%s) and is started anew", self._path, error)
                        self._remove()
                        continue
                    self._given_up = True
                    logger.warning("encodings are not kept on disk: %s: %s", self._path, error)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_WAIT_S, check_same_thread=False)
        try:
            # No write-ahead log: it needs shared memory, which network file systems do not give.
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = OFF")
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS encodings "
                    "(key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL, used_day INTEGER NOT NULL)"
                )
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _remove(self) -> None:
        for suffix in ("", "-journal"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)


class StoredEncodings:
    """Encodings of one encoder by their content: token ids, or the bytes of an image file."""

    def __init__(self, store: EncodingStore, identity: bytes) -> None:
        self._store = store
        self._identity = identity

    def read(self, contents: Sequence[bytes]) -> "list[torch.Tensor | None]":
        """Return a flat fp32 vector for each content; None for those that are not there."""
        import torch  # heavy: imported on use

        keys = [self._key(content) for content in contents]
        values = self._store.read(list(dict.fromkeys(keys))) if keys else {}
        # A copy, because torch warns of the read-only bytes of SQLite.
        return [torch.from_numpy(values[key].copy()) if key in values else None for key in keys]

    def write(self, encodings: "Mapping[bytes, torch.Tensor]") -> None:
        """Keep encodings by content."""
        if encodings:
            self._store.write({self._key(content): row.flatten().numpy() for content, row in encodings.items()})

    def _key(self, content: bytes) -> bytes:
        return digest(self._identity, content)
