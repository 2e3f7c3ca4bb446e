"""One HTTP/1.1 connection to a provider, and one call's hold on it.

`UpstreamConnection` lives in a pool and carries one exchange after another. `UpstreamExchange` is
what a call holds: it survives the connection if the request may go out again on another, and it
goes dead with the answer's end, so that a late `cancel` cannot hit the connection's next call.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from gateway.core.errors import BadCall, UpstreamError
from gateway.core.headers import Headers
from gateway.ports import ResponseSink
from gateway.upstream.answer import BROKEN, AnswerReader
from gateway.upstream.origin import Origin, request_head

TIMEOUT = "upstream_timeout"

ONE_WRITE_BYTES = 16_384
"""Up to this size a body is copied behind its head: one write, one segment, one TLS record."""

# RFC 9110 section 9.2.2. POST and PATCH may be billed twice: never sent again.
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})

_Request = tuple[bytes, bytes, bytes]  # method, head, body


class Keeper(Protocol):
    """Who owns connections and slots: the pool, as far as its connections know it.

    A slot is the right to one connection. A connection has one; a call that waits for its
    connection to be opened, or has lost it and may open another, holds one itself.
    """

    origin: Origin

    def opened(self, connection: "UpstreamConnection") -> None:
        """Take note of a transport that must be closed before the end."""

    def lost(self, connection: "UpstreamConnection") -> None:
        """Take note that its transport is closed."""

    def release(self, connection: "UpstreamConnection") -> None:
        """Take back a connection that is fit for another exchange."""

    def retire(self, connection: "UpstreamConnection", *, keep_slot: bool = False) -> None:
        """Close a connection; its slot is free, or goes over to the call that was on it."""

    def give_up_slot(self) -> None:
        """Free the slot that a call held itself."""

    def reconnect(self, exchange: "UpstreamExchange") -> None:
        """Open a connection on the exchange's slot and let it write its request there."""


class UpstreamConnection(asyncio.Protocol):
    """The protocol of one connection: idle, held by an exchange, or carrying its request.

    The sink is called from `data_received`, body bytes at most once in each. When an answer ends,
    the connection has gone back to its keeper before the sink hears of it.
    """

    __slots__ = (
        "_clock",
        "_exchange",
        "_head_given",
        "_keeper",
        "_opened",
        "_paused",
        "_reader",
        "_served",
        "_sink",
        "_transport",
        "_usable",
        "idle_until",
        "read_at",
    )

    def __init__(self, keeper: Keeper, clock: Callable[[], float]) -> None:
        self._keeper = keeper
        self._clock = clock
        self._reader = AnswerReader()
        self._exchange: UpstreamExchange | None = None
        self._sink: ResponseSink | None = None  # set while an answer is expected
        self._head_given = False
        self._opened = False
        self._paused = False
        self._served = False
        self._usable = True
        self.idle_until = 0.0
        self.read_at = 0.0

    # What the exchange and the pool ask for

    def is_alive(self) -> bool:
        """Return whether a request may be written here."""
        return self._usable and not self._transport.is_closing()

    @property
    def was_opened(self) -> bool:
        """Return whether there has been a transport."""
        return self._opened

    @property
    def keep_alive_s(self) -> int | None:
        """How long the provider says that it keeps an idle connection."""
        return self._reader.keep_alive_s

    def attach(self, exchange: "UpstreamExchange") -> None:
        """Belong to `exchange` until its answer has ended or it is detached."""
        self._exchange = exchange
        exchange.connection = self

    def detach(self) -> None:
        """Belong to no exchange; whatever comes now is nobody's."""
        if self._exchange is not None:
            self._exchange.connection = None
        self._exchange = self._sink = None

    def start(self, sink: ResponseSink, request: _Request) -> None:
        """Write a request; its answer goes to `sink`."""
        method, head, body = request
        self._sink = sink
        self._head_given = False
        self._reader.begin(method)
        self.read_at = self._clock()
        if len(body) <= ONE_WRITE_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def pause(self) -> None:
        """Stop reading; the read timeout stands still meanwhile."""
        if not (self._paused or self._transport.is_closing()):
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self.read_at = self._clock()
            self._transport.resume_reading()

    def is_overdue(self, silent_since: float) -> bool:
        """Return whether an expected answer has been silent since then without being paused."""
        return self._sink is not None and not self._paused and self.read_at < silent_since

    def break_off(self, error: UpstreamError) -> None:
        """Close, and tell the sink of an expected answer why."""
        sink = self._sink
        if sink is None:
            self._closed(clean=False)
            return
        self.detach()
        self._keeper.retire(self)
        sink.on_broken(error)

    def abort(self) -> None:
        """Close the transport at once, if it is open at all."""
        self._usable = False
        if self._opened:
            self._transport.abort()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._opened = True
        self._keeper.opened(self)

    def data_received(self, data: bytes) -> None:
        """Give the sink what these bytes hold: head, body, end."""
        sink = self._sink
        if sink is None:
            self._closed(clean=False)  # nobody asked: what follows could not be told apart
            return
        self.read_at = self._clock()
        reader = self._reader
        body = reader.feed(data)
        if not self._head_given and reader.head_done:
            self._head_given = True
            sink.on_head(reader.status, reader.headers, reader.length)
            if self._sink is not sink:
                return
        if body:
            sink.on_body(body)
            if self._sink is not sink:
                return
        if reader.ended:
            self._finish(sink)

    def eof_received(self) -> None:
        """Take the provider's orderly close: it may end the answer. The transport closes itself."""
        self._closed(clean=True)

    def connection_lost(self, _: Exception | None) -> None:
        """Take any other close: it ends no answer.

        TLS cut off without close_notify comes here without `eof_received` (uvloop), so a body
        that runs to the close cannot be cut short unseen.
        """
        self._closed(clean=False)
        self._reader.close()
        self._keeper.lost(self)

    # The ways an exchange ends here

    def _finish(self, sink: ResponseSink) -> None:
        reader = self._reader
        self.detach()
        self._served = True
        if self._paused:
            self.resume()
        if reader.keep_alive and self.is_alive() and not self._transport.get_write_buffer_size():
            self._keeper.release(self)
        else:
            self._keeper.retire(self)
        if reader.error is None:
            sink.on_end()
        else:
            sink.on_broken(reader.error)

    def _closed(self, *, clean: bool) -> None:
        self._usable = False
        exchange, sink = self._exchange, self._sink
        if exchange is None:
            self._keeper.retire(self)
        elif sink is None:
            self.leave_slot_to(exchange)
        elif self._served and self._reader.untouched and exchange.may_go_out_again:
            self.leave_slot_to(exchange)
            exchange.go_out_again()
        else:
            self._reader.feed_eof(clean=clean)
            self._finish(sink)

    def leave_slot_to(self, exchange: "UpstreamExchange") -> None:
        """Close; the exchange may open another connection."""
        self.detach()
        exchange.holds_slot = True
        self._keeper.retire(self, keep_slot=True)


