"""Atomic writes of files and folders, JSON, and JSON lines that survive a killed writer."""

import fcntl
import glob
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from grpo_mmpc.utils.json_blocks import plain_objects

PARQUET, GZIP, ZSTD = b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
"""How such files begin, whatever their names end with."""
_NO_TEXT = {
    PARQUET: "a Parquet file",
    b"PK\x03\x04": "a ZIP archive or an Excel file",
    GZIP: "packed by gzip",
    ZSTD: "packed by zstd",
}
"""How files begin that are not lines of text."""

Default = Callable[[Any], Any]
"""Makes a value that JSON does not know into one that it does, for ``json.dumps``."""


@contextmanager
def replace_atomically(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside the target that becomes the target when the block succeeds.

    Readers in other processes see the old file or the new one, never half of one; of several
    writers the last one wins.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        # A write knows no path, and that of the temporary file says nothing to anybody.
        if error.errno is not None and str(error.filename) in ("None", str(temporary)):
            error.filename = str(target)
        raise
    finally:
        with suppress(OSError):  # a read-only disk refuses even what is not there
            temporary.unlink()


@contextmanager
def build_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside the target that becomes the target when the block succeeds.

    Folders that killed writers of the same target have left there are removed.

    Raises:
        OSError: The target has come to hold something; another process may have been faster.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    with ExitStack() as stack:
        with _locked(target.parent, fcntl.LOCK_EX):  # so that nobody takes a folder for left before it is locked
            for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
                with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(left)
            temporary.mkdir()
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            stack.enter_context(_locked(temporary, fcntl.LOCK_EX))
        yield temporary
        temporary.replace(target)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Lock a folder for the duration of a block, or until this process ends.

    Raises:
        OSError: ``how`` does not wait, and another process holds it or the disk has no locks.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        with nullcontext() if how & fcntl.LOCK_NB else suppress(OSError):
            fcntl.flock(opened, how)
        yield
    finally:
        os.close(opened)


def remove_partial(folder: Path, *, besides: Sequence[Path] = ()) -> None:
    """Remove what killed writers of this module have left anywhere below a folder.

    Args:
        folder: The folder.
        besides: Folders below it where others may be writing.
    """
    for path in list(folder.rglob(".*.partial")):
        if any(path.is_relative_to(one) for one in besides):
            continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def names_in(folder: Path) -> set[str]:
    """Return the names of what a folder holds, if it is there, besides what killed writers left."""
    return {path.name for path in folder.iterdir() if not path.match(".*.partial")} if folder.is_dir() else set()


def remove_left(target: Path) -> None:
    """Remove what writers of one file that were killed on this machine have left beside it."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.[0-9]*-*.partial"):
        try:
            os.kill(int(path.suffixes[-2][1:].partition("-")[0]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:  # lives, and is another user's
            continue


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, replacing what is there."""
    temporary = _beside(target)
    try:
        shutil.copytree(source, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def place_file(source: Path, target: Path) -> None:
    """Make the target the same file as the source: linked where the disk allows it, else copied.

    A target that is that file already, or its copy, is kept; any other one is replaced in one step.
    """
    theirs = source.stat()
    with suppress(FileNotFoundError):
        ours = target.lstat()
        same = (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
        if same or (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns):
            return
    with replace_atomically(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, temporary)
            os.utime(temporary, ns=(theirs.st_atime_ns, theirs.st_mtime_ns))


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, replacing what is there in one step."""
    with replace_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(content: Any, *, indent: int | None = None, default: Default | None = None) -> str:
    """Return JSON that any reader takes: letters as they are, and no NaN.

    Raises:
        ValueError: A number is NaN or infinite; see ``without_nan``.
    """
    return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False, default=default)


def without_nan(value: Any) -> Any:
    """Return JSON content with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Any, *, indent: int | None = 1, default: Default | None = None) -> None:
    """Write a JSON file, replacing what is there in one step.

    Raises:
        ValueError: A number is NaN or infinite; see ``without_nan``.
    """
    write_text(path, to_json(content, indent=indent, default=default) + "\n")


class NotOwnError(OSError):
    """A file of somebody else's folder is not what it should be; it is whole, and stays."""


def read_own(path: Path, *, folder: Path | None = None) -> bytes:
    """Return the bytes of a file in a folder that may be somebody else's; see ``check_own``."""
    with open_own(path, folder=folder) as file:
        return file.read()


def open_own(path: Path, *, folder: Path | None = None) -> BinaryIO:
    """Open a file in a folder that may be somebody else's, to be read; see ``check_own``."""
    check_own(path, folder=folder)
    return path.open("rb")


def check_own(path: Path, *, folder: Path | None = None) -> None:
    """Refuse what is no regular file of a folder; an absent one may be written.

    Args:
        path: The file.
        folder: Where it must lie, links followed; None is the folder that it is in.

    Raises:
        NotOwnError: It is a link out of the folder, whose reader may be shown, or whose writer may
            change, what is not his; or a device or a pipe, which may never end.
    """
    folder = path.parent if folder is None else folder
    check_inside(path, folder=folder)
    if path.exists() and not path.is_file():
        raise NotOwnError(f"{path.name} in {folder} is no regular file but a folder, pipe or device; put a file there")


def check_inside(path: Path, *, folder: Path) -> None:
    """Refuse a file or folder that links lead out of a folder, whether or not it is there.

    Raises:
        NotOwnError: Says where it leads.
    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise NotOwnError(f"{path.name} leads to {real}, which is no file of {folder}; copy there what belongs there")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; empty where there is none, or it was cut short.

    Raises:
        OSError: It cannot be read; see ``check_own``.
    """
    try:
        content = json.loads(read_own(path))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json_lines(
    path: Path, rows: Iterable[Mapping[str, Any]], *, default: Default | None = None, sync: bool = False
) -> None:
    """Write a file of one JSON object per line as the rows come; it appears when all are there.

    Args:
        path: The file.
        rows: Its objects.
        default: See ``Default``.
        sync: Wait until the disk has it, for a file that other machines look for.

    Raises:
        ValueError: A number is NaN or infinite; see ``without_nan``.
    """
    # What is left of half a character, which JSON can escape and no file can hold, is "?".
    with replace_atomically(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(f"{to_json(row, default=default)}\n" for row in rows)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def append_json_lines(
    path: Path, rows: Iterable[Mapping[str, Any]], *, default: Default | None = None, sync: bool = False
) -> None:
    """Append one JSON object per line; they have left this process when this returns.

    After a line that a kill has cut short a new one is begun, so that only that one is lost. With
    ``sync`` the disk has them too.

    Raises:
        ValueError: A number is NaN or infinite; see ``without_nan``.
        OSError: It cannot be written; see ``check_own``.
    """
    check_own(path)
    lines = "".join(f"{to_json(row, default=default)}\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                lines = "\n" + lines
        file.write(lines.encode("utf-8"))
        if sync:
            file.flush()
            os.fsync(file.fileno())


class JsonLine(NamedTuple):
    """A line of a file of JSON lines that is not blank."""

    number: int
    """Counted from 1, blank lines included."""
    values: dict[str, Any] | None
    """None where it holds no object."""
    problem: str
    """The reason why it holds none, and what to do; empty if it does."""


def json_lines(lines: Iterable[bytes | str], *, allow_nan: bool = True) -> Iterator[JsonLine]:
    """Read lines as JSON objects, those that are none with the reason.

    Args:
        lines: Of an open file; of bytes, where one that is not UTF-8 is to be a problem of its own.
        allow_nan: Take NaN and Infinity, which only Python writes, for numbers.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield JsonLine(number, *_read_line(line, allow_nan=allow_nan))


def many_json_lines(lines: Iterable[str], *, at_once: int) -> Iterator[list[dict[str, Any] | JsonLine]]:
    """Read lines as ``json_lines`` does, many at once, which takes less time.

    Args:
        lines: Of an open file.
        at_once: Their number.

    Returns:
        The object of each line; of one that holds none, the line itself.
    """
    numbered = enumerate(lines, start=1)
    while some := list(islice(numbered, at_once)):
        if not all(line.strip() for _, line in some):
            some = [(number, line) for number, line in some if line.strip()]
        yield [
            values if values is not None else _object_or_line(number, line)
            for (number, line), values in zip(some, plain_objects([line for _, line in some]), strict=True)
        ]


def _object_or_line(number: int, line: str) -> dict[str, Any] | JsonLine:
    read = JsonLine(number, *_read_line(line))
    return read if read.values is None else read.values


def read_json_lines(path: Path, *, skip_broken: bool = False, of_user: bool = False) -> list[dict[str, Any]]:
    """Return all objects of a file of JSON lines.

    Args:
        path: The file.
        skip_broken: Leave out lines that hold no object, as a killed writer leaves one behind.
        of_user: It is named on the command line: a link or a pipe will do.

    Raises:
        ValueError: A line holds no object; says which and why.
        OSError: It cannot be read; see ``check_own``.
    """
    rows = []
    with path.open("rb") if of_user else open_own(path) as file:
        for line in json_lines(file):
            if line.values is not None:
                rows.append(line.values)
            elif not skip_broken:
                raise ValueError(f"{path}, line {line.number}: {line.problem}")
    return rows


def _read_line(line: bytes | str, *, allow_nan: bool = True) -> tuple[dict[str, Any] | None, str]:
    try:
        text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
        values = (_DECODER if allow_nan else _STRICT_DECODER).decode(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        starts = (name for start, name in _NO_TEXT.items() if isinstance(line, bytes) and line.startswith(start))
        if what := next(starts, None):
            return None, f"this is {what}; write one JSON object per line"
        if isinstance(error, UnicodeDecodeError):
            return None, f"not UTF-8 ({error.reason}); save the file as UTF-8"
        return None, f"not JSON ({error.msg}, column {error.colno}); write one object per line"
    except _RefusedError as error:
        return None, str(error)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; nested too deep
        return None, f"it cannot be read as JSON ({error}); correct it"
    return (values, "") if isinstance(values, dict) else (None, "it holds no JSON object; write one object per line")


def parse_json(text: str) -> Any:
    """Return JSON content.

    Raises:
        ValueError: It is none, or a key appears twice, of which readers take either.
        RecursionError: It is nested too deep.
    """
    return _DECODER.decode(text)


class _RefusedError(ValueError):
    """A number that JSON does not have, or an object with two meanings."""


def _refuse_constant(name: str) -> None:
    raise _RefusedError(f"{name} is not JSON, write null where a value is missing")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise _RefusedError(f"the key {twice!r} appears twice; keep one of them")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_STRICT_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex}.partial")
