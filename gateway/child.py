"""Children that never outlive their parent, and never hear the terminal's Ctrl-C."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def dies_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn`: SIGTERM to the child when its parent dies, however it dies.

    To be called by the thread that makes the child, and that lives as long as the parent: the
    kernel takes that thread for the parent. Linux only; elsewhere None. Source: prctl(2),
    PR_SET_PDEATHSIG.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask_for_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it could be asked for
            os._exit(1)

    return ask_for_signal
