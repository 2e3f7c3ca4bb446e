"""Addresses: which are blocked, that what is checked is what is connected to, and all are tried."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from gateway.core.configuration import UpstreamSettings
from gateway.core.errors import UpstreamError
from gateway.upstream import addresses
from gateway.upstream.addresses import Found, is_blocked
from gateway.upstream.pool import Pool
from tests.upstream.scripted import HELLO, HELLO_EVENTS, Notes, answer_then_close, provider


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "169.254.170.2",
        "fe80::1",
        "febf::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::ffff:100.100.100.200",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
    ],
)
def test_link_local_and_metadata_addresses_are_blocked(address: str) -> None:
    assert is_blocked(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "10.0.0.1",
        "8.8.8.8",
        "169.253.255.255",
        "169.255.0.0",
        "100.100.100.199",
        "fec0::1",
        "fd00:ec2::255",
        "::ffff:10.0.0.1",
        "2606:4700::1111",
        "api.example.com",
    ],
)
def test_others_are_not(address: str) -> None:
    assert not is_blocked(address)


class Names:
    """A resolution that gives one list of addresses after another."""

    def __init__(self, port: int, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._port = port
        self._answers = answers

    async def __call__(self, host: str, _port: int) -> Sequence[Found]:
        self.asked.append(host)
        found = self._answers[min(len(self.asked), len(self._answers)) - 1]
        return [
            (socket.AF_INET6, (each, self._port, 0, 0))
            if ":" in each
            else (socket.AF_INET, (each, self._port))
            for each in found
        ]


async def outcome(
    url: str, names: Names | None = None, **settings: object
) -> Notes | UpstreamError:
    loop = asyncio.get_running_loop()
    pool = Pool("acme", UpstreamSettings(url, **settings), loop, names)  # type: ignore[arg-type]
    try:
        exchange = await pool.connect(notes := Notes())
        exchange.send(b"POST", b"/", [], b"")
        await notes.over()
        return notes
    except UpstreamError as error:
        assert not error.sent
        assert pool.open_exchanges == 0
        return error
    finally:
        await pool.close(0)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "2852039166", "0xa9fea9fe"],
)
async def test_an_upstream_that_is_a_blocked_address(host: str) -> None:
    """However it is written."""
    error = await outcome(f"http://{host}:9/", connect_timeout_ms=2_000)
    assert isinstance(error, UpstreamError)
    assert error.code == "upstream_unreachable"
    assert "is blocked. Remedy: allow_link_local: true" in error.message.replace("which ", "")


async def test_a_name_that_leads_to_a_blocked_address() -> None:
    error = await outcome("http://api.example", Names(9, ["169.254.169.254"]))
    assert isinstance(error, UpstreamError)
    assert "api.example leads to 169.254.169.254" in error.message


async def test_blocked_addresses_are_passed_over() -> None:
    async with provider(answer_then_close(HELLO)) as acme:
        names = Names(acme.port, ["169.254.169.254", "127.0.0.1"])
        notes = await outcome("http://api.example", names)
        assert isinstance(notes, Notes)
        assert notes.events == HELLO_EVENTS
        assert b"\r\nHost: api.example\r\n" in acme.requests[0][0]


async def test_it_may_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_BLOCKED", (ip_network("127.0.0.0/8"),))
    async with provider(answer_then_close(HELLO)) as acme:
        assert isinstance(await outcome(acme.url), UpstreamError)
        assert acme.connections == 0
        notes = await outcome(acme.url, allow_link_local=True)
        assert isinstance(notes, Notes)
        assert notes.events == HELLO_EVENTS


async def test_all_addresses_are_tried_in_order() -> None:
    async with provider(answer_then_close(HELLO)) as acme:
        names = Names(acme.port, ["127.0.0.2", "127.0.0.3", "127.0.0.1"])
        notes = await outcome("http://api.example", names)
        assert isinstance(notes, Notes)
        assert notes.events == HELLO_EVENTS


async def test_when_none_answers_each_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = await outcome("http://api.example", Names(port, ["127.0.0.1", "127.0.0.2"]))
    assert isinstance(error, UpstreamError)
    assert "127.0.0.1: " in error.message
    assert "; 127.0.0.2: " in error.message


async def test_a_name_without_any_address() -> None:
    error = await outcome("http://api.example", Names(9, []))
    assert isinstance(error, UpstreamError)
    assert "its name has no address" in error.message


async def test_an_address_that_does_not_answer_leaves_time_for_the_next() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))
        server = await asyncio.start_server(_hello, "127.0.0.1", port)
        async with server:
            names = Names(port, ["127.0.0.2", "127.0.0.1"])
            notes = await outcome("http://api.example", names, connect_timeout_ms=600)
        for filler in fillers:
            filler.close()
    assert isinstance(notes, Notes)
    assert notes.events == HELLO_EVENTS


async def _hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HELLO)
    await writer.drain()
    writer.close()


async def test_each_new_connection_resolves_anew() -> None:
    """A provider that moves is found, and a name that is turned against us is caught."""
    async with provider(answer_then_close(HELLO)) as acme:
        names = Names(acme.port, ["127.0.0.1"], ["169.254.169.254"])
        settings = UpstreamSettings("http://api.example")
        pool = Pool("acme", settings, asyncio.get_running_loop(), names)
        exchange = await pool.connect(notes := Notes())
        exchange.send(b"POST", b"/", [], b"")
        await notes.over()
        while pool._open_transports:
            await asyncio.sleep(0.001)
        with pytest.raises(UpstreamError, match="blocked"):
            await pool.connect(Notes())
        assert names.asked == ["api.example"] * 2
        await pool.close(0)
