"""Children that never outlive their parent, and never hear the terminal's Ctrl-C."""

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def dies_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn`: SIGTERM to the child when its parent dies, however it dies.

    Linux only; elsewhere None. Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_for_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask_for_signal
