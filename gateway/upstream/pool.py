"""The connections to one provider: idle ones, a limit, and the calls that wait for their turn.

A slot is the right to one connection; there are `max_connections`. It belongs to a connection, or
to a call that is about to open one. A free slot or connection goes to the call that waits longest,
else a connection lies idle, and the one used last is taken first.
"""

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from functools import partial

from gateway.core.configuration import UpstreamSettings
from gateway.core.errors import InvalidConfigError, UpstreamError
from gateway.core.headers import Headers
from gateway.ports import Answer, OpenedSocket, ResponseSink
from gateway.upstream.addresses import BlockedAddressError, Resolve
from gateway.upstream.answer import BROKEN
from gateway.upstream.dialler import Dialled, Dialler
from gateway.upstream.http1 import TIMEOUT, UpstreamConnection, UpstreamExchange
from gateway.upstream.websocket import ProviderSocket, Sockets

UNREACHABLE = "upstream_unreachable"
BUSY = "upstream_busy"

SWEEP_S = 1.0
ABORT_S = 1.0
"""How long closed transports may take to say so; without a fault in the loop no time at all."""

_Waiting = tuple[asyncio.Future[None], UpstreamExchange]


class Pool:
    """The connections to the upstream `name`; it implements http1.Keeper.

    Raises InvalidConfigError if the base URL, the proxy's URL or the CA file is of no use. Must be
    closed.
    """

    def __init__(
        self,
        name: str,
        settings: UpstreamSettings,
        loop: asyncio.AbstractEventLoop,
        resolve: Resolve | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self._dialler = Dialler(name, settings, loop, resolve)
        self.origin = self._dialler.origin
        self._queue_timeout_ms = settings.queue_timeout_ms or settings.connect_timeout_ms
        self._loop = loop
        self._clock = loop.time
        self._tls = _tls_context(name, settings.ca_file) if self.origin.tls else None
        self._connections: set[UpstreamConnection] = set()  # each has a slot
        self._idle: list[UpstreamConnection] = []  # the one used last at the end
        self._slots_of_calls = 0
        self._waiting: deque[_Waiting] = deque()
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._open_transports: set[UpstreamConnection] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._sockets = Sockets()
        self._draining = False
        self._closed = False
        self._changed = asyncio.Event()  # told only while draining

    @property
    def open_exchanges(self) -> int:
        """Return how many calls have a connection or are opening one."""
        return len(self._connections) - len(self._idle) + self._slots_of_calls

    # A call's way to a connection

    async def connect(self, sink: ResponseSink) -> UpstreamExchange:
        """Return an exchange on an idle connection, at once, or on a new one, or wait for a turn.

        The caller must `send` on it or `cancel` it.
        Raises UpstreamError with `sent` False: `upstream_unreachable`, `upstream_busy`.
        """
        exchange = UpstreamExchange(self, sink)
        connection = self._take_idle()
        if connection is None:
            if len(self._connections) + self._slots_of_calls < self.settings.max_connections:
                self._slots_of_calls += 1
            else:
                await self._turn(exchange)
            if exchange.connection is not None:
                return exchange
            exchange.holds_slot = False
            connection = await self._open()
        connection.attach(exchange)
        return exchange

    def _take_idle(self) -> UpstreamConnection | None:
        now = self._clock()
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_until > now and connection.is_alive():
                return connection
            self.retire(connection)
        return None

    async def _turn(self, exchange: UpstreamExchange) -> None:
        """Wait until the exchange is given a connection, or else a slot to open one on."""
        if len(self._waiting) >= self.settings.max_waiting:
            raise self._busy(f"and {len(self._waiting)} calls wait for one")
        turn: asyncio.Future[None] = self._loop.create_future()
        waiting = (turn, exchange)
        self._waiting.append(waiting)
        timer = self._loop.call_later(self._queue_timeout_ms / 1000, self._give_up_waiting, waiting)
        try:
            await turn
        except asyncio.CancelledError:
            self._leave_queue(waiting)
            raise
        finally:
            timer.cancel()

    def _give_up_waiting(self, waiting: _Waiting) -> None:
        turn, _ = waiting
        if not turn.done():
            self._waiting.remove(waiting)
            turn.set_exception(self._busy(f"for {self._queue_timeout_ms} ms"))

    def _busy(self, how: str) -> UpstreamError:
        limit = self.settings.max_connections
        message = f"all {limit} connections to {self.name} were in use {how}"
        return UpstreamError(BUSY, message, sent=False)

    def _leave_queue(self, waiting: _Waiting) -> None:
        """Give back what a call was given in the moment in which it was cancelled."""
        turn, exchange = waiting
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        elif exchange.connection is not None:
            exchange.cancel()
        elif not turn.cancelled() and turn.exception() is None:
            self.give_up_slot()

    async def _open(self) -> UpstreamConnection:
        """Open a connection on a call's slot; the slot is free again if that fails."""
        try:
            connection = await self._dial()
        except BaseException:
            self.give_up_slot()
            raise
        self._slots_of_calls -= 1
        self._connections.add(connection)
        return connection

    async def _dial(self) -> UpstreamConnection:
        self._refuse_if_closed()
        connection = UpstreamConnection(self, self._clock)
        try:
            await self._connect(connection)
            self._refuse_if_closed()
        except BaseException:
            connection.abort()
            self.lost(connection)  # uvloop closes without a word if it is cancelled at the end
            raise
        return connection

    async def _connect(self, connection: Dialled) -> None:
        timeout_s = self.settings.connect_timeout_ms / 1000
        try:
            await self._dialler.connect(connection, self._tls, timeout_s)
        except TimeoutError:
            why = f"no connection within {self.settings.connect_timeout_ms} ms"
            raise self._unreachable(why) from None
        except ssl.SSLCertVerificationError as error:
            raise self._unreachable(f"certificate not accepted: {error.verify_message}") from error
        except (OSError, UnicodeError, BlockedAddressError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from error

    async def open_socket(self, target: bytes, headers: Headers) -> OpenedSocket | Answer:
        """Open a WebSocket on a connection of its own; `max_connections` of them at a time.

        Return the answer that refuses it, if the provider does. Raises UpstreamError.
        """
        self._refuse_if_closed()
        if len(self._sockets.open) >= self.settings.max_connections:
            raise self._busy("by WebSockets")
        socket = ProviderSocket(self.origin, self._clock, self._sockets)
        self._sockets.open.add(socket)
        opened: OpenedSocket | Answer | None = None
        try:
            await self._connect(socket)
            self._start_sweeping()
            async with asyncio.timeout(self.settings.read_timeout_ms / 1000):
                opened = await socket.handshake(target, headers)
        except TimeoutError:
            raise UpstreamError(TIMEOUT, f"{self.name}: no handshake", sent=False) from None
        finally:
            if not isinstance(opened, OpenedSocket):
                self._sockets(socket)
                socket.abort()
        return opened

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise self._unreachable("the gateway is shutting down")

    def _unreachable(self, why: str) -> UpstreamError:
        return UpstreamError(UNREACHABLE, f"{self.name} ({self.origin}): {why}", sent=False)

    # What connections and exchanges tell

    def opened(self, connection: UpstreamConnection) -> None:
        """Take note of a transport that must be closed before the end."""
        self._open_transports.add(connection)
        self._start_sweeping()

    def _start_sweeping(self) -> None:
        if self._sweep_timer is None:
            self._sweep_timer = self._loop.call_later(SWEEP_S, self._sweep)

    def lost(self, connection: UpstreamConnection) -> None:
        """Take note that its transport is closed."""
        self._open_transports.discard(connection)
        self._changed.set()

    def release(self, connection: UpstreamConnection) -> None:
        """Give the connection to the call that waits longest, or lay it idle."""
        if not connection.is_alive():
            self.retire(connection)
        elif (waiting := self._next_waiting()) is not None:
            turn, exchange = waiting
            connection.attach(exchange)
            turn.set_result(None)
        elif self._draining:
            self.retire(connection)
        else:
            connection.idle_until = self._clock() + self._keepalive_s(connection)
            self._idle.append(connection)

    def _keepalive_s(self, connection: UpstreamConnection) -> float:
        ours, theirs = self.settings.keepalive_ms / 1000, connection.keep_alive_s
        # A second less than the provider says: its clock started when it sent the answer.
        return ours if theirs is None else min(ours, theirs - 1)

    def retire(self, connection: UpstreamConnection, *, keep_slot: bool = False) -> None:
        """Close a connection; its slot is free, or goes over to the call that was on it."""
        if connection in self._connections:
            self._connections.remove(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._slots_of_calls += 1
            if not keep_slot:
                self.give_up_slot()
        connection.abort()

    def give_up_slot(self) -> None:
        """Pass a call's slot on to the call that waits longest, or free it."""
        waiting = self._next_waiting()
        if waiting is None:
            self._slots_of_calls -= 1
        else:
            waiting[0].set_result(None)
        self._changed.set()

    def _next_waiting(self) -> _Waiting | None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting[0].done():  # cancelled, but its task has not run yet
                return waiting
        return None

    def reconnect(self, exchange: UpstreamExchange) -> None:
        """Open a connection on the exchange's slot and let it write its request there."""
        task = self._loop.create_task(self._reconnect(exchange))
        self._reconnecting.add(task)
        task.add_done_callback(partial(self._reconnect_ended, exchange))

    async def _reconnect(self, exchange: UpstreamExchange) -> None:
        try:
            connection = await self._open()
        except UpstreamError as error:
            exchange.failed(error.code, error.message)
        else:
            exchange.reconnected(connection)

    def _reconnect_ended(self, exchange: UpstreamExchange, task: asyncio.Task[None]) -> None:
        self._reconnecting.discard(task)
        if task.cancelled():  # perhaps before its first line
            exchange.failed(BROKEN, "the gateway is shutting down")
        self._changed.set()

    # Once a second

    def _sweep(self) -> None:
        self._sweep_timer = None
        if self._open_transports or self._sockets.open:
            self._sweep_timer = self._loop.call_later(SWEEP_S, self._sweep)
        now = self._clock()
        for connection in [each for each in self._idle if each.idle_until <= now]:
            self.retire(connection)
        timeout_ms = self.settings.read_timeout_ms
        silent_since = now - timeout_ms / 1000
        for connection in [each for each in self._connections if each.is_overdue(silent_since)]:
            message = f"{self.name} ({self.origin}) sent nothing for {timeout_ms} ms"
            connection.break_off(UpstreamError(TIMEOUT, message, sent=True))
        self._sockets.check(now, timeout_ms / 1000)

    # The end

    async def close(self, drain_s: float) -> None:
        """Let open exchanges end for `drain_s`, then break them off; return when all is closed."""
        self._draining = True
        for connection in list(self._idle):
            self.retire(connection)
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while self.open_exchanges or self._waiting:
                    await self._next_change()
        self._closed = True
        self._break_everything_off()
        await self._sockets.close(ABORT_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(ABORT_S):
                while self._open_transports or self._reconnecting:
                    await self._next_change()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def _break_everything_off(self) -> None:
        while (waiting := self._next_waiting()) is not None:
            waiting[0].set_exception(self._unreachable("the gateway is shutting down"))
        for task in self._reconnecting:
            task.cancel()
        for connection in list(self._connections):
            why = f"the gateway is shutting down, {self.name} had not finished its answer"
            connection.break_off(UpstreamError(BROKEN, why, sent=True))

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _tls_context(name: str, ca_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise InvalidConfigError([f"upstreams.{name}.ca_file: {ca_file}: {error}"]) from error
    context.set_alpn_protocols(["http/1.1"])
    return context