class UpstreamExchange:
    """One call's request and answer: `send` once; `pause`, `resume`, `cancel` at any time.

    After the answer's end nothing that is asked of it has any effect. A request that finds its
    connection dead before the first byte is written goes out on a new one; so does, once, an
    idempotent one that an idle connection did not answer with a single byte. The sink sees nothing
    of either.
    """

    __slots__ = ("_keeper", "_over", "_request", "_sink", "_written", "connection", "holds_slot")

    def __init__(self, keeper: Keeper, sink: ResponseSink) -> None:
        self._keeper = keeper
        self._sink = sink
        self._request: _Request | None = None  # as long as it may have to go out again
        self._written = False
        self._over = False
        self.connection: UpstreamConnection | None = None
        self.holds_slot = False

    def send(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> None:
        """Write the request; all that goes wrong from here on is told to the sink.

        `headers` are without `Host` and framing headers. Raises BadCall (`invalid_header`) before
        anything is written; the exchange is over then.
        """
        if self._over:
            return
        try:
            head = request_head(self._keeper.origin, method, target, headers, len(body))
        except BadCall:
            self.cancel()
            raise
        request = (method, head, body)
        connection = self.connection
        if connection is not None and connection.is_alive():
            if method in _IDEMPOTENT:
                self._request = request
            self._written = True
            connection.start(self._sink, request)
            return
        self._request = request
        if connection is not None:
            connection.leave_slot_to(self)
        self.go_out_again()

    def pause(self) -> None:
        """Stop reading the answer."""
        if self._written and self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        """Go on reading the answer."""
        if self.connection is not None:
            self.connection.resume()

    def cancel(self) -> None:
        """Give up: the sink hears no more. A connection that nothing was written to is kept."""
        self._over = True
        connection = self.connection
        if connection is not None:
            connection.detach()
            if self._written:
                self._keeper.retire(connection)
            else:
                self._keeper.release(connection)
        elif self.holds_slot:
            self.holds_slot = False
            self._keeper.give_up_slot()

    # Going out on another connection

    @property
    def may_go_out_again(self) -> bool:
        """Return whether the request may be written a second time."""
        return self._request is not None

    def go_out_again(self) -> None:
        """Ask for another connection on the slot that this exchange holds."""
        self.holds_slot = False
        self._keeper.reconnect(self)

    def reconnected(self, connection: UpstreamConnection) -> None:
        """Write the request, for the last time, on the connection that was asked for."""
        request, self._request = self._request, None
        if self._over or request is None:
            self._keeper.release(connection)
        elif connection.is_alive():
            connection.attach(self)
            self._written = True
            connection.start(self._sink, request)
        else:
            self._keeper.retire(connection)
            self.failed(BROKEN, "the provider closed a new connection at once")

    def failed(self, code: str, message: str) -> None:
        """Tell the sink that no other connection could be opened."""
        if not self._over:
            self._over = True
            self._sink.on_broken(UpstreamError(code, message, sent=self._written))
