"""The client side of WebSockets: whose handshakes are taken, and frames however they come."""

import asyncio
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import connect

from gateway.core.configuration import DataPlane
from gateway.ports import Answer, ClientEnd, Request
from gateway.server.data_server import DataServer
from gateway.server.refusals import Refusals
from tests.server.client import PATIENCE_S, Calls, Client, Serving, Told, serving

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEAD = (
    b"GET /v1/responses HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n" % KEY
)
HANDSHAKE = HEAD + b"\r\n"
MASK = b"abcd"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes = MASK) -> bytes:
    head = bytes([opcode | (0x80 if fin else 0)])
    masked = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([masked | len(payload)])
    elif len(payload) < 65_536:
        head += bytes([masked | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", len(payload))
    body = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload)) if mask else payload
    return head + mask + body


class Echo:
    """Sends back what comes; tells how the socket ended."""

    def __init__(self, client: ClientEnd) -> None:
        self.client = client
        self.ended: list[tuple[int, str]] = []
        self.left = False

    def on_message(self, message: str | bytes) -> None:
        self.client.send(message)

    def on_close(self, code: int, reason: str) -> None:
        self.ended.append((code, reason))

    def on_slow(self) -> None:
        self.client.pause()

    def on_caught_up(self) -> None:
        self.client.resume()

    def on_leaving(self) -> None:
        self.left = True
        self.client.close(1001, "bye")


class Sockets:
    """The sockets that a server was asked to carry; each is accepted and echoes."""

    def __init__(self) -> None:
        self.echoes: list[Echo] = []

    def carry(self, request: Request, client: ClientEnd) -> None:
        echo = Echo(client)
        self.echoes.append(echo)
        client.attach(echo)
        client.accept([(b"x-provider", b"1"), (b"Sec-WebSocket-Accept", b"no")], "x-ours: 1\r\n")


@asynccontextmanager
async def echoing(**plane: Any) -> AsyncIterator[tuple[Serving, Sockets]]:
    async with serving(**plane) as running:
        sockets = Sockets()
        running.server.take_sockets(sockets.carry)
        yield running, sockets


async def opened(client: Client, handshake: bytes = HANDSHAKE) -> bytes:
    client.send(handshake)
    return await head_of(client)


async def head_of(client: Client) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await client.reader.readuntil(b"\r\n\r\n")


async def received(client: Client) -> tuple[int, bytes]:
    """Return the opcode and payload of the next frame: a server's are unmasked and whole here."""
    async with asyncio.timeout(PATIENCE_S):
        first, size = await client.reader.readexactly(2)
        assert first & 0x80
        if size == 126:
            (size,) = struct.unpack("!H", await client.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await client.reader.readexactly(8))
        return first & 15, await client.reader.readexactly(size)


async def close_code(client: Client) -> int:
    opcode, payload = await received(client)
    assert opcode == CLOSE
    if not client.writer.is_closing():
        client.send(frame(CLOSE, payload))
    assert await client.rest() == b""
    return int.from_bytes(payload[:2], "big")


async def test_a_sound_handshake_is_accepted() -> None:
    async with echoing() as (running, _), running.client() as client:
        head = (await opened(client)).lower()
        assert head.startswith(b"http/1.1 101 ")
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head
        assert b"x-provider: 1\r\n" in head
        assert b"x-ours: 1\r\n" in head
        assert b"extensions" not in head
        client.send(frame(TEXT, b"hello"))
        assert await received(client) == (TEXT, b"hello")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (HANDSHAKE.replace(b"GET", b"POST"), 400),
        (HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (HANDSHAKE.replace(b": 13", b": 8"), 400),
        (HANDSHAKE.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 400),
        (HANDSHAKE.replace(KEY, b"c2hvcnQ="), 400),
        (HANDSHAKE.replace(KEY, b"not base64 at all!!"), 400),
        (HEAD + b"Sec-WebSocket-Key: %b\r\n\r\n" % KEY, 400),
        (HEAD + b"Content-Length: 0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 400),
        (HEAD + b"Upgrade: websocket\r\n\r\n", 400),
        (HANDSHAKE.replace(b"Upgrade: websocket", b"Upgrade: websocket, h3"), 400),
        (HANDSHAKE.replace(b"Upgrade: websocket", b"Upgrade: other"), 400),
        (HEAD + b"Origin: https://evil.example\r\n\r\n", 403),
        (HEAD + b"Origin: null\r\n\r\n", 403),
        (HEAD + b"Origin: https://[evil\r\n\r\n", 403),
    ],
)
async def test_other_handshakes_are_refused(request_head: bytes, status: int) -> None:
    async with echoing() as (running, sockets), running.client() as client:
        assert (await client.ask(request_head)).status == status
        assert not sockets.echoes


@pytest.mark.parametrize("origin", [b"http://a.example", b"https://pages.example", b""])
async def test_an_origin_has_to_be_known(origin: bytes) -> None:
    given = HEAD + (b"Origin: %b\r\n" % origin if origin else b"") + b"\r\n"
    async with echoing(websocket_origins=("https://pages.example",)) as (running, _):
        async with running.client() as client:
            assert (await opened(client, given)).startswith(b"HTTP/1.1 101 ")


