"""The client side of a WebSocket: the handshake's rules, and a client's end of the socket.

The HTTP parser hands the connection over once a request asks for the upgrade; until it is accepted
the client gets an HTTP answer, afterwards frames. Source: RFC 6455 section 4.2. A browser sends
`Origin` and whatever page it shows may open sockets to us, with the user's network position: so an
origin other than the gateway's own has to be configured.
"""

import asyncio
import base64
import binascii
import re
from typing import Protocol
from urllib.parse import urlsplit

from wsproto.connection import Connection, ConnectionType
from wsproto.utilities import generate_accept_token

from gateway.core.headers import Headers
from gateway.frames import GOING_AWAY, FrameSocket
from gateway.ports import Answer, Clock, Request
from gateway.server.answer import ClientAnswer
from gateway.server.limits import Guest, Shared, Stall

_KEY_BYTES = 16
_MOST_EARLY_BYTES = 65_536
_LINGER_S = 1.0
_OURS = re.compile(rb"(?i)sec-websocket-(?:accept|extensions|protocol|key|version)")


class CarrySocket(Protocol):
    """Who carries a socket from its handshake on."""

    def __call__(self, request: Request, client: "ClientSocket") -> None:
        """Carry it; the client is accepted or refused later."""


def asks_for_socket(framing: Headers) -> bool:
    """Return whether a request that wants an upgrade wants a WebSocket, and nothing else."""
    wanted = [value for name, value in framing if name == b"upgrade"]
    return len(wanted) == 1 and wanted[0].strip().lower() == b"websocket"


def handshake_problem(
    method: bytes, version: str, headers: Headers, origins: tuple[str, ...]
) -> tuple[str, str]:
    """Return code and message of why a handshake is refused; empty if it is sound."""
    said: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        said.setdefault(name.lower(), []).append(value.strip())
    if method != b"GET" or version != "1.1":
        return "invalid_request", "A WebSocket is opened by GET and HTTP/1.1."
    if {b"content-length", b"transfer-encoding", b"expect"} & said.keys():
        return "invalid_request", "A WebSocket's handshake has no body."
    if said.get(b"sec-websocket-version") != [b"13"]:
        return "invalid_request", "Sec-WebSocket-Version must be 13."
    keys = said.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _is_key(keys[0]):
        return "invalid_request", "Sec-WebSocket-Key must be 16 bytes in base64, once."
    return _origin_problem(said, origins)


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _origin_problem(said: dict[bytes, list[bytes]], origins: tuple[str, ...]) -> tuple[str, str]:
    given = said.get(b"origin", [])
    if not given:
        return "", ""
    origin = given[0].decode("latin-1").lower().rstrip("/")
    own = said[b"host"][0].decode("latin-1").lower()
    try:
        is_own = urlsplit(origin).netloc == own and origin.startswith(("http://", "https://"))
    except ValueError:
        is_own = False
    if len(given) == 1 and (is_own or origin in origins or "*" in origins):
        return "", ""
    message = "Pages of this origin may not open a WebSocket here (server.websocket_origins)."
    return "forbidden_origin", message


class ClientSocket(FrameSocket):
    """ports.ClientSocket and limits.Guest: one client's end, from its handshake to its close."""

    is_slow = False  # for ClientAnswer

    def __init__(self, shared: Shared, clock: Clock, address: str | None, key: bytes) -> None:
        super().__init__(clock, shared.limits.body_bytes)
        self._shared = shared
        self._address = address
        self._key = key
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._refused_at: float | None = None
        self._leaving = False
        self._stall = Stall(shared.limits.write_stall_s)

    def take_over(self, transport: asyncio.Transport, guest: Guest, early: bytes) -> None:
        """Take the connection from the protocol that read the handshake."""
        self.connection_made(transport)
        self._shared.guests.discard(guest)
        self._shared.guests.add(self)
        transport.set_protocol(self)
        if early:
            self.data_received(early)

    # ports.ClientSocket -------------------------------------------------------------------------

    def accept(self, headers: Headers, lines: str) -> None:
        """Accept the handshake; `headers` are the provider's, `lines` ours, each ended by CRLF."""
        if self._transport is None:
            return
        head = [
            b"HTTP/1.1 101 Switching Protocols",
            b"upgrade: websocket",
            b"connection: upgrade",
            b"sec-websocket-accept: " + generate_accept_token(self._key),
        ]
        head += [
            b"%b: %b" % (name, value)
            for name, value in headers
            if not _OURS.fullmatch(name) or name.lower() == b"sec-websocket-protocol"
        ]
        self._transport.write(b"\r\n".join(head) + b"\r\n" + lines.encode("latin-1") + b"\r\n")
        self._frames = Connection(ConnectionType.SERVER)
        early, self._early = self._early, []
        if early:
            self.data_received(b"".join(early))

    def refuse(self, answer: Answer, lines: str) -> None:
        """Answer the handshake with HTTP, and close."""
        ClientAnswer(self, b"GET", keep_alive=False, http_1_0=False).send(answer, lines)

    # answer.Connection --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write a part of an HTTP answer."""
        if self._transport is not None:
            self._transport.write(data)

    def answered(self, *, keep_alive: bool) -> None:
        """Let the client read the answer before the connection is closed."""
        self._refused_at = self._clock()
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._hang_up()

    # asyncio.Protocol ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Keep what comes before the handshake is answered; a client should send nothing then."""
        if self._frames is not None:
            super().data_received(data)
            return
        if self._refused_at is None:
            self._early.append(data)
            self._early_bytes += len(data)
            if self._early_bytes > _MOST_EARLY_BYTES:
                self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Leave."""
        self._shared.leave(self, self._address)
        super().connection_lost(error)

    def _hold(self, size: int) -> None:
        room = self._shared.room
        if size < 0:
            room.give_back(-size, 0)
            return
        room.used += size
        if room.is_overrun:
            self.abort()

    # limits.Guest -------------------------------------------------------------------------------

    def check_deadlines(self, now: float) -> None:
        """End what takes too long: called once a second."""
        transport, limits = self._transport, self._shared.limits
        if transport is None:
            return
        if self._stall.lasts(transport, now):
            self._cut()
        elif self._refused_at is not None:
            if now - self._refused_at > _LINGER_S:
                transport.close()
        elif self._frames is not None:
            if self.check_silence(now, limits.socket_ping_s, 2 * limits.socket_ping_s + 1):
                self._cut()
            elif now - self.active_at > limits.socket_idle_s:
                self._finish(GOING_AWAY, "nothing was said for too long")

    def _cut(self) -> None:
        self._shared.connections_cut += 1
        self.abort()

    def end_with_next_answer(self) -> bool:
        """Have the socket closed when its open responses have ended; it is never idle till then."""
        if not self._leaving and self._sink is not None:
            self._leaving = True
            self._sink.on_leaving()
        return False
