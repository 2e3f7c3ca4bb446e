"""One client connection of the fake provider: requests in, answers out, one after another.

An answer is a generator of steps. It knows nothing of sockets; this file plays the steps as fast
as the client reads, and closes the generator when the client goes away.
"""

import asyncio
import enum
import socket
import struct
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import httptools

from loadtest.provider_journal import Received, Served
from loadtest.provider_socket import ProviderSocket

_MAX_WAITING = 32  # pipelined requests; more are left in the socket
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Pause(NamedTuple):
    """Wait; 0 ms means: until the loop has come round once, and what was written has gone."""

    ms: int


class Halt(enum.Enum):
    """The ways in which an answer ends that was not written to its end.

    The last step of an answer; but HANG is given as often as it is asked for.
    """

    HANG = "no more bytes, but the connection stays"
    CLOSE = "close after what was written"
    RESET = "reset, at once"


Step = bytes | Pause | Halt
Steps = Generator[Step, None, None]


@dataclass(slots=True)
class Answer:
    """An answer under way: its journal entry, what is left to do, and what comes after it."""

    served: Served
    steps: Steps
    keep_alive: bool


class Service(Protocol):
    """What a connection needs from the provider."""

    def opened(self, connection: "Connection") -> None:
        """Note a new connection."""

    def lost(self, connection: "Connection") -> None:
        """Forget a connection that is gone."""

    def open_socket(self, request: Received, transport: asyncio.Transport) -> ProviderSocket | None:
        """Accept a WebSocket's handshake; None if it is to be answered with HTTP."""

    def answer(self, request: Received, keep_alive: bool) -> Answer:
        """Begin an answer. A request without a method is one that could not be parsed."""

    def ended(self, served: Served) -> None:
        """Note that an answer got its last byte, or never will."""


class Connection(asyncio.Protocol):
    """Parses requests and plays their answers in order. Pipelining and back-pressure hold."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        """Make the protocol of one connection."""
        self._service = service
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Received, bool]] = deque()
        self._answer: Answer | None = None
        self._timer: asyncio.Handle | None = None
        self._client_is_behind = False
        self._is_reading = True
        self._continue_owed = False
        self._closing = False
        self._socket: ProviderSocket | None = None

    def abort(self) -> None:
        """Drop the connection with whatever is under way on it."""
        self._transport.abort()

    # Reading requests...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to read."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, no subclass
        self._service.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came and answer what is complete."""
        if self._socket is not None:
            self._socket.data_received(data)
        elif not self._closing:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._closing = True
            if isinstance(error, httptools.HttpParserError):
                self._waiting.append((Received(0, "", "", [], b""), False))
            elif self._waiting and self._answer is None:
                self._socket = self._service.open_socket(self._waiting[0][0], self._transport)
                if self._socket is not None:
                    self._waiting.clear()
                    self._socket.data_received(data[error.args[0] :])
                    return
        self._work()
        if len(self._waiting) > _MAX_WAITING and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._fields = self._headers
        self._body: list[bytes] = []
        self._expects = False

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer."""
        self._fields.append((name, value))
        if len(name) == 6 and name.lower() == b"expect":
            self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """Ask for the body if the client waits to be asked."""
        self._fields = self._trailers
        if self._expects:
            self._continue_owed = True
            self._send_continue()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Queue the request."""
        request = Received(
            number=0,
            method=self._parser.get_method().decode("latin-1"),
            target=self._target.decode("latin-1"),
            headers=self._headers,
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
            trailers=self._trailers,
        )
        self._continue_owed = False
        stays = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        self._waiting.append((request, stays))

    def _send_continue(self) -> None:
        if self._continue_owed and self._answer is None and not self._waiting:
            self._continue_owed = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # Answering...

    def _work(self) -> None:
        """Answer what is waiting until an answer has to be waited for."""
        while self._waiting and self._answer is None and not self._transport.is_closing():
            request, keep_alive = self._waiting.popleft()
            self._answer = self._service.answer(request, keep_alive)
            self._play(self._answer)
        if not self._waiting:
            self._send_continue()
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._is_reading and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()

    def _play(self, answer: Answer) -> None:
        """Do steps until the answer ends, pauses, or the client is behind."""
        self._timer = None
        while not self._client_is_behind:
            step = next(answer.steps, None)
            if isinstance(step, bytes):
                self._transport.write(step)
            elif isinstance(step, Pause):
                self._wait(step.ms)
                return
            else:
                self._end(answer, step)
                return

    def _wait(self, delay_ms: int) -> None:
        if delay_ms:
            self._timer = self._loop.call_later(delay_ms / 1000, self._go_on)
        else:
            self._timer = self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._answer is not None:
            self._play(self._answer)
        self._work()

    def _end(self, answer: Answer, halt: Halt | None) -> None:
        if halt is Halt.HANG:
            return  # the answer stays under way until the client has had enough
        answer.served.finished = halt is None
        self._answer = None
        self._service.ended(answer.served)
        if halt is Halt.RESET:
            self._reset()
        elif halt is Halt.CLOSE or not answer.keep_alive:
            self._closing = True
            self._transport.close()

    def _reset(self) -> None:
        self._closing = True
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    # The client is slow, or gone...

    def pause_writing(self) -> None:
        """Stop making tokens: nobody reads them."""
        self._client_is_behind = True

    def resume_writing(self) -> None:
        """Go on where the answer stopped, unless it waits for its time anyway."""
        self._client_is_behind = False
        if self._timer is None:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up the answer under way: what was not generated yet never will be."""
        self._closing = True
        if self._socket is not None:
            self._socket.lost()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.steps.close()
            answer.served.aborted = True
            self._service.ended(answer.served)
        self._service.lost(self)
