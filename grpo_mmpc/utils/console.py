"""Output of working commands: lines from the main process, one progress display for slow work."""

import atexit
import logging
import os
import re
import shlex
import shutil
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from grpo_mmpc.utils.distributed import is_first_process

Say = Callable[[str], None]

_REDRAW_S = 0.1
_WIDE = 120
_BAR_WIDTH = 20
_ANSI = {"red": 31, "green": 32}
_GLUE = "\x1f"
"""Stands for a space that is no place to break a line at."""
_COMMAND = re.compile(
    r"`[^`]*`"
    r"|(?:(?<=: )|^)(?:\w+=\S+ )?(?:grpo-mmpc|pip|python|accelerate)(?: (?:'[^']*'|[^\s'])*(?:'[^']*'|[^\s',;:]))+"
    r"|grpo-mmpc \w+(?: (?:-\S+|[A-Z_]+\b))*"
)
"""A command to copy: in backticks, behind a colon or on a line of its own up to a comma,
semicolon or colon, elsewhere with its options."""
_LABEL = re.compile(r".{0,13}?\S {2,}(?=\S)(?!.*\S {2})")
"""What stands in a column of its own before the text of a line."""


def coloured(line: str, colour: str | None) -> str:
    """Return a line in ``red`` or ``green`` for a terminal; as it is for None."""
    return line if colour is None else f"\x1b[{_ANSI[colour]}m{line}\x1b[0m"


def printable(text: str) -> str:
    """Replace control characters: those of strangers' files must not reach the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def columns() -> int:
    """Return the columns to write in: the terminal's, 120 where standard output is a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE


def fitted(text: str, stream: TextIO) -> str:
    """Return text for a stream: lines of printable characters, on a terminal broken at words."""
    text = "\n".join(map(printable, text.split("\n")))
    return wrapped(text, shutil.get_terminal_size().columns) if stream.isatty() else text


def wrapped(text: str, width: int) -> str:
    """Break lines that are longer than a width at words.

    A command stays in one piece, so that it can be copied. Behind a label the rest of a line hangs
    where its text began.
    """
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in text.split("\n"):
        text = line.lstrip()
        wrapper.initial_indent = line[: -len(text)]
        is_first = not wrapper.initial_indent or text.startswith("- ")
        label = _LABEL.match(text)
        wrapper.subsequent_indent = wrapper.initial_indent + (" " * label.end() if label else "  " * is_first)
        glued = _COMMAND.sub(lambda command: command[0].replace(" ", _GLUE), text).replace(" ...", f"{_GLUE}...")
        lines += [line] if len(line) <= width else wrapper.wrap(glued)
    return "\n".join(lines).replace(_GLUE, " ")


def next_command(*words: object, label: str = "next") -> str:
    """Return the line that names a command to try, quoted for a shell: ``next: grpo-mmpc ...``."""
    return f"{label}: {shlex.join(['grpo-mmpc', *map(str, words)])}"


def reading(*places: object) -> None:
    """Say what is read, before the imports that take seconds; on standard error."""
    print(fitted(f"reading {' '.join(map(str, places))} ...", sys.stderr), file=sys.stderr, flush=True)  # noqa: T201


def printer(is_main: bool) -> Say:
    """Return a function that prints lines on the main process only."""

    def say(text: str) -> None:
        if is_main:
            print(fitted(text, sys.stdout), flush=True)  # noqa: T201

    return say


def quiet_libraries() -> None:
    """Keep lines of libraries that tell a user nothing off the terminal.

    Call it before they are imported. Variables that the user has set hold.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings are many; its errors reach the user as ours
    logging.getLogger("vllm").setLevel(logging.ERROR)  # also where TRL imports it without its own log configuration
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # vLLM on CPUs says how it binds memory
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # every retry, twice; what failed is said in the end
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module="huggingface_hub")  # on how other libraries call it


def quiet_when_redirected() -> None:
    """Keep the progress bars of model loading out of log files, and show one of many ranks."""
    from transformers.utils import logging

    if not sys.stderr.isatty() or not is_first_process():
        logging.disable_progress_bar()


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes log lines to what standard error is now: above the bar while one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return its text as ``fitted`` does."""
        return fitted(super().format(record), sys.stderr)


