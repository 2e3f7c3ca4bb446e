"""One end of a WebSocket: frames in and out, whole messages, ping and pong, the closing handshake.

Both ends of a relayed socket are one of these: `server/websocket.py`, `upstream/websocket.py`.
wsproto does the framing (RFC 6455); no extension is ever agreed on, so a message means the same on
both sides, however it is cut into frames. Pings are answered here, hop by hop.
"""

import asyncio
from typing import cast

from wsproto import WSConnection
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from gateway.ports import Clock, SocketSink

NORMAL, GOING_AWAY, TOO_BIG, POLICY, INTERNAL = 1000, 1001, 1009, 1008, 1011
LOST, NO_CODE = 1006, 1005
_CLOSE_S = 5.0  # for the other end to answer a close
_LONGEST_REASON = 123  # bytes
_LEAST_SENT, _MOST_SENT = 1_000, 4_999
_NEVER_SENT = frozenset({1004, NO_CODE, LOST, 1015})


def sendable(code: int) -> int:
    """Return a close code as it may be sent on: those that only a local end may see are others."""
    if code == NO_CODE:
        return NORMAL
    return GOING_AWAY if code in _NEVER_SENT or not _LEAST_SENT <= code <= _MOST_SENT else code


class FrameSocket(asyncio.Protocol):
    """ports.Socket over a transport. Nothing raises; after `on_close` the sink hears no more."""

    def __init__(self, clock: Clock, most_bytes: int) -> None:
        self._clock = clock
        self._most_bytes = most_bytes
        self._frames: Connection | WSConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._sink: SocketSink | None = None
        self._pieces: list[str | bytes] = []
        self._size = 0
        self._slow = False
        self._paused = False
        self._pinged = False
        self._closing_at: float | None = None
        self.heard_at = self.active_at = clock()

    # For the way of a socket --------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Return whether messages can still be sent."""
        return (
            self._transport is not None
            and self._frames is not None
            and self._frames.state is ConnectionState.OPEN
        )

    def attach(self, sink: SocketSink) -> None:
        """Tell `sink` from now on what comes, and how the other end is doing."""
        self._sink = sink
        if self._transport is None:
            self._end(LOST, "")
        elif self._slow:
            sink.on_slow()

    def send(self, message: str | bytes) -> None:
        """Send a message, if the socket is open."""
        self.active_at = self._clock()
        if isinstance(message, str):
            self._send(TextMessage(data=message))
        else:
            self._send(BytesMessage(data=message))

    def close(self, code: int = GOING_AWAY, reason: str = "") -> None:
        """Send a close frame behind what was sent; what comes then is dropped."""
        self._sink = None
        if not self.is_open:
            return
        cut = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
        self._send(CloseConnection(code=sendable(code), reason=cut or None))
        self._closing_at = self._clock()
        self.resume()

    def pause(self) -> None:
        """Stop reading."""
        if not self._paused and self._transport is not None and self._closing_at is None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._paused and self._transport is not None:
            self._paused = False
            self.heard_at = self._clock()
            self._transport.resume_reading()

    # asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Give the sink what these bytes complete."""
        self.heard_at, self._pinged = self._clock(), False
        if self._frames is None:
            return
        try:
            self._frames.receive_data(data)
        except LocalProtocolError:  # behind the closing handshake
            return
        for event in self._frames.events():
            self._take(event)

    def connection_lost(self, _: Exception | None) -> None:
        """Take note that the other end is gone."""
        self._transport = None
        self._drop()
        self._end(LOST, "")

    def pause_writing(self) -> None:
        """Pass on that the other end reads too slowly."""
        self._slow = True
        if self._sink is not None:
            self._sink.on_slow()

    def resume_writing(self) -> None:
        """Pass on that it has caught up."""
        self._slow = False
        if self._sink is not None:
            self._sink.on_caught_up()

    # Frames -------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        if isinstance(event, TextMessage | BytesMessage):
            self._take_piece(event)
        elif isinstance(event, Ping):
            self._send(event.response())
        elif isinstance(event, CloseConnection):
            self._take_close(event)

    def _take_piece(self, event: TextMessage | BytesMessage) -> None:
        if self._closing_at is not None:
            return
        data = event.data if isinstance(event.data, str) else bytes(event.data)
        if data:
            self._pieces.append(data)
            self._size += len(data)
            self._hold(len(data))
        if self._size > self._most_bytes:
            why = f"a message is larger than {self._most_bytes} bytes"
            self._drop()
            self._finish(TOO_BIG, why)
        elif event.message_finished:
            empty: str | bytes = "" if isinstance(data, str) else b""
            message = empty.join(self._pieces)  # type: ignore[arg-type]  # all are of one type
            self._drop()
            self.active_at = self.heard_at
            if self._sink is not None:
                self._sink.on_message(message)

    def _drop(self) -> None:
        size, self._size = self._size, 0
        self._pieces = []
        if size:
            self._hold(-size)

    def _hold(self, size: int) -> None:
        """Take note of bytes of an unfinished message that are held, or no longer."""

    def _take_close(self, event: CloseConnection) -> None:
        """Answer a close frame, or frames that are not sound, and close the connection."""
        code, reason = int(event.code), event.reason or ""
        if self._frames is not None and self._frames.state is ConnectionState.REMOTE_CLOSING:
            self._send(event.response())
            self._end(code, reason)
        elif self._closing_at is None:
            self._finish(code, reason)
        self._hang_up()

    def _finish(self, code: int, reason: str) -> None:
        """Close for a fault of the other end, and tell the sink."""
        sink = self._sink
        self.close(code, reason)
        self._sink = sink
        self._end(code, reason)

    def _end(self, code: int, reason: str) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_close(code, reason)

    def _send(self, event: Event) -> None:
        if self._frames is None or self._transport is None or self._transport.is_closing():
            return
        try:
            data = self._frames.send(event)
        except LocalProtocolError:  # closed meanwhile
            return
        self._transport.write(data)

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # Once a second ------------------------------------------------------------------------------

    def check_silence(self, now: float, ping_s: float, most_s: float) -> bool:
        """Ping an end that says nothing; return whether it has to be cut."""
        if self._closing_at is not None:
            return now - self._closing_at > _CLOSE_S
        if self._paused:
            return False
        silent_s = now - self.heard_at
        if silent_s > ping_s and not self._pinged:
            self._pinged = True
            self._send(Ping())
        return silent_s > most_s
