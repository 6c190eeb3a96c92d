"""What commands print while they work: lines on the main process, progress with the time left."""

import sys
import time
from collections.abc import Callable

Say = Callable[[str], None]

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how many are done, how many there are)."""


def progress_line(*, every_seconds: float = 10.0) -> Progress:
    """Progress on a terminal's current line; in a log file one line every ``every_seconds``."""
    started: dict[str, tuple[float, int, int]] = {}
    printed = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        began, first, last = started.get(what, (now, done, done))
        if done <= last:  # the same work again: the next checkpoint, the next piece
            began, first = now, done
        started[what] = (began, first, done)
        text = f"{what}: {done}/{total}"
        rate = (done - first) / (now - began) if now > began else 0.0
        if rate > 0:
            left = int((total - done) / rate)
            text += f", {rate:.1f}/s, {left // 60}:{left % 60:02d} left"
        if sys.stdout.isatty():
            print(f"\r\x1b[2K{text}", end="\r" if done == total else "", flush=True)  # noqa: T201
        elif now - printed >= every_seconds:
            printed = now
            print(text, flush=True)  # noqa: T201

    return show


def printer(is_main: bool) -> Say:
    """Prints on the main process only."""

    def say(text: str) -> None:
        if is_main:
            print(text, flush=True)  # noqa: T201

    return say


def quiet_when_redirected() -> None:
    """Keep the progress bars of model loading out of log files."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
