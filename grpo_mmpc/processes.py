"""Child processes that must not outlive their parent."""

import signal
import sys

_SIGNAL_WITH_PARENT = 1
"""``PR_SET_PDEATHSIG`` of Linux's prctl."""


def die_with_parent() -> None:
    """In a child process: be killed when the thread that started it ends, where the system offers that (Linux)."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_WITH_PARENT, signal.SIGKILL)
