"""One connection to the store for all calls of a process: commands of one loop turn in one write.

Source: commands are answered in order (RESP), so a queue of waiting futures is all the bookkeeping.
Packing and parsing is hiredis'. Connections are made anew with backoff; while there is none, a
command fails at once instead of waiting.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import hiredis

from gateway.core.errors import StoreError
from gateway.store.address import StoreAddress
from gateway.store.scripts import NAMES, Script, load_script

Argument = str | bytes | int

# hiredis' own stub says that a command is a tuple of one argument.
_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]

_BACKOFF_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SWEEP_S = 0.025
_OPEN_WAIT_S = 5.0
_SILENT_S = 2.0  # a host that is gone says nothing; TCP would wait for it for a quarter of an hour


class _Wire(asyncio.Protocol):
    """The bytes of one connection: packs nothing, waits for nothing, answers in order."""

    def __init__(self, owner: "StoreConnection") -> None:
        self._owner = owner
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
        self.transport: asyncio.Transport
        self.lost = asyncio.Event()
        self.waiting: deque[tuple[asyncio.Future[Any], float]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport, always

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                future, _ = self.waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()
        while self.waiting:
            future, _ = self.waiting.popleft()
            if not future.done():
                future.set_exception(_lost())
        self._owner.lost(self)


class StoreConnection:
    """Executes commands and scripts; safe for any number of concurrent callers on one loop."""

    def __init__(self, address: StoreAddress, timeout_ms: int = 0) -> None:
        self._address = address
        self._timeout_s = timeout_ms / 1000
        self._wire: _Wire | None = None
        self._out: list[bytes] = []
        self._reconnecting: asyncio.Task[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def is_connected(self) -> bool:
        """Return whether commands can be sent now."""
        return self._wire is not None

    async def open(self) -> None:
        """Connect, authenticate, select the database, load the scripts. Raises StoreError."""
        try:
            async with asyncio.timeout(_OPEN_WAIT_S):
                self._wire = await self._connect()
        except TimeoutError:
            raise StoreError("timeout", "the store did not answer in time") from None
        except OSError as error:
            raise StoreError("unreachable", f"cannot connect to the store: {error}") from None

    async def open_or_keep_trying(self) -> None:
        """Connect now, or in the background as soon as the store is there."""
        try:
            await self.open()
        except StoreError:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _connect(self) -> _Wire:
        loop, at = asyncio.get_running_loop(), self._address
        if at.path:
            _, wire = await loop.create_unix_connection(lambda: _Wire(self), at.path)
        else:
            _, wire = await loop.create_connection(
                lambda: _Wire(self), at.host, at.port, ssl=at.tls
            )
        try:
            await self._greet(wire)
        except BaseException:  # cancelled or failed, no socket may stay behind
            wire.transport.abort()
            raise
        return wire

    async def _greet(self, wire: _Wire) -> None:
        """Authenticate and look who is there; then load the scripts.

        Not in one go: a server cuts off a stranger who sends as much as a script.
        """
        at = self._address
        hello: list[tuple[Argument, ...]] = [("PING",)]
        if at.database:
            hello.insert(0, ("SELECT", at.database))
        if at.password:
            user = (at.username,) if at.username else ()
            hello.insert(0, ("AUTH", *user, at.password))
        await _ask(wire, hello)
        await _ask(wire, [("SCRIPT", "LOAD", load_script(name).source) for name in NAMES])
        if wire.lost.is_set():  # between its last answer and now
            raise _lost()

    def send(self, *command: Argument) -> "asyncio.Future[Any]":
        """Queue a command for this loop turn's write; the future gets its raw reply.

        Raises StoreError if there is no connection.
        """
        wire = self._wire
        if wire is None:
            raise StoreError("unreachable", "there is no connection to the store")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._out:
            loop.call_soon(self._flush)
        self._out.append(_pack(command))
        wire.waiting.append((future, loop.time()))
        if self._timeout_s and self._sweep is None:
            self._sweep = loop.call_later(_SWEEP_S, self._expire)
        return future

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._wire is not None:
            self._wire.transport.write(b"".join(out))

    def _expire(self) -> None:
        """Fail what has waited too long; its reply, should it come, finds a done future."""
        self._sweep = None
        if self._wire is None or not self._wire.waiting:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._wire.waiting[0][1] > max(_SILENT_S, self._timeout_s):
            self._wire.transport.abort()
            return
        latest = now - self._timeout_s
        for future, sent_at in self._wire.waiting:
            if sent_at > latest:
                break
            if not future.done():
                future.set_exception(StoreError("timeout", "the store did not answer in time"))
        self._sweep = loop.call_later(_SWEEP_S, self._expire)

    async def execute(self, *command: Argument) -> Any:
        """Return the reply to a command. Raises StoreError for an error reply, too."""
        return _raise_error(await self.send(*command))

    async def run(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """Return the reply of a script; one that the server has forgotten is sent whole."""
        reply = await self.send("EVALSHA", script.sha, len(keys), *keys, *args)
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            reply = await self.send("EVAL", script.source, len(keys), *keys, *args)
        return _raise_error(reply)

    def lost(self, wire: _Wire) -> None:
        """Take note that a wire is gone, and start to connect anew."""
        if self._wire is not wire:
            return
        self._wire = None
        self._out.clear()
        if not self._closed:
            loop = asyncio.get_running_loop()
            self._reconnecting = loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        attempt = 0
        while not self._closed and self._wire is None:
            await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            attempt += 1
            with suppress(StoreError):
                await self.open()

    async def close(self) -> None:
        """Close for good; what still waits fails."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        wire = self._wire
        if wire is not None:
            wire.transport.abort()
            await wire.lost.wait()


async def _ask(wire: _Wire, commands: list[tuple[Argument, ...]]) -> None:
    """Send commands and wait for all answers. Raises StoreError, also for an error reply."""
    if wire.lost.is_set():
        raise _lost()
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in commands]
    wire.waiting.extend((future, loop.time()) for future in futures)
    wire.transport.write(b"".join(map(_pack, commands)))
    for reply in await asyncio.gather(*futures):
        _raise_error(reply)


def _lost() -> StoreError:
    return StoreError("connection_lost", "the connection to the store was lost")


def _raise_error(reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        text = str(reply)
        raise StoreError(text.partition(" ")[0].lower(), f"the store answered: {text}")
    return reply