class Progress:
    """The progress of one piece of work after another; call it with every advance.

    On a terminal it is a bar below everything that is printed, gone when the work is done; in a log
    file a line every ten seconds, none for work that is done sooner. Both on standard error. As a
    context manager it is also gone when the work fails.
    """

    def __init__(self, *, every_seconds: float = 10.0) -> None:
        self._every_seconds = every_seconds
        self._lock = threading.RLock()
        self._work: _Work | None = None
        self._log_ends: threading.Event | None = None
        self._bar: Any = None
        self._task: Any = None
        self._drawn = 0.0

    def __call__(self, what: str, done: float, total: float | None = None, *, detail: str = "") -> None:
        """Show an advance.

        Args:
            what: The piece of work, such as ``generating``.
            done: Items, steps or seconds done.
            total: Of how many; None where nobody knows.
            detail: Shown behind the numbers.
        """
        with self._lock:
            work = self._work
            what = printable(what)
            if work is None or work.what != what or done < work.done:
                self.close()
                work = self._work = _Work(what=what, began=time.monotonic(), first=done)
            work.done, work.total, work.detail = done, total, printable(detail)
            if total is not None and done >= total:
                self.close()
            elif sys.stderr.isatty():
                self._draw(work)
            elif self._log_ends is None:
                self._log_ends = threading.Event()
                threading.Thread(target=self._log, args=(self._log_ends,), name="progress", daemon=True).start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar; the next call starts anew."""
        with self._lock:
            self._work = None
            if self._log_ends is not None:
                self._log_ends.set()
                self._log_ends = None
            if self._bar is not None:
                atexit.unregister(self.close)
                self._bar.stop()
                self._bar = None

    def _draw(self, work: "_Work") -> None:
        now = time.monotonic()
        if self._bar is None:
            self._bar, self._drawn = _bar(), 0.0
            self._task = self._bar.add_task("", status="")
            self._bar.start()
            atexit.register(self.close)  # a bar hides the cursor
        if now - self._drawn >= _REDRAW_S:
            self._drawn = now
            status = {
                "description": work.what,
                "status": _cut(work.status(now), self._bar.console.width - len(work.what)),
            }
            self._bar.update(self._task, total=work.total, completed=work.done, refresh=True, **status)

    def _log(self, ends: threading.Event) -> None:
        while not ends.wait(self._every_seconds):
            with self._lock:
                if self._work is not None and not ends.is_set():
                    print(f"{self._work.what}: {self._work.status(time.monotonic())}", file=sys.stderr, flush=True)  # noqa: T201


@dataclass(slots=True, kw_only=True)
class _Work:
    what: str
    began: float
    first: float
    """Done before it began, which says nothing about its speed."""
    done: float = 0.0
    total: float | None = None
    detail: str = ""

    def status(self, now: float) -> str:
        """``12/40, 3.1/s, 0:09 left``, with the detail."""
        done, seconds = f"{int(self.done):,}", now - self.began
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        parts = [done if self.total is None else f"{done}/{int(self.total):,}"] if self.done or self.total else []
        if rate >= 0.1:
            parts.append(f"{rate:.1f}/s")
        if rate > 0 and self.total is not None:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        elif seconds >= 1 or parts or not self.detail:
            parts.append(f"{seconds:.0f} s")
        if self.detail:  # last: the end of a line is cut where the terminal is narrow
            parts.append(self.detail)
        return ", ".join(parts)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _cut(status: str, room: int) -> str:
    """Cut what stands behind the name of the work and the bar, before rich shortens the name."""
    room = max(room - _BAR_WIDTH - 3, 12)
    return status if len(status) <= room else f"{status[: room - 1].rstrip(', ')}…"


def _bar() -> Any:
    # heavy: imported on use
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis")
    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR_WIDTH),
        TextColumn("{task.fields[status]}", markup=False, table_column=one_line),
        console=Console(stderr=True, soft_wrap=True, highlight=False),
        transient=True,
        auto_refresh=False,  # a thread that draws could hold a lock when this process is forked
        redirect_stdout=sys.stdout.isatty(),  # printed lines go above the bar, or else where they belong
    )
