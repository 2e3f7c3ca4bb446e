"""The ledger's writer as the supervisor sees it: a child process, and what it reports."""

import asyncio
import socket
from contextlib import suppress

from msgspec import structs

from gateway.child import end, start_module, terminate
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
            self._process = process = await start_module("gateway.writer_app", theirs.fileno())
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(frame(self._plan))
        self._writer = writer
        if self._told_to_stop:
            terminate(process)
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
        await end(self._process, wait_s)
