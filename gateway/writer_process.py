"""The ledger's writer as the supervisor sees it: a child process, and what it reports."""

import asyncio
import socket
import sys
from contextlib import suppress

from msgspec import structs

from gateway.child import dies_with_parent
from gateway.control import LedgerPlan, LedgerTelemetry, UseWebhooks, frame, receive
from gateway.core.webhook import WebhookPolicy
from gateway.telemetry.counters import Counters


class LedgerProcess:
    """One writer process at a time, started anew by whoever calls `run` again."""

    def __init__(self, plan: LedgerPlan, counters: Counters) -> None:
        self.writing = False
        self.size_bytes = 0
        self.alarming: dict[str, bool] = {}
        self.exit_code: int | None = None
        self._plan = plan
        self._counters = counters
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._told_to_stop = False

    def use_webhooks(self, webhooks: tuple[WebhookPolicy, ...]) -> None:
        """Post what happens from now on to these; a process that is started later does so too."""
        if webhooks == self._plan.webhooks:
            return
        self._plan = structs.replace(self._plan, webhooks=webhooks)
        if self._writer is not None:
            self._writer.write(frame(UseWebhooks(webhooks)))

    async def run(self) -> None:
        """Start the process and return when it has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway.writer_app", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(frame(self._plan))
        self._writer = writer
        if self._told_to_stop:
            self._terminate()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._listen(reader)
        self.exit_code = await process.wait()
        self.writing, self._process, self._writer = False, None, None
        self.alarming = {}
        writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            message = await receive(reader)
            if isinstance(message, LedgerTelemetry):
                self._counters.merge(message.counted)
                self.writing, self.size_bytes = message.writing, message.size_bytes
                self.alarming = message.alarming

    async def stop(self, wait_s: float) -> None:
        """Let it write what is in the streams; kill it if that takes too long."""
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
