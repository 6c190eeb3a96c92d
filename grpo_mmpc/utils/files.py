"""Files and folders that a reader finds whole or not at all, whenever the writer is killed."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_atomically(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside the target; it becomes the target when the block succeeds, or is removed.

    Readers in other processes see the old file or the new one, never half of one; of several
    writers the last one wins.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file as UTF-8, replacing what is there in one step."""
    with replace_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, replacing what is there."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
