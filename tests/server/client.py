"""A client of the data plane that sees every byte, and a server whose calls a test carries."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from gateway.core.configuration import DataPlane
from gateway.ports import CallRecord, Downstream, Request
from gateway.server.data_server import DataServer
from gateway.server.http1 import ClientAnswer
from gateway.server.refusals import Refusals

PATIENCE_S = 60

Carry = Callable[[Request, ClientAnswer], None]


@dataclass
class Reply:
    """One answer; `complete` is false if the connection ended before it did."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    complete: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error of the gateway's own."""
        found: str = self.json["error"]["code"]
        return found


class Client:
    """One connection. Use as an async context manager."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self._port = port
        self._receive_buffer = receive_buffer

    async def __aenter__(self) -> "Client":
        sock = socket.socket()
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        except OSError:
            sock.close()
            raise
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=65_536)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_bytewise(self, data: bytes) -> None:
        for place in range(len(data)):
            self.writer.write(data[place : place + 1])
            await self.writer.drain()
            await asyncio.sleep(0)

    async def ask(self, data: bytes) -> Reply:
        self.send(data)
        return await self.reply(is_head=data.startswith(b"HEAD"))

    async def reply(self, *, is_head: bool = False) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reply(is_head)

    async def _reply(self, is_head: bool) -> Reply:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:-2])
        }
        reply = Reply(int(lines[0].split()[1]), headers)
        if is_head or reply.status in (100, 204, 304):
            return reply
        try:
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    reply.body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readexactly(2)
            elif "content-length" in headers:
                reply.body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                reply.body = await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            reply.complete = False
            reply.body += getattr(error, "partial", b"")
        return reply

    async def rest(self) -> bytes:
        """Return what still comes until the server closes."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class Calls:
    """The requests that a server was asked to carry; by default each is echoed at once."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[ClientAnswer] = []
        self.act: Carry = echo

    def carry(self, request: Request, answer: ClientAnswer) -> None:
        self.requests.append(request)
        self.answers.append(answer)
        self.act(request, answer)

    async def number(self, count: int) -> ClientAnswer:
        """Wait for the call with this number, from 1 on."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.answers) < count:
                await asyncio.sleep(0.001)
        return self.answers[count - 1]


def echo(request: Request, answer: Downstream) -> None:
    """Answer with the request's body, or its target if it has none."""
    body = request.body or request.target
    answer.start(200, [(b"x-method", request.method)], "x-budget: 1\r\n", len(body))
    answer.write(body)
    answer.finish()


def open_call(_request: Request, _answer: Downstream) -> None:
    """Leave the call open."""


class Told:
    """ports.Recorder: keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[CallRecord] = []
        self.events: list[dict[str, object]] = []

    def call(self, record: CallRecord) -> None:
        self.calls.append(record)

    def event(self, name: str, level: str = "info", **fields: object) -> None:
        self.events.append({"event": name, "level": level, **fields})


@dataclass
class Serving:
    """A server on a port, and what it carries."""

    server: DataServer
    calls: Calls
    port: int
    told: "Told"

    def client(self, **options: Any) -> Client:
        return Client(self.port, **options)


@asynccontextmanager
async def serving(**plane: Any) -> AsyncIterator[Serving]:
    """Run a server; at the end it is drained."""
    calls = Calls()
    settings = DataPlane("unix:///nowhere", **{"drain_ms": 100, **plane})
    told = Told()
    ids = count(1)
    server = DataServer(
        settings, calls.carry, Refusals(), told, time.monotonic, lambda: f"call-{next(ids)}"
    )
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    await server.start(listener)
    try:
        yield Serving(server, calls, port, told)
    finally:
        await server.drain()
