"""A provider whose connections each follow a script, and a sink that writes down what it hears."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.core.errors import CallError, UpstreamError
from gateway.core.headers import Headers

PATIENCE_S = 30

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HELLO_EVENTS = [("head", 200, [(b"Content-Length", b"5")], 5), ("body", b"hello"), ("end",)]


class Peer:
    """The provider's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """Return the next request, head and body, as it came."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                return head + await self._reader.readexactly(int(line.split(b":")[1]))
        return head

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def gone(self) -> None:
        """Return when the gateway has closed."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Provider:
    """What `provider` yields: where it listens, what it got, one entry a connection."""

    def __init__(self) -> None:
        self.url = ""
        self.port = 0
        self.requests: list[list[bytes]] = []

    @property
    def connections(self) -> int:
        return len(self.requests)


@contextlib.asynccontextmanager
async def provider(
    *scripts: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Provider]:
    """Serve: the n-th connection follows the n-th script, later ones the last."""
    serving = Provider()
    open_now: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        peer = _Noting(reader, writer, serving)
        script = scripts[min(serving.connections, len(scripts)) - 1]
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
            ):
                await script(peer)
        finally:
            open_now.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    serving.port = server.sockets[0].getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    serving.url = f"{'https' if tls else 'http'}://{shown}:{serving.port}"
    try:
        yield serving
    finally:
        server.close()
        for task in list(open_now):
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await server.wait_closed()


class _Noting(Peer):
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, serving: Provider
    ) -> None:
        super().__init__(reader, writer)
        self._requests: list[bytes] = []
        serving.requests.append(self._requests)

    async def request(self) -> bytes:
        request = await super().request()
        self._requests.append(request)
        return request


# Scripts


def answers(*each: bytes) -> Script:
    """Give these answers to the requests that come, the last one again and again."""

    async def play(peer: Peer) -> None:
        given = 0
        while True:
            await peer.request()
            peer.write(each[min(given, len(each) - 1)])
            given += 1

    return play


def answer_then_close(*pieces: bytes) -> Script:
    """Give one answer, in pieces that arrive one by one, and close."""

    async def play(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            peer.write(piece)
            await turns()

    return play


def answer_then_drop(answer: bytes) -> Script:
    """Answer the first request; take the second and close without a byte: a stale connection."""

    async def play(peer: Peer) -> None:
        await peer.request()
        peer.write(answer)
        await peer.request()

    return play


async def silence(peer: Peer) -> None:
    """Take requests and say nothing."""
    await peer.gone()


async def turns(count: int = 4) -> None:
    """Let the loop come round, so that what was written has been read."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], step_s: float = 0.002) -> None:
    """Wait until something is so."""
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(step_s)
    raise AssertionError("it never came to be so")


# The gateway's end


class Notes:
    """A ResponseSink: its events in order, with the body in one piece."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.pieces: list[bytes] = []
        self.error: CallError | None = None
        self._over = asyncio.Event()

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        self.events.append(("head", status, headers, length))

    def on_body(self, data: bytes) -> None:
        if not self.pieces:
            self.events.append(("body", b""))
        self.pieces.append(data)
        self.events[-1] = ("body", b"".join(self.pieces))

    def on_end(self) -> None:
        self.events.append(("end",))
        self._over.set()

    def on_broken(self, error: CallError) -> None:
        self.error = error
        self.events.append(("broken", error.code))
        self._over.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def sent(self) -> bool:
        assert isinstance(self.error, UpstreamError)
        return self.error.sent

    async def over(self) -> list[tuple[object, ...]]:
        """Return all events once the answer has ended."""
        async with asyncio.timeout(PATIENCE_S):
            await self._over.wait()
        return self.events