async def test_a_handshake_that_is_pipelined_is_refused() -> None:
    async with echoing() as (running, sockets), running.client() as client:
        running.calls.act = lambda _request, _answer: None
        client.send(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n" + HANDSHAKE)
        answer = await running.calls.number(1)
        answer.send(Answer(200, [], b"ok"), "")
        assert (await client.reply()).body == b"ok"
        await client.rest()
        assert not sockets.echoes


async def test_every_byte_may_come_by_itself() -> None:
    """Handshake and frames, cut anywhere, with what follows the handshake at once."""
    text = "é\u2028x".encode()
    async with echoing() as (running, _), running.client() as client:
        await client.send_bytewise(
            HANDSHAKE
            + frame(TEXT, text[:1], fin=False)
            + frame(PING, b"?")
            + frame(0, b"", fin=False)
            + frame(0, text[1:])
            + frame(BINARY, b"\0\xff")
        )
        await head_of(client)
        assert await received(client) == (PONG, b"?")
        assert await received(client) == (TEXT, text)
        assert await received(client) == (BINARY, b"\0\xff")


async def test_a_close_is_answered_and_told() -> None:
    async with echoing() as (running, sockets), running.client() as client:
        await opened(client)
        client.send(frame(CLOSE, struct.pack("!H", 4000) + b"enough"))
        assert await close_code(client) == 4000
        assert sockets.echoes[0].ended == [(4000, "enough")]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"x", mask=b""), 1002),
        (frame(3, b"x"), 1002),
        (frame(0, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(CLOSE, b"x"), 1002),
        (frame(TEXT | 0x40, b"x"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"x" * 1_001), 1009),
        (frame(TEXT, b"x" * 600, fin=False) + frame(0, b"x" * 600), 1009),
    ],
)
async def test_frames_that_are_not_sound_end_the_socket(sent: bytes, code: int) -> None:
    async with echoing(max_body_bytes=1_000) as (running, sockets), running.client() as client:
        await opened(client)
        client.send(sent)
        assert await close_code(client) == code
        assert sockets.echoes[0].ended[0][0] == code
        assert running.server.body_bytes_in_flight == 0


async def test_a_lost_client_is_told_and_gives_its_room_back() -> None:
    async with echoing() as (running, sockets):
        async with running.client() as client:
            await opened(client)
            client.send(frame(TEXT, b"x" * 100, fin=False))
            async with asyncio.timeout(PATIENCE_S):
                while not running.server.body_bytes_in_flight:
                    await asyncio.sleep(0.001)
        async with asyncio.timeout(PATIENCE_S):
            while running.server.open_connections:
                await asyncio.sleep(0.001)
        assert sockets.echoes[0].ended == [(1006, "")]
        assert running.server.body_bytes_in_flight == 0


async def test_a_silent_client_is_pinged_and_then_cut() -> None:
    async with echoing(socket_ping_ms=10) as (running, sockets), running.client() as client:
        await opened(client)
        assert (await received(client))[0] == PING
        await client.rest()
        assert sockets.echoes[0].ended == [(1006, "")]


async def test_an_idle_socket_is_closed() -> None:
    async with echoing(socket_idle_ms=10) as (running, _), running.client() as client:
        await opened(client)
        opcode, payload = await received(client)
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1001))


async def test_sockets_are_told_of_the_end() -> None:
    async with echoing(drain_ms=20_000) as (running, sockets), running.client() as client:
        await opened(client)
        draining = asyncio.ensure_future(running.server.drain())
        opcode, payload = await received(client)
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1001))
        assert sockets.echoes[0].left
        client.send(frame(CLOSE, payload))
        await draining


async def test_sockets_count_as_connections() -> None:
    async with echoing(max_connections=1) as (running, _), running.client() as client:
        await opened(client)
        async with running.client() as other:
            assert (await other.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")).status == 503


@pytest.mark.parametrize("seed", range(20))
async def test_any_bytes_end_in_order(seed: int) -> None:
    """Fuzz: sound frames, broken in one place, cut anywhere. The server goes on for others."""
    chance = random.Random(seed)
    frames = [
        frame(
            chance.choice([TEXT, BINARY, PING]),
            bytes(chance.choices(b"abc", k=chance.randrange(120))),
        )
        for _ in range(20)
    ]
    data = bytearray(b"".join(frames))
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    async with echoing(max_body_bytes=5_000) as (running, _):
        async with running.client() as client:
            await opened(client)
            place = 0
            while place < len(data) and not client.writer.is_closing():
                size = chance.randrange(1, 50)
                client.send(bytes(data[place : place + size]))
                await asyncio.sleep(0)
                place += size
            if not client.writer.is_closing():
                client.writer.write_eof()
            await client.rest()
        async with running.client() as client:
            await opened(client)
            client.send(frame(TEXT, b"still there"))
            assert await received(client) == (TEXT, b"still there")


async def test_a_socket_over_tls() -> None:
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    sockets, told = Sockets(), Told()
    plane = DataPlane("unix:///nowhere", drain_ms=100)
    server = DataServer(
        plane, Calls().carry, Refusals(), told, time.monotonic, lambda: "id", server_side
    )
    server.take_sockets(sockets.carry)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    await server.start(listener)
    try:
        url = f"wss://localhost:{listener.getsockname()[1]}/v1/responses"
        host = {"host": "127.0.0.1", "ssl": client_side, "proxy": None}
        async with connect(url, **host) as connection:
            await connection.send("hello" * 20_000)
            assert await connection.recv() == "hello" * 20_000
    finally:
        await server.drain()
