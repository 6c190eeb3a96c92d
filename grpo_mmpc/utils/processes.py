"""Child processes that must not outlive their parent."""

import os
import signal
import sys

_SIGNAL_WITH_PARENT = 1
"""``PR_SET_PDEATHSIG`` of Linux's prctl."""


def die_with_parent(parent: int) -> None:
    """In a child process: be killed when the thread that started it ends, where the system offers that (Linux).

    Args:
        parent: Process that started it, which may have ended already.
    """
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # ended before the system was asked, which tells nobody any more
            os.kill(os.getpid(), signal.SIGKILL)
