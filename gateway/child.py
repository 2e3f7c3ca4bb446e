"""Children that never outlive their parent, and never hear the terminal's Ctrl-C."""

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from contextlib import suppress

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


async def start_module(module: str, *descriptors: int, discards_output: bool = False) -> Process:
    """Start a module of ours as a child that inherits `descriptors`, its arguments."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, descriptors)),
        pass_fds=descriptors,
        stdin=DEVNULL,
        stdout=DEVNULL if discards_output else None,
        start_new_session=True,
        preexec_fn=dies_with_parent(),
    )


def terminate(process: Process | None) -> None:
    """Ask it to end, if there is one and it has not ended."""
    if process is not None:
        with suppress(ProcessLookupError):
            process.terminate()


async def end(process: Process | None, wait_s: float) -> None:
    """Ask it to end; kill it if that takes too long. Return when it has ended."""
    terminate(process)
    if process is None:
        return
    try:
        async with asyncio.timeout(wait_s):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
