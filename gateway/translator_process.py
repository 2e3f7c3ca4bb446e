"""The translator as the supervisor sees it: a child process that is ready, or not."""

import asyncio
import socket
import sys
from contextlib import suppress

from gateway.child import dies_with_parent
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
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway.translator_app", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,  # litellm prints there
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(frame(self._plan))
        if self._told_to_stop:
            self._terminate()
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
        self._terminate()
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(wait_s):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _terminate(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()
