"""Show runs until the reader has seen enough: in the terminal, or on a page of this machine."""

import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.errors import ConfigError
from grpo_mmpc.reports.watch.live_run import LiveRun, find_runs
from grpo_mmpc.reports.watch.terminal import frame
from grpo_mmpc.utils.console import columns, printer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.segment import Segment

EVERY_S = 2.0
"""Seconds between two looks."""
_SCROLLS = {b"\x1b[A": -1, b"k": -1, b"\x1b[B": 1, b"j": 1, b"\x1b[5~": -10, b"\x1b[6~": 10, b" ": 10}
_QUITS = (b"q", b"Q")

say = printer(True)


def print_once(folders: Sequence[Path]) -> None:
    """Print one frame.

    Raises:
        EvaluationError: A folder is none of a run.
    """
    from rich.console import Console  # heavy: imported on use

    console = Console(width=columns(), highlight=False, soft_wrap=False)
    console.print(_frame(find_runs(folders, wait=False), console))


def watch(folders: Sequence[Path]) -> None:
    """Fill the terminal with what there is to see, until q or Ctrl-C.

    Raises:
        EvaluationError: A folder can be none of a run.
        ConfigError: Standard output is no terminal.
    """
    from rich.console import Console  # heavy: imported on use
    from rich.segment import SegmentLines

    runs = find_runs(folders, wait=True)
    if not sys.stdout.isatty():
        raise ConfigError(["standard output is no terminal: add --once for one frame, or --serve for a page"])
    console, top = Console(highlight=False), 0
    with _keys() as keys, console.screen() as screen:
        while True:
            lines = _lines(_frame(runs, console), console)
            top = min(top, max(0, len(lines) - console.height + 1))
            end = top + console.height - 1
            more = f"{len(lines) - end} more lines below, " if len(lines) > end else ""
            footer = console.render_lines(f"[dim]{more}arrows scroll, q ends")
            screen.update(SegmentLines([*lines[top:end], *footer[:1]], new_lines=True))
            for key in keys():
                if key in _QUITS:
                    return
                top = max(0, top + _SCROLLS.get(key, 0))


def serve(folders: Sequence[Path], *, host: str, port: int) -> None:
    """Serve the page until this process is interrupted.

    Raises:
        EvaluationError: A folder can be none of a run.
        GrpoMmpcError: The port is in use, or the host is none of this machine's.
    """
    from grpo_mmpc.reports.watch.server import WatchServer  # heavy: imported on use

    with WatchServer(find_runs(folders, wait=True), host=host, port=port) as server:
        say(f"Watch: {server.address}")
        say("The address is the key: give it only to who may see the run. Stop with Ctrl-C; the run goes on.")
        server.serve_forever()


def _frame(runs: Sequence[LiveRun], console: "Console") -> "RenderableType":
    views = [run.look(whole=len(runs) == 1) for run in runs]
    return frame(views, width=console.width, ascii_only=not console.encoding.startswith("utf"))


def _lines(content: "RenderableType", console: "Console") -> "list[list[Segment]]":
    return console.render_lines(content, console.options.update(height=None))


@contextmanager
def _keys() -> Iterator["_Keys"]:
    """Yield what waits for keys, the terminal set to pass each on at once, and not to show it."""
    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setcbreak(stdin)
        yield _Keys(stdin)
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


class _Keys:
    def __init__(self, stdin: int | None) -> None:
        self._stdin = stdin

    def __call__(self) -> list[bytes]:
        """Wait for the time between two looks, or until a key is pressed; return the keys."""
        waited = [] if self._stdin is None else [self._stdin]
        if not select.select(waited, [], [], EVERY_S)[0] or self._stdin is None:
            return []
        pressed = os.read(self._stdin, 64)
        return [pressed] if pressed.startswith(b"\x1b") else [bytes([key]) for key in pressed]
