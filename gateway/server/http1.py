"""The client side of the data plane: HTTP/1.1 as strict as a proxy has to be, over llhttp.

Facts about httptools 0.9 that this file answers (`docs/wire.md`): trailers arrive in `on_header`;
missing or repeated Host, HTTP/0.9, HTTP/1.0 with chunked and `gzip, chunked` are accepted by the
parser; there are no header caps; an upgrade ends parsing with the body unread. Everything that two
HTTP parsers could read differently is refused here (`framing`); what may take how long and cost how
much is in `limits`.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import httptools

from gateway.core.headers import RULES, Headers
from gateway.core.keys import key_problem
from gateway.ports import Answer, Clock, Request
from gateway.server.answer import ClientAnswer
from gateway.server.framing import (
    framing_problem,
    head_without_upgrade,
    method_problem,
    upgrade_problem,
)
from gateway.server.limits import BodyCount, Shared, Stall
from gateway.server.websocket import CarrySocket, ClientSocket, asks_for_socket, handshake_problem

_MOST_PIPELINED = 16
_LINGER_S = 1.0
_MOST_COLLECTED_BYTES = 65_536
_HEADER_OVERHEAD = 4  # colon, blank, line end

Carry = Callable[[Request, ClientAnswer], None]
Refuse = Callable[[str, str], tuple[Answer, str]]
"""Words the answer for a code and a message, with header lines, each ended by CRLF."""


class ClientConnection(asyncio.Protocol):
    """One client connection: parses requests, hands them on one at a time, keeps it alive."""

    def __init__(
        self,
        carry: Carry,
        refuse: Refuse,
        clock: Clock,
        shared: Shared,
        carry_socket: CarrySocket | None = None,
    ) -> None:
        self._carry = carry
        self._carry_socket = carry_socket
        self._worded = refuse
        self._clock = clock
        self._shared = shared
        self._limits = shared.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._address: str | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._waiting: deque[tuple[Request, ClientAnswer]] = deque()
        self._current: ClientAnswer | None = None
        self._current_bytes = 0  # of the body of the call that is carried
        self._parser = httptools.HttpRequestParser(self)
        self._refused = False
        self._lingers = False
        self._closing = False
        self._waits_for_room = False
        self.is_slow = False
        self._received_at = self._since = clock()
        self._stall = Stall(shared.limits.write_stall_s)
        self._body_count = BodyCount(shared.limits)
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._framing: Headers = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_stated = 0
        self._unfinished_head_bytes = 0  # with a line that only the parser has seen so far
        self._in_head = False
        self._in_body = False
        self._upgrade_ignored = False
        self._socket_asked = False

    # asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; turn the client away if there are too many."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport, always
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        problem = self._shared.admit(self, address)
        if not problem:
            self._address = address
        elif self._shared.has_room_to_explain:
            self._refuse("gateway_overloaded", problem)
        else:
            self._refused = True
            self.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the open call that its client is gone; requests that wait are dropped."""
        self._shared.leave(self, self._address)
        self._transport = None
        self._drop_body()
        waiting = sum(len(request.body) for request, _ in self._waiting)
        self._waiting.clear()
        if waiting or self._current_bytes:
            self._shared.room.give_back(0, waiting + self._current_bytes)
            self._current_bytes = 0
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
        if self._refused:
            return
        self._received_at = self._clock()
        was_in_head, was_in_body, body_bytes = self._in_head, self._in_body, self._body_bytes
        try:
            self._parse(data)
        except httptools.HttpParserCallbackError:
            raise  # a failure of ours: the loop reports it and closes
        except httptools.HttpParserError as error:
            self._refuse("invalid_request", f"The request is not valid HTTP/1.1: {error}")
        if self._in_head or self._in_body:
            self._count(len(data), was_in_head, was_in_body, body_bytes)

    def _count(self, size: int, was_in_head: bool, was_in_body: bool, body_bytes: int) -> None:
        """Hold an unfinished request to the caps that the parser does not know."""
        if self._in_body and was_in_body:
            if not self._body_count.add(size, self._body_bytes - body_bytes, self._body_bytes):
                self._refuse("invalid_request", "The body's chunks are mostly not data.")
        elif self._in_head and was_in_head:
            self._unfinished_head_bytes += size
            if self._unfinished_head_bytes > 2 * self._limits.head_bytes:
                self._refuse_head()
        if self._body and self._shared.room.is_full:
            self._wait_for_room()

    def _parse(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:  # the parser would skip the body
                if self._refused:
                    return
                rest = memoryview(rest)[upgrade.args[0] :]
                if self._socket_asked:
                    self._hand_over(bytes(rest))
                    return
                head = head_without_upgrade(
                    self._parser.get_method(),
                    self._target,
                    self._parser.get_http_version(),
                    self._headers,
                )
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)
            else:
                return

    # httptools ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a request."""
        self._reset()
        self._in_head = True
        self._since = self._received_at

    def on_url(self, url: bytes) -> None:
        """Collect the request target, which may come in pieces."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers are dropped: they could inject tags after the fact."""
        if self._in_body or self._refused:
            return
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head before the body is read."""
        if self._refused:
            return
        self._in_head = False
        self._in_body = True
        limits = self._limits
        headers = self._headers
        head_bytes = sum([len(name) + len(value) + _HEADER_OVERHEAD for name, value in headers])
        self._framing = [
            (RULES[name].lower, value) for name, value in headers if RULES[name].frames
        ]
        if head_bytes + len(self._target) > limits.head_bytes:
            self._refuse_head()
        elif len(headers) > limits.headers:
            self._refuse("head_too_large", f"The head has more than {limits.headers} headers.")
        elif problem := self._head_problem():
            self._refuse("invalid_request", problem)
        elif self._shared.needs_key and (problem := key_problem(headers)):
            self._refuse("invalid_key", problem)  # before its body costs anything
        elif self._socket_asked:
            self._check_handshake()
        elif not self._upgrade_ignored:
            self._begin_body()

    def _head_problem(self) -> str:
        problem = method_problem(self._parser.get_method())
        problem = problem or framing_problem(self._parser.get_http_version(), self._framing)
        if not problem and self._parser.should_upgrade():
            if self._carry_socket is not None and asks_for_socket(self._framing):
                self._socket_asked = True
                return ""
            problem = upgrade_problem(self._framing)
            self._upgrade_ignored = not problem
        return problem

    def _check_handshake(self) -> None:
        """Refuse a handshake that is not sound, or that the gateway has no room for."""
        code, problem = handshake_problem(
            self._parser.get_method(),
            self._parser.get_http_version(),
            self._headers,
            self._limits.socket_origins,
        )
        if problem:
            self._refuse(code, problem)
        elif self._current is not None or self._waiting:
            self._refuse("invalid_request", "A WebSocket's handshake must not be pipelined.")
        elif self._shared.is_overloaded or self._closing:
            self._refuse("gateway_overloaded", "The gateway has no room for a WebSocket now.")

    def _hand_over(self, early: bytes) -> None:
        """Give the connection to a WebSocket; nothing of it concerns this protocol any more."""
        transport, self._transport = self._transport, None
        if transport is None or self._carry_socket is None or transport.is_closing():
            return
        key = next(value for name, value in self._headers if name.lower() == b"sec-websocket-key")
        client = ClientSocket(self._shared, self._clock, self._address, key.strip())
        client.take_over(transport, self, early)
        self._in_head = self._in_body = False
        request = Request(
            self._parser.get_method(), self._target, self._headers, b"", self._received_at
        )
        self._carry_socket(request, client)

    def _begin_body(self) -> None:
        for name, value in self._framing:
            if name == b"content-length":
                self._body_stated = int(value)
                if self._body_stated > self._limits.body_bytes:
                    self._refuse_body()
                    return
        for name, value in self._framing:
            if name != b"expect":
                continue
            if value.lower() != b"100-continue":
                self._refuse("expectation_failed", "Only 100-continue can be expected here.")
            elif not self._current and self._parser.get_http_version() == "1.1":
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._body_count.begin(self._received_at)

    def on_body(self, data: bytes) -> None:
        """Collect body bytes within the cap."""
        if self._refused:
            return
        self._body_bytes += len(data)
        self._shared.room.used += len(data)
        self._body.append(data)
        if self._body_bytes > self._limits.body_bytes:
            self._refuse_body()

    def on_message_complete(self) -> None:
        """Carry the request, or let it wait for the one before it."""
        if self._refused or self._upgrade_ignored or self._socket_asked:
            return
        self._in_body = False
        method = self._parser.get_method()
        answer = ClientAnswer(
            self,
            method,
            keep_alive=self._parser.should_keep_alive() and not self._closing,
            http_1_0=self._parser.get_http_version() == "1.0",
        )
        request = Request(
            method, self._target, self._headers, b"".join(self._body), self._received_at
        )
        if self._body:
            self._shared.room.complete(self, self._body_bytes)
            self._body = []
        if self._current is None and not self._waiting:
            self._begin(request, answer)
            return
        self._waiting.append((request, answer))
        if len(self._waiting) == _MOST_PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    def _begin(self, request: Request, answer: ClientAnswer) -> None:
        self._current = answer
        self._current_bytes = len(request.body)
        if not self._shared.is_overloaded:
            self._carry(request, answer)
            return
        message = "The gateway has more to do than it can; ask again shortly."
        answer.send(*self._worded("gateway_overloaded", message))

    # Bodies -------------------------------------------------------------------------------------

    @property
    def body_left(self) -> int:
        """Return how many bytes of the body are still to come, 0 if that is not known."""
        return max(0, self._body_stated - self._body_bytes)

    def go_on(self) -> None:
        """Read on, now that there is room for the body."""
        self._waits_for_room = False
        self._body_count.begin(self._clock())
        self._resume_reading()

    def _wait_for_room(self) -> None:
        room = self._shared.room
        if room.is_overrun:
            self._refuse_for_room()
        elif not self._waits_for_room and not room.exempts(self):
            self._waits_for_room = True
            self._since = self._received_at
            if self._transport is not None:
                self._transport.pause_reading()
            room.wait(self)

    def _resume_reading(self) -> None:
        transport = self._transport
        held_up = self._waits_for_room or len(self._waiting) >= _MOST_PIPELINED
        if transport is not None and not held_up and not transport.is_closing():
            transport.resume_reading()

    def _drop_body(self) -> None:
        """Give back the room of a body that will not be whole."""
        if self._in_body:
            self._shared.room.give_back(sum(map(len, self._body)), 0)
            self._body = []
            self._in_body = False
            self._shared.room.forget(self)

    # For the answers ----------------------------------------------------------------------------

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
        self._since = self._clock()
        if self._current_bytes:
            self._shared.room.give_back(0, self._current_bytes)
            self._current_bytes = 0
        if not keep_alive or self._closing:
            if self._refused:
                self._linger()
            else:
                self.close()
        elif self._waiting:
            self._loop.call_soon(self._next)
        elif self._refused:
            self._linger()

    def _next(self) -> None:
        if self._waiting and self._transport is not None:
            request, answer = self._waiting.popleft()
            self._resume_reading()
            self._begin(request, answer)

    def _linger(self) -> None:
        """Let the client read our answer: closing on unread input would reset the connection."""
        self._flush()
        self._lingers = True
        self._since = self._clock()
        if self._transport is not None and not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # the client has reset the connection, and we have not read that yet
                self._transport.abort()

    def close(self) -> None:
        """Close after what is written has gone out."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def end_with_next_answer(self) -> bool:
        """Make the next answer that begins the last one; return whether the client is idle."""
        if self._current is None:
            self._closing = True
            return not (self._in_head or self._in_body)
        self._current.close_behind()
        return False

    def abort(self) -> None:
        """Close at once; what was relayed so far still goes out if the client takes it."""
        self._flush()
        self._current = None
        if self._transport is not None:
            self._transport.abort()

    # Deadlines and refusals ---------------------------------------------------------------------

    def check_deadlines(self, now: float) -> None:
        """End what takes too long: called once a second."""
        transport = self._transport
        if transport is None:
            return
        if self._stall.lasts(transport, now):
            self._shared.connections_cut += 1
            transport.abort()  # connection_lost tells the call
        elif self._lingers:
            if now - self._since > _LINGER_S:
                self.close()
        elif not (self._refused or transport.is_closing() or len(self._waiting) >= _MOST_PIPELINED):
            self._check_request(now, now - self._since)

    def _check_request(self, now: float, lasts: float) -> None:
        if self._waits_for_room:
            if lasts > self._limits.body_grace_s:
                self._refuse_for_room()
        elif self._in_head:
            if lasts > self._limits.header_s:
                self._time_out("The request's headers did not come in time.")
        elif self._in_body:
            if self._body_count.is_slow(now):
                self._time_out("The request's body came too slowly.")
        elif self._current is None and not self._waiting and lasts > self._limits.idle_s:
            self.close()

    def _time_out(self, message: str) -> None:
        self._shared.connections_cut += 1
        self._refuse("request_timeout", message)

    def _refuse_for_room(self) -> None:
        self._refuse("gateway_overloaded", "The gateway has no room for the request's body.")

    def _refuse_head(self) -> None:
        self._refuse(
            "head_too_large", f"The request head is larger than {self._limits.head_bytes} bytes."
        )

    def _refuse_body(self) -> None:
        self._refuse(
            "body_too_large", f"The request body is larger than {self._limits.body_bytes} bytes."
        )

    def _refuse(self, code: str, message: str) -> None:
        """Answer a request that is not carried, and close: what follows cannot be trusted."""
        if self._refused:
            return
        self._refused = True
        self._drop_body()
        self._waits_for_room = False
        self._resume_reading()  # so that the client's end is noticed
        if self._current is not None or self._waiting:
            return  # answered() closes after the open calls
        self._current = ClientAnswer(self, b"", keep_alive=False, http_1_0=False)
        self._current.send(*self._worded(code, message))
