"""Faults of disks and permissions in words, and outputs that are tried before any work."""

import errno
import tempfile
from pathlib import Path

from grpo_mmpc.utils.files import remove_left

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space on it",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission; change it, or choose another path",
    errno.EPERM: "no permission; change it, or choose another path",
    errno.ENOTDIR: "a file stands where a folder is expected; move it, or choose another path",
    errno.EISDIR: "a folder stands where a file is expected; move it, or choose another path",
    errno.EEXIST: "something stands there already; move it, or choose another path",
    errno.ENOENT: "it does not exist; correct the path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENOMEM: "memory is used up; process less at once",
}
WRONG_PLACE = (errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG)
"""Faults after which the same command would fail again."""
_FULL_DISK = "No space left on device"


def explain_os_error(error: OSError) -> str:
    """Return path, reason and what to do; the error's own text where it is not the system's."""
    if error.errno is None:
        return str(error)
    paths = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    reason = _REMEDIES.get(error.errno, error.strerror or str(error))
    return f"{paths}: {reason}" if paths else reason


def full_disk(error: BaseException) -> bool:
    """Return whether an error of any library, or its cause, says that a disk is full."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) == errno.ENOSPC or _FULL_DISK in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def try_folder(folder: Path) -> None:
    """Try to write where a folder is or will be, and leave no trace.

    Raises:
        OSError: It cannot be written, or a file stands in its way.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(place))
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(place)) from error


def try_file(file: Path) -> None:
    """Try to write where a file is or will be, and leave no trace, also none of killed writers.

    Raises:
        OSError: It cannot be written, or something else than a file stands in its way.
    """
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(file))
    if file.exists() and not file.is_file():  # a device or a pipe, whose place the file would take
        raise FileExistsError(errno.EEXIST, "File exists", str(file))
    try_folder(file.parent)
    remove_left(file)
