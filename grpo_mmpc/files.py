"""Files and folders that a reader finds whole or not at all, whenever the writer is killed."""

import shutil
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file as UTF-8, replacing what is there in one step."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, replacing what is there."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
