"""A lock on a folder: one process at a time, whichever way the one before it ended."""

import fcntl
import logging
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from grpo_mmpc.utils.files import check_own, read_own

logger = logging.getLogger(__name__)
_HOLDER = re.compile(r"process (?P<pid>\d{1,9}) on (?P<machine>.*)\n")


@contextmanager
def hold(lock: Path, *, refuse: Callable[[str], Exception] | None) -> Iterator[str]:
    """Hold a lock file for the duration of a block, or until this process ends.

    Yields the words of the process before, if that ended without leaving the block; nobody holds an
    empty file. ``refuse`` makes the exception for a lock that another process holds, from its
    words; None waits for it.

    Raises:
        Exception: The one of ``refuse``.
        OSError: The lock cannot be written; see ``check_own``.
    """
    check_own(lock)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refuse else 0))
        except BlockingIOError:
            assert refuse is not None
            file.seek(0)
            raise refuse(file.read().strip() or "an unknown process") from None
        except OSError as error:  # some network disks have no locks
            logger.warning("%s: this disk has no locks (%s); start only one command on this folder", lock, error)
        file.seek(0)
        left = file.read().strip()
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield left
        finally:
            file.truncate(0)


class Holder(NamedTuple):
    """The process whose words a lock file holds: it holds the lock, or was killed while it did."""

    pid: int
    machine: str

    @property
    def is_alive(self) -> bool | None:
        """Whether it lives; None where that cannot be seen from this machine."""
        if self.machine != platform.node():
            return None
        try:
            with suppress(PermissionError):  # another user's
                os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


def holder(lock: Path) -> Holder | None:
    """Return who holds a lock, without touching it; None where the last one ended in order."""
    try:
        words = _HOLDER.fullmatch(read_own(lock).decode(errors="replace"))
    except OSError:
        return None
    return None if words is None else Holder(int(words["pid"]), words["machine"])


def in_use(
    folder: Path, error: Callable[[str], Exception], *, command: str, instead: str = "give another folder"
) -> Callable[[str], Exception]:
    """Return what ``hold`` refuses an output folder with, in words for any command."""
    return lambda owner: error(f"{folder} is in use by another {command} ({owner}); wait for it, stop it, or {instead}")
