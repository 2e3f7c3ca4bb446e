"""A worker as the supervisor sees it: a child process, a control socket, what it reports."""

import asyncio
import socket
import sys
from contextlib import suppress

from gateway.child import dies_with_parent
from gateway.control import Ready, Start, Telemetry, UseRules, frame, receive
from gateway.core.configuration import DataPlane, Rules
from gateway.telemetry.counters import Counters


class WorkerProcess:
    """One place for a worker; `run` fills it with a process until that ends."""

    def __init__(
        self, number: int, plane: DataPlane, listener: socket.socket, counters: Counters
    ) -> None:
        self.number = number
        self.ready = asyncio.Event()
        self.open_calls = 0
        self.exit_code: int | None = None
        self._plane = plane
        self._listener = listener
        self._counters = counters
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id while there is a process."""
        return self._process.pid if self._process else None

    async def run(self, rules: Rules) -> None:
        """Start a process and return when it has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "gateway.app", str(theirs.fileno()), str(self._listener.fileno())),
                pass_fds=(theirs.fileno(), self._listener.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        self._writer = writer
        writer.write(frame(Start(self._plane, rules)))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._listen(reader)
        self.exit_code = await process.wait()
        self.ready.clear()
        self.open_calls = 0
        self._process = self._writer = None
        writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            message = await receive(reader)
            if isinstance(message, Ready):
                self.ready.set()
            elif isinstance(message, Telemetry):
                self._counters.merge(message.counted)
                self.open_calls = message.open_calls

    def use_rules(self, rules: Rules) -> None:
        """Tell the worker to use other rules; one that is just starting gets them at its start."""
        if self._writer is not None:
            self._writer.write(frame(UseRules(rules)))

    async def stop(self, wait_s: float) -> None:
        """Let the worker drain; kill it if that takes too long."""
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), wait_s)
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """End the worker at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
