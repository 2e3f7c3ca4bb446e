"""One answer on its way to a client: framed as the client can read it, cut if it is not whole."""

from http import HTTPStatus
from typing import Protocol

from gateway.core.headers import Headers
from gateway.ports import Answer, Flow

_REASONS = {status.value: status.phrase.encode("latin-1") for status in HTTPStatus}
_NO_BODY = frozenset({204, 304})


class Connection(Protocol):
    """A client's connection, as an answer sees it."""

    is_slow: bool

    def write(self, data: bytes) -> None:
        """Write to the client."""

    def answered(self, *, keep_alive: bool) -> None:
        """End the answer."""

    def abort(self) -> None:
        """Close at once."""


class ClientAnswer:
    """ports.Downstream: one answer on a client's connection."""

    def __init__(
        self, connection: Connection, method: bytes, *, keep_alive: bool, http_1_0: bool
    ) -> None:
        self._connection: Connection | None = connection
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

    def close_behind(self) -> None:
        """End the connection with this answer, unless its head has said otherwise already."""
        if not self.started:
            self._keep_alive = False

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
