"""Workers as the supervisor sees them: child processes, control sockets, what they report.

A place always has one process that serves; beside it, in a rolling reload, one that starts and
those that drain. All accept from the same listener, so its queue is never without a taker.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from gateway.child import start_module, terminate
from gateway.control import Ready, Start, Telemetry, UseRules, UsesRules, frame, receive
from gateway.core.configuration import Rules
from gateway.core.prices import ModelsInUse
from gateway.telemetry.counters import Counters


class WorkerProcess:
    """One process, from its start to its end."""

    def __init__(
        self,
        start: Start,
        listener: socket.socket,
        counters: Counters,
        in_use: ModelsInUse | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.ready_or_ended = asyncio.Event()
        self.open_calls = 0
        self.store_up = True
        self.exit_code: int | None = None
        self._start = start
        self._listener = listener
        self._counters = counters
        self._in_use = in_use or ModelsInUse()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._unanswered: deque[asyncio.Event] = deque()
        self._told_to_stop = False

    async def run(self) -> None:
        """Start the process and return when it has ended."""
        try:
            await self._run()
        finally:
            self.ready.clear()
            self.open_calls = 0
            self._process = self._writer = None
            while self._unanswered:
                self._unanswered.popleft().set()
            self.ended.set()
            self.ready_or_ended.set()

    async def _run(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._process = await start_module(
                "gateway.app", theirs.fileno(), self._listener.fileno()
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        self._writer = writer
        if self._told_to_stop:
            terminate(process)
        writer.write(frame(self._start))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._listen(reader)
        self.exit_code = await process.wait()
        writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            message = await receive(reader)
            if isinstance(message, Ready):
                self.ready.set()
                self.ready_or_ended.set()
            elif isinstance(message, UsesRules):
                self._unanswered.popleft().set()
            elif isinstance(message, Telemetry):
                self._counters.merge(message.counted)
                for provider, model in message.priced:
                    self._in_use.add(provider, model)
                self.open_calls = message.open_calls
                self.store_up = message.store_up

    async def use_rules(self, rules: Rules) -> None:
        """Return when the worker uses other rules; one just starting gets them at its start."""
        self._start.rules = rules
        if self._writer is not None:
            answered = asyncio.Event()
            self._unanswered.append(answered)
            self._writer.write(frame(UseRules(rules)))
            await answered.wait()

    async def stop(self, wait_s: float) -> None:
        """Let the worker drain; kill it if that takes too long."""
        self._told_to_stop = True
        terminate(self._process)
        try:
            async with asyncio.timeout(wait_s):
                await self.ended.wait()
        except TimeoutError:
            self.kill()
            await self.ended.wait()

    def kill(self) -> None:
        """End the worker at once."""
        self._told_to_stop = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()


class WorkerPlace:
    """One place for a worker: the process that serves now, and those before and after it."""

    def __init__(
        self,
        number: int,
        new_process: Callable[[], WorkerProcess],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.number = number
        self.exit_code: int | None = None
        self.was_ready = asyncio.Event()
        self._new_process = new_process
        self._spawn = spawn
        self._serving: WorkerProcess | None = None
        self._alive: set[WorkerProcess] = set()

    @property
    def is_ready(self) -> bool:
        """Return whether a process accepts calls here."""
        return self._serving is not None and self._serving.ready.is_set()

    @property
    def lacks_store(self) -> bool:
        """Return whether a process accepts calls here that gets no answers from the store."""
        serving = self._serving
        return serving is not None and serving.ready.is_set() and not serving.store_up

    @property
    def open_calls(self) -> int:
        """Return how many calls are carried, those of draining processes included."""
        return sum(process.open_calls for process in self._alive)

    async def serve(self) -> None:
        """See that a process serves; return when one has ended that was not replaced before."""
        if self._serving is None or self._serving.ended.is_set():
            self._serving = self._begin()
        serving = self._serving
        await serving.ready_or_ended.wait()
        if serving.ready.is_set():
            self.was_ready.set()
        while True:
            await serving.ended.wait()
            if serving is self._serving:
                self.exit_code = serving.exit_code
                return
            serving = self._serving

    def _begin(self) -> WorkerProcess:
        process = self._new_process()
        self._alive.add(process)
        self._spawn(self._run(process))
        return process

    async def _run(self, process: WorkerProcess) -> None:
        try:
            await process.run()
        finally:
            self._alive.discard(process)

    async def replace(self) -> WorkerProcess | None:
        """Start another process and let it take over; return the one to be stopped now.

        None if the new one ended before it was ready: then all is as it was.
        """
        successor = self._begin()
        await successor.ready_or_ended.wait()
        if not successor.ready.is_set():
            return None
        predecessor, self._serving = self._serving, successor
        return predecessor

    async def use_rules(self, rules: Rules) -> None:
        """Return when all processes use other rules, or have ended."""
        await asyncio.gather(*(process.use_rules(rules) for process in self._alive))

    async def stop(self, wait_s: float) -> None:
        """Let all processes drain."""
        await asyncio.gather(*(process.stop(wait_s) for process in list(self._alive)))

    def kill(self) -> None:
        """End all processes at once."""
        for process in list(self._alive):
            process.kill()
