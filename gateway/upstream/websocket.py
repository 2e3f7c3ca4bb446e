"""A WebSocket to a provider: its handshake, and the provider's end of the socket."""

import asyncio
import re
from contextlib import suppress

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, RejectData, Request
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from gateway.core.errors import BadCall, UpstreamError
from gateway.core.headers import Headers, response_headers
from gateway.frames import FrameSocket
from gateway.ports import Answer, Clock, OpenedSocket, SocketSink
from gateway.upstream.answer import BROKEN, PROTOCOL_ERROR
from gateway.upstream.origin import Origin

_MADE_HERE = re.compile(rb"(?i)sec-websocket-(?:accept|extensions|key|version)|host")
_PROTOCOL = b"sec-websocket-protocol"
_MOST_REFUSAL_BYTES = 1_048_576
_PING_S = 30.0
_MOST_MESSAGE_BYTES = 64 * 1024 * 1024


class ProviderSocket(FrameSocket):
    """ports.Socket: opened by a Dialler, then `handshake`, then `attach`."""

    def __init__(self, origin: Origin, clock: Clock, lost: "Sockets") -> None:
        super().__init__(clock, _MOST_MESSAGE_BYTES)
        self._origin = origin
        self._lost = lost
        self._opened = False
        self._answer: asyncio.Future[AcceptConnection | Answer] | None = None
        self._refusal: Answer | None = None

    @property
    def was_opened(self) -> bool:
        """Return whether there has been a transport."""
        return self._opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        super().connection_made(transport)
        self._opened = True

    async def handshake(self, target: bytes, headers: Headers) -> OpenedSocket | Answer:
        """Ask for a WebSocket; return it, or the answer with which that was refused.

        No extension is offered. Raises UpstreamError; BadCall (`invalid_header`).
        """
        self._answer = asyncio.get_running_loop().create_future()
        frames = self._frames = WSConnection(ConnectionType.CLIENT)
        wanted = b",".join(value for name, value in headers if name.lower() == _PROTOCOL)
        others = [
            (name, value)
            for name, value in headers
            if name.lower() != _PROTOCOL and not _MADE_HERE.fullmatch(name)
        ]
        if self._origin.proxy_authorization:
            others.append((b"proxy-authorization", self._origin.proxy_authorization))
        request = Request(
            host=self._origin.host_header.decode("latin-1"),
            target=(self._origin.prefix + target).decode("latin-1"),
            subprotocols=[name for p in wanted.decode("latin-1").split(",") if (name := p.strip())],
            extra_headers=others,
        )
        try:
            data = frames.send(request)
        except (LocalProtocolError, ValueError) as error:
            raise BadCall("invalid_header", f"The handshake cannot be sent on: {error}") from None
        if self._transport is None:
            raise _broken("closed the connection at once")
        self._transport.write(data)
        answer = await self._answer
        if isinstance(answer, Answer):
            return answer
        accepted = list(response_headers(list(answer.extra_headers)))
        if answer.subprotocol:
            accepted.append((_PROTOCOL, answer.subprotocol.encode("latin-1")))
        return OpenedSocket(self, accepted)

    def attach(self, sink: SocketSink) -> None:
        """Give `sink` what came behind the handshake, and then all that comes."""
        super().attach(sink)
        if self._transport is not None and self._frames is not None:
            self.resume()
            for event in self._frames.events():
                self._take(event)

    def data_received(self, data: bytes) -> None:
        """Read the handshake's answer, then frames."""
        if self._answer is None or self._answer.done():
            super().data_received(data)
            return
        self.heard_at = self._clock()
        frames = self._frames
        try:
            if frames is not None:
                frames.receive_data(data)
                for event in frames.events():
                    self._take_answer(event)
                    if self._answer.done():
                        self.pause()  # until it is attached
                        return
        except RemoteProtocolError as error:
            self._fail(
                UpstreamError(PROTOCOL_ERROR, f"the provider's handshake: {error}", sent=True)
            )

    def _take_answer(self, event: Event) -> None:
        if self._answer is None:
            return
        if isinstance(event, AcceptConnection):
            self._answer.set_result(event)
        elif isinstance(event, RejectConnection):
            headers = response_headers(list(event.headers))
            self._refusal = Answer(event.status_code, headers, b"")
            if not event.has_body:
                self._answer.set_result(self._refusal)
        elif isinstance(event, RejectData) and self._refusal is not None:
            body = self._refusal.body + event.data
            self._refusal = Answer(self._refusal.status, self._refusal.headers, body)
            if event.body_finished or len(body) > _MOST_REFUSAL_BYTES:
                self._answer.set_result(self._refusal)

    def _fail(self, error: UpstreamError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that the provider is gone."""
        if self._refusal is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._refusal)
        self._fail(_broken("closed the connection within the handshake"))
        super().connection_lost(error)
        self._lost(self)

    def check(self, now: float, read_timeout_s: float) -> None:
        """End what takes too long: called once a second."""
        if self.check_silence(now, min(_PING_S, read_timeout_s / 2), read_timeout_s):
            self.abort()


class Sockets:
    """The sockets of one pool: who is told when one is gone."""

    def __init__(self) -> None:
        self.open: set[ProviderSocket] = set()
        self.changed = asyncio.Event()

    def __call__(self, socket: ProviderSocket) -> None:
        """Forget a socket."""
        self.open.discard(socket)
        self.changed.set()

    def check(self, now: float, read_timeout_s: float) -> None:
        """Look after all sockets: called once a second."""
        for socket in list(self.open):
            socket.check(now, read_timeout_s)

    async def close(self, wait_s: float) -> None:
        """Cut all sockets; return when they are gone."""
        for socket in list(self.open):
            socket.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self.open:
                    self.changed.clear()
                    await self.changed.wait()


def _broken(how: str) -> UpstreamError:
    return UpstreamError(BROKEN, f"the provider {how}", sent=False)
