"""The cache of what can be rebuilt, so that folders of users and of datasets stay untouched."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from grpo_mmpc.utils.files import remove_left, replace_atomically

Value = TypeVar("Value")
_log = logging.getLogger(__name__)

_KEEP_S = 30 * 24 * 3600
"""Entries unused for this long are removed when a new one is written."""


def cache_folder(kind: str) -> Path:
    """Return ``$GRPO_MMPC_CACHE/<kind>``, by default ``~/.cache/grpo_mmpc/<kind>``, made if absent.

    Where that cannot be written (a read-only home), a temporary folder of this process takes its
    place.
    """
    wanted = os.environ.get("GRPO_MMPC_CACHE")
    root = Path(wanted).expanduser() if wanted else Path.home() / ".cache" / "grpo_mmpc"
    folder = root / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        folder = _temporary_root(str(root), str(e)) / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return folder if os.access(folder, os.W_OK) else _temporary_root(str(root), "no permission to write")


def remembered(
    entry: Path, make: Callable[[], Value], *, read: Callable[[Path], Value], write: Callable[[Path, Value], object]
) -> Value:
    """Return what an entry of the cache holds; where there is none, or a damaged one, make it anew.

    Args:
        entry: A file in a ``cache_folder`` that is named after all that the value depends on.
        make: Computes the value, which is then kept, as far as the disk lets it.
        read: Reads it from the entry.
        write: Writes it to a temporary file.
    """
    with suppress(OSError, ValueError, TypeError, LookupError, EOFError):  # not there, or damaged
        value = read(entry)
        mark_used(entry)
        return value
    value = make()
    try:
        drop_unused(entry.parent)
        remove_left(entry)
        with replace_atomically(entry) as temporary:
            write(temporary, value)
    except OSError as e:
        _log.warning("cannot write %s (%s); it will be computed again next time", entry, e)
    return value


def mark_used(entry: Path) -> None:
    """Keep an entry of the cache from ``drop_unused``."""
    with suppress(OSError):  # a cache shared with another user
        os.utime(entry)


def drop_unused(folder: Path) -> None:
    """Remove entries untouched for a month, so that edited catalogues do not pile up."""
    limit = time.time() - _KEEP_S
    for entry in folder.iterdir():
        try:
            if entry.stat().st_mtime >= limit:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        except OSError:  # another process removed it first, or it is not ours to remove
            continue


@cache
def _temporary_root(root: str, why: str) -> Path:
    _log.warning(
        "cannot use the cache folder %s (%s); using a temporary folder. Set GRPO_MMPC_CACHE to avoid this", root, why
    )
    return Path(tempfile.mkdtemp(prefix="grpo_mmpc_"))
