"""Runs one command that must not outlive whoever asked for it: ``python -m grpo_mmpc.utils.supervise LOCK LOG COMMAND...``.

Standard input is a pipe that the asking process holds. When that process ends in whatever way,
``kill -9`` included, the system closes the pipe, and the command's whole process group is killed.
SIGTERM asks the command to stop by itself.

LOCK is the descriptor of a locked file. It is inherited by the command's processes: while any of
them lives, no other attempt of the same job starts, on this machine or on another one that shares
the disk.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType

from grpo_mmpc.utils.processes import die_with_parent

_POLL_S = 0.2


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status, 128 + N where signal N ended it."""
    lock, log_path, *command = arguments
    asked_to_stop = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    with Path(log_path).open("a", encoding="utf-8") as log:
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}", file=log, flush=True)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[int(lock)],
            # nothing else runs in this process that a fork could harm
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        told = False
        while child.poll() is None:
            if asked_to_stop and not told:
                told = True
                _signal_group(child.pid, signal.SIGTERM)
            if _is_abandoned():
                _signal_group(child.pid, signal.SIGKILL)
        # Workers that a crashed run has left behind would keep its GPU and its lock.
        _signal_group(child.pid, signal.SIGKILL)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _is_abandoned() -> bool:
    """Whether the pipe was closed; waits a moment for that. Nothing is ever written to it."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], _POLL_S)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
