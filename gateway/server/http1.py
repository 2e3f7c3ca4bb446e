"""The client side of the data plane: HTTP/1.1 as strict as a proxy has to be, over llhttp.

Facts about httptools 0.9 that this file answers (`docs/wire.md`): trailers arrive in `on_header`;
missing or repeated Host, HTTP/0.9, HTTP/1.0 with chunked and `gzip, chunked` are accepted by the
parser; there are no header caps; an upgrade ends parsing with the body unread. Everything that two
HTTP parsers could read differently is refused here.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus

import httptools

from gateway.core.headers import Headers
from gateway.ports import Answer, Clock, Flow, Request

_REASONS = {status.value: status.phrase.encode("latin-1") for status in HTTPStatus}
_NO_BODY = frozenset({204, 304})
_MOST_PIPELINED = 16
_LINGER_S = 1.0
_MOST_COLLECTED_BYTES = 65_536

Carry = Callable[[Request, "ClientAnswer"], None]
Refuse = Callable[[str, str], tuple[Answer, str]]
"""Words the answer for a code and a message, with header lines, each ended by CRLF."""


class ClientAnswer:
    """ports.Downstream: one answer on a client's connection."""

    def __init__(
        self, connection: "ClientConnection", method: bytes, *, keep_alive: bool, http_1_0: bool
    ) -> None:
        self._connection: ClientConnection | None = connection
        self._keep_alive = keep_alive
        self._http_1_0 = http_1_0
        self._is_head = method == b"HEAD"
        self._chunked = False
        self._has_body = True
        self._left: int | None = None
        self.started = False
        self.flow: Flow | None = None

    @property
    def is_open(self) -> bool:
        """Return whether the client is still there."""
        return self._connection is not None

    def attach(self, flow: Flow) -> None:
        """Tell `flow` how the client is doing; at once, if it has left already."""
        self.flow = flow
        if self._connection is None:
            flow.client_left()
        elif self._connection.is_slow:
            flow.client_is_slow()

    def start(self, status: int, headers: Headers, budget_lines: str, length: int | None) -> None:
        """Send the status line and headers with the framing that fits the client."""
        if self._connection is None:
            return
        self.started = True
        self._has_body = not self._is_head and status not in _NO_BODY
        self._left = length if self._has_body else None
        self._chunked = length is None and self._has_body and not self._http_1_0
        if length is None and self._has_body and self._http_1_0:
            self._keep_alive = False
        lines = [b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b"Unknown"))]
        lines += [b"%b: %b" % header for header in headers]
        if self._chunked:
            lines.append(b"transfer-encoding: chunked")
        elif length is not None and status not in _NO_BODY:
            lines.append(b"content-length: %d" % length)
        if not self._keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        self._connection.write(b"%b\r\n%b\r\n" % (head, budget_lines.encode("latin-1")))

    def write(self, data: bytes) -> None:
        """Send body bytes."""
        if self._connection is None or not self._has_body or not data:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._left is not None:
            self._left -= len(data)
        self._connection.write(data)

    def finish(self) -> None:
        """End the answer. One that is not as long as it said is cut instead."""
        connection = self._connection
        if connection is None:
            return
        if self._left:
            self.abort()
            return
        if self._chunked:
            connection.write(b"0\r\n\r\n")
        self._connection = None
        connection.answered(keep_alive=self._keep_alive)

    def abort(self) -> None:
        """Cut the connection, so that the answer cannot be taken for whole."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def lost(self) -> None:
        """Take note that the connection is gone."""
        self._connection = None
        if self.flow is not None:
            self.flow.client_left()

    def send(self, answer: Answer, budget_lines: str) -> None:
        """Send a whole answer of the gateway's own."""
        self.start(answer.status, answer.headers, budget_lines, len(answer.body))
        self.write(answer.body)
        self.finish()


