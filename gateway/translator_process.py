"""The translator as the supervisor sees it: a child process that is ready, or not."""

import asyncio
import socket
from contextlib import suppress

from gateway.child import end, start_module, terminate
from gateway.control import Ready, TranslatorPlan, frame, receive


class TranslatorProcess:
    """One translator process at a time, started anew by whoever calls `run` again."""

    def __init__(self, plan: TranslatorPlan) -> None:
        self.is_ready = False
        self.exit_code: int | None = None
        self._plan = plan
        self._process: asyncio.subprocess.Process | None = None
        self._told_to_stop = False

    async def run(self) -> None:
        """Start the process and return when it has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = process = await start_module(
                "gateway.translator_app", theirs.fileno(), discards_output=True
            )  # litellm prints there
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(frame(self._plan))
        if self._told_to_stop:
            terminate(process)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.is_ready = isinstance(await receive(reader), Ready) or self.is_ready
        self.is_ready = False
        self.exit_code = await process.wait()
        self._process = None
        writer.close()

    async def stop(self, wait_s: float) -> None:
        """End it; kill it if that takes too long."""
        self._told_to_stop = True
        await end(self._process, wait_s)
