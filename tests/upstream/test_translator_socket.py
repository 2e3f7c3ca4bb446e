"""Connections to the translator: over its unix socket, whatever the base URL."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.configuration import UpstreamSettings
from gateway.core.errors import UpstreamError
from gateway.upstream.origin import translator_origin
from gateway.upstream.pool import Pool
from tests.upstream.scripted import Notes

REQUEST = b"POST /u/claude/v1/chat/completions HTTP/1.1\r\nHost: translator\r\n"


def settings(socket: Path) -> UpstreamSettings:
    return UpstreamSettings(
        base_url="https://far.example",
        translate="anthropic",
        translator_socket=str(socket),
        proxy_url="http://proxy.example:1",
    )


async def test_a_call_goes_over_the_socket(tmp_path: Path) -> None:
    """Neither TLS nor a proxy stands in between; the upstream's name is in the path."""
    received = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "t.sock")
    pool = Pool("claude", settings(tmp_path / "t.sock"), asyncio.get_running_loop())
    assert pool.origin == translator_origin("claude")
    notes = Notes()
    exchange = await pool.connect(notes)
    exchange.send(b"POST", b"/v1/chat/completions", [], b"")
    assert (await notes.over())[-1] == ("end",)
    assert notes.body == b"ok"
    assert received.startswith(REQUEST)
    await pool.close(0)
    server.close()


async def test_without_a_translator_nothing_is_sent(tmp_path: Path) -> None:
    pool = Pool("claude", settings(tmp_path / "t.sock"), asyncio.get_running_loop())
    with pytest.raises(UpstreamError) as raised:
        await pool.connect(Notes())
    assert (raised.value.code, raised.value.sent) == ("upstream_unreachable", False)
    await pool.close(0)
