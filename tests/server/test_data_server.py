"""The listener: how long clients may take, and how it ends."""

import asyncio
import socket

import pytest

from gateway.server import data_server
from tests.server.client import echo, open_call, serving

GET = b"GET /v1/models HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.fixture(autouse=True)
def _quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_server, "_SWEEP_S", 0.01)


async def test_an_idle_client_is_let_go() -> None:
    """After `idle_timeout_ms` between requests."""
    async with serving(idle_timeout_ms=50) as server, server.client() as client:
        assert (await client.ask(GET)).status == 200
        assert await client.rest() == b""
        assert server.server.open_connections == 0


@pytest.mark.parametrize("start", [b"GET /v1/models HTT", GET[:-2]])
async def test_a_client_that_does_not_finish_its_head(start: bytes) -> None:
    """It is told after `header_timeout_ms`, and let go."""
    async with serving(header_timeout_ms=50) as server, server.client() as client:
        client.send(start)
        reply = await client.reply()
        assert (reply.status, reply.code) == (408, "request_timeout")
        assert not server.calls.requests


async def test_a_client_that_waits_for_its_answer_may_wait() -> None:
    """Models think before they write."""
    async with (
        serving(idle_timeout_ms=20, header_timeout_ms=20) as server,
        server.client() as client,
    ):
        server.calls.act = open_call
        client.send(GET)
        answer = await server.calls.number(1)
        await asyncio.sleep(0.1)
        answer.start(200, [], "", 0)
        answer.finish()
        assert (await client.reply()).status == 200


async def test_draining_lets_open_calls_finish() -> None:
    """Idle clients are let go at once, and nobody new is let in."""
    async with serving(drain_ms=30_000) as server, server.client() as busy, server.client() as idle:
        await idle.ask(GET)
        server.calls.act = open_call
        busy.send(GET)
        answer = await server.calls.number(2)
        draining = asyncio.ensure_future(server.server.drain())
        assert await idle.rest() == b""
        with pytest.raises(ConnectionError):
            async with server.client():
                pass
        assert not draining.done()
        answer.start(200, [], "", 2)
        answer.write(b"ok")
        answer.finish()
        reply = await busy.reply()
        assert (reply.body, reply.complete) == (b"ok", True)
        assert await busy.rest() == b""
        await draining


async def test_those_who_wait_to_be_accepted_are_served() -> None:
    """Their requests may be on their way: closing the listener over them would reset them."""
    async with serving(drain_ms=30_000) as server:
        waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for client in waiting:
            client.sendall(GET)
        await server.server.drain()
        for client in waiting:
            with client, client.makefile("rb") as answer:
                text = answer.read()
            assert text.startswith(b"HTTP/1.1 200")
            assert b"\r\nconnection: close\r\n" in text
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))


async def test_a_request_that_comes_while_draining_is_the_last() -> None:
    """A head that was half sent may still be finished; its answer says that it is the last."""
    async with serving(drain_ms=30_000) as server, server.client() as client:
        server.calls.act = open_call
        client.send(GET)
        answer = await server.calls.number(1)
        draining = asyncio.ensure_future(server.server.drain())
        await asyncio.sleep(0)
        answer.start(200, [], "", 0)
        answer.finish()
        await draining
        assert (await client.reply()).status == 200
        assert await client.rest() == b""


async def test_an_answer_that_began_before_the_drain_promised_to_keep_alive() -> None:
    """So requests are answered until one of the answers could say that it is the last."""
    async with serving(drain_ms=30_000) as server, server.client() as client:
        server.calls.act = open_call
        client.send(GET)
        answer = await server.calls.number(1)
        answer.start(200, [], "", 0)
        draining = asyncio.ensure_future(server.server.drain())
        await asyncio.sleep(0.05)
        answer.finish()
        assert "connection" not in (await client.reply()).headers
        server.calls.act = echo
        while "connection" not in (await client.ask(GET)).headers:
            await asyncio.sleep(0.01)
        assert await client.rest() == b""
        await draining


async def test_draining_has_an_end() -> None:
    """After `drain_ms` what is open is cut."""
    async with serving(drain_ms=50) as server, server.client() as client:
        server.calls.act = open_call
        client.send(GET)
        answer = await server.calls.number(1)
        answer.start(200, [], "", None)
        answer.write(b"half")
        await server.server.drain()
        assert not (await client.reply()).complete
        while server.server.open_connections:
            await asyncio.sleep(0.001)


async def test_draining_what_never_started() -> None:
    """A worker may be told to stop before it serves."""
    async with serving() as server:
        await server.server.drain()
        await server.server.drain()
