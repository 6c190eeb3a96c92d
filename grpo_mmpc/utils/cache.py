"""The cache of what can be rebuilt, so that folders of users and of datasets stay untouched."""

import logging
import os
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

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