class OpenConnections(set["ClientConnection"]):
    """The connections of one listener; `none_left` is set while there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.none_left = asyncio.Event()
        self.none_left.set()

    def enter(self, connection: "ClientConnection") -> None:
        """Take in a connection."""
        self.add(connection)
        self.none_left.clear()

    def leave(self, connection: "ClientConnection") -> None:
        """Let a connection go."""
        self.discard(connection)
        if not self:
            self.none_left.set()


class ClientConnection(asyncio.Protocol):
    """One client connection: parses requests, hands them on one at a time, keeps it alive."""

    def __init__(
        self,
        carry: Carry,
        refuse: Refuse,
        clock: Clock,
        open_connections: "OpenConnections",
        *,
        max_head_bytes: int,
        max_body_bytes: int,
    ) -> None:
        self._carry = carry
        self._worded = refuse
        self._clock = clock
        self._open_connections = open_connections
        self._max_head_bytes = max_head_bytes
        self._max_body_bytes = max_body_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._waiting: deque[tuple[Request, ClientAnswer]] = deque()
        self._current: ClientAnswer | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._refused = False
        self._closing = False
        self.is_slow = False
        self.last_active_at = clock()
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._unfinished_head_bytes = 0  # with a line that only the parser has seen so far
        self._in_head = False
        self._in_body = False

    # asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport, always
        self._open_connections.enter(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the open call that its client is gone; requests that wait are dropped."""
        self._open_connections.leave(self)
        self._transport = None
        self._waiting.clear()
        current, self._current = self._current, None
        if current is not None:
            current.lost()

    def pause_writing(self) -> None:
        """Pass on that the client reads too slowly."""
        self.is_slow = True
        if self._current is not None and self._current.flow is not None:
            self._current.flow.client_is_slow()

    def resume_writing(self) -> None:
        """Pass on that the client has caught up."""
        self.is_slow = False
        if self._current is not None and self._current.flow is not None:
            self._current.flow.client_caught_up()

    def data_received(self, data: bytes) -> None:
        """Parse; whole requests are carried from `on_message_complete`."""
        self.last_active_at = self._clock()
        if self._refused:
            return
        was_in_head = self._in_head
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a failure of ours: the loop reports it and closes
        except httptools.HttpParserUpgrade:
            return  # refused with its head
        except httptools.HttpParserError as error:
            self._refuse("invalid_request", f"The request is not valid HTTP/1.1: {error}")
        if was_in_head and self._in_head:
            self._unfinished_head_bytes += len(data)
            if self._unfinished_head_bytes > 2 * self._max_head_bytes:
                self._refuse_head()

    # httptools ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a request."""
        self._reset()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """Collect the request target, which may come in pieces."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers are dropped: they could inject tags after the fact."""
        if self._in_body:
            return
        self._headers.append((name, value))
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        """Check the head before the body is read."""
        self._in_head = False
        self._in_body = True
        if self._head_bytes + len(self._target) > self._max_head_bytes:
            self._refuse_head()
            return
        problem = framing_problem(self._parser.get_http_version(), self._headers)
        if self._parser.should_upgrade():  # the parser would skip the body
            problem = "Protocol upgrades are not supported here."
        if problem:
            self._refuse("invalid_request", problem)
            return
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-length" and int(value) > self._max_body_bytes:
                self._refuse_body()
                return
            if lower == b"expect" and value.lower() == b"100-continue" and not self._current:
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Collect body bytes within the cap."""
        if self._refused:
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._max_body_bytes:
            self._refuse_body()
            return
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Carry the request, or let it wait for the one before it."""
        self._in_body = False
        if self._refused:
            return
        http_1_0 = self._parser.get_http_version() == "1.0"
        method = self._parser.get_method()
        answer = ClientAnswer(
            self,
            method,
            keep_alive=self._parser.should_keep_alive() and not self._closing,
            http_1_0=http_1_0,
        )
        request = Request(
            method, self._target, self._headers, b"".join(self._body), self.last_active_at
        )
        self._body = []
        if self._current is not None:
            self._waiting.append((request, answer))
            if len(self._waiting) >= _MOST_PIPELINED and self._transport is not None:
                self._transport.pause_reading()
            return
        self._current = answer
        self._carry(request, answer)

    # For the answers ----------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Return whether a call is being carried."""
        return self._current is not None

    @property
    def is_between_requests(self) -> bool:
        """Return whether nothing of a next request has come yet."""
        return not self._current and not self._in_head and not self._in_body

    def write(self, data: bytes) -> None:
        """Write to the client at the end of this loop turn, all pieces in one system call."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > _MOST_COLLECTED_BYTES:
            self._flush()

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        if self._transport is not None and out:
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])

    def answered(self, *, keep_alive: bool) -> None:
        """End an answer: carry the next request that waits, or close."""
        self._current = None
        self.last_active_at = self._clock()
        if self._refused:
            self._linger()
        elif not keep_alive or self._closing:
            self.close()
        elif self._waiting and self._transport is not None:
            request, self._current = self._waiting.popleft()
            self._transport.resume_reading()
            self._carry(request, self._current)

    def _linger(self) -> None:
        """Let the client read our answer: closing on unread input would reset the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.write_eof()
            self._loop.call_later(_LINGER_S, self.close)

    def close(self) -> None:
        """Close after what is written has gone out."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def close_when_answered(self) -> None:
        """Take no further request: close now, or after the open answer."""
        self._closing = True
        if self._current is None:
            self.close()

    def abort(self) -> None:
        """Close at once; what was relayed so far still goes out if the client takes it."""
        self._flush()
        self._current = None
        if self._transport is not None:
            self._transport.abort()

    def _refuse_head(self) -> None:
        self._refuse(
            "head_too_large", f"The request head is larger than {self._max_head_bytes} bytes."
        )

    def _refuse_body(self) -> None:
        self._refuse(
            "body_too_large", f"The request body is larger than {self._max_body_bytes} bytes."
        )

    def _refuse(self, code: str, message: str) -> None:
        """Answer a request that is not carried, and close: what follows cannot be trusted."""
        if self._refused:
            return
        self._refused = True
        if self._current is not None:
            return  # answered() closes after the open call
        self._current = ClientAnswer(self, b"", keep_alive=False, http_1_0=False)
        self._current.send(*self._worded(code, message))


def framing_problem(version: str, headers: Headers) -> str:
    """Return why a head cannot be trusted to say where its body ends; empty if it can.

    Source: RFC 9112 sections 3.2 and 6.3: a proxy must not pass on what others may read otherwise.
    """
    values: dict[bytes, list[bytes]] = {
        b"host": [],
        b"content-length": [],
        b"transfer-encoding": [],
    }
    for name, value in headers:
        if name.lower() in values:
            values[name.lower()].append(value)
    hosts, lengths, codings = values.values()
    if version not in ("1.1", "1.0"):
        return f"HTTP/{version} is not supported."
    if len(hosts) > 1 or (not hosts and version != "1.0"):
        return "Exactly one Host header is required."
    if len(lengths) + len(codings) > 1:
        return "The body's length is stated more than once."
    if lengths and not lengths[0].isdigit():
        return "Content-Length must be a number."
    if codings and (version == "1.0" or codings[0].lower() != b"chunked"):
        return "Transfer-Encoding must be exactly chunked, and HTTP/1.1."
    return ""
