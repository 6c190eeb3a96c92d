"""Adapters as folders that vLLM reads, in memory where there is room, and the body of an upload."""

import atexit
import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from grpo_mmpc.utils.hashing import hex_digest

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
_FOLDER_PREFIX = "grpo_mmpc-adapters-"
_LENGTH_BYTES = 8


def pack(*, config: bytes, weights: bytes) -> bytes:
    """Return an upload's body: length of the config (8 bytes, little endian), config, weights."""
    return len(config).to_bytes(_LENGTH_BYTES, "little") + config + weights


def unpack(body: bytes) -> tuple[bytes, bytes]:
    """Return config and weights of an upload.

    Raises:
        ValueError: The body ends before the weights begin.
    """
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    config, weights = body[_LENGTH_BYTES:end], body[end:]
    if not weights:
        raise ValueError(f"the body ends after {len(body)} bytes, before any weights")
    return config, weights


def content_hash(body: bytes) -> str:
    """Return the hash of an upload in which its name ends."""
    return hex_digest(body, size=16)


def adapter_places() -> list[Path]:
    """Return where adapters may be written, the best first: memory, then the temporary folder."""
    memory = Path("/dev/shm")
    return [*([memory] if os.access(memory, os.W_OK) else []), Path(tempfile.gettempdir())]


def write_adapter(places: Sequence[Path], name: str, *, config: bytes, weights: bytes) -> Path:
    """Write an adapter into a new folder of the first place with room.

    Containers have 64 MB of /dev/shm.

    Raises:
        OSError: No place has; says how much each has, how much was needed, and what to do.
    """
    num_bytes = len(config) + len(weights)
    problems = []
    for place in places:
        free = shutil.disk_usage(place).free
        if free < num_bytes:
            problems.append(f"{place} has {free / 1e6:.1f} MB free")
            continue
        folder = place / name
        folder.mkdir(mode=0o700)
        try:
            (folder / "adapter_config.json").write_bytes(config)
            (folder / "adapter_model.safetensors").write_bytes(weights)
        except OSError as error:  # others write there too
            shutil.rmtree(folder, ignore_errors=True)
            problems.append(f"{place}: {error.strerror or error}")
        else:
            return folder
    raise OSError(
        errno.ENOSPC,
        f"no room for an adapter of {num_bytes / 1e6:.1f} MB ({'; '.join(problems)}); free some, enlarge /dev/shm "
        "(docker run --shm-size=8g), or let TMPDIR name a folder with more room",
    )


class AdapterStore:
    """Uploaded adapters as folders that only this user can read, gone with the process."""

    def __init__(self, places: Sequence[Path] | None = None) -> None:
        """Make a folder in every place, the best first, after removing what killed servers left."""
        self.folders: list[Path] = []
        self._locks: list[int] = []
        self._naming = threading.Lock()
        for place in places or adapter_places():
            for left in place.glob(f"{_FOLDER_PREFIX}*"):
                _remove_unless_held(left)
            folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=place))  # mode 0700
            # Held as long as the process lives, also across process namespaces that share /dev/shm,
            # unlike a process id.
            lock = _lock_of(folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.folders.append(folder)
            self._locks.append(lock)
        atexit.register(self.close)

    def names(self) -> list[str]:
        """Return the stored adapters, the oldest upload first."""
        paths = [path for folder in self.folders for path in folder.iterdir()]
        folders = [path for path in paths if path.is_dir() and _NAME.fullmatch(path.name)]
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns)]

    def num_bytes(self) -> int:
        """Return the size of all stored adapters."""
        paths = (path for name in self.names() if (folder := self._find(name)) for path in folder.iterdir())
        return sum(path.stat().st_size for path in paths)

    def put(self, name: str, *, config: bytes, weights: bytes) -> Path:
        """Write an adapter unless it is there; nobody sees it half written.

        The name stands for the content.

        Raises:
            ValueError: The name is not a plain file name.
            OSError: There is no room for it.
        """
        _check_name(name)
        there = self._find(name)
        if there is not None:
            return there
        draft = write_adapter(self.folders, f".draft-{secrets.token_hex(8)}", config=config, weights=weights)
        with self._naming:
            there = self._find(name)  # another upload of the same name came first
            if there is None:
                return draft.rename(draft.parent / name)
        shutil.rmtree(draft)
        return there

    def remove(self, name: str) -> bool:
        """Delete an adapter, and return whether there was one.

        Raises:
            ValueError: The name is not a plain file name.
        """
        _check_name(name)
        there = self._find(name)
        if there is not None:
            shutil.rmtree(there, ignore_errors=True)
        return there is not None

    def close(self) -> None:
        """Delete everything."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _find(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).is_dir()), None)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not an adapter name: up to 128 letters, digits, '.', '_', '-', the first not '.'"
        )


def _lock_of(folder: Path) -> int:
    return os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _remove_unless_held(folder: Path) -> None:
    try:
        lock = _lock_of(folder)
    except OSError:  # another user's, or just removed by another server
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
