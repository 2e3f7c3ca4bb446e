"""Moments kept to some 50 us: libuv's own timers are good to a millisecond only.

Linux: a timerfd on the clock of `time.monotonic`. Python has one from 3.13 on, hence libc.
"""

import asyncio
import ctypes
import os
import time
from types import TracebackType

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME, timerfd_create(2)
_NANOSECONDS = 1_000_000_000


class Ticker:
    """Waits for moments of `time.monotonic`, one at a time. Use as a context manager."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._waiting: asyncio.Future[None] | None = None

    def __enter__(self) -> "Ticker":
        """Watch the timer on the running loop."""
        asyncio.get_running_loop().add_reader(self._fd, self._expired)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the timer back."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    async def until(self, moment: float) -> None:
        """Return at `moment`; at once if it has passed."""
        if moment <= time.monotonic():
            return
        self._waiting = asyncio.get_running_loop().create_future()
        seconds, nanoseconds = divmod(int(moment * _NANOSECONDS), _NANOSECONDS)
        # struct itimerspec: the interval, which is none, and the first expiry
        spec = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE, spec, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        await self._waiting

    def _expired(self) -> None:
        os.read(self._fd, 8)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
