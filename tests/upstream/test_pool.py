"""The pool: idle connections, the limit and its queue, timeouts, TLS, the end."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from gateway.core.errors import InvalidConfigError, UpstreamError
from gateway.upstream.http1 import UpstreamExchange
from gateway.upstream.pool import Pool
from tests.upstream.cases import head
from tests.upstream.scripted import (
    HELLO,
    HELLO_EVENTS,
    Notes,
    Peer,
    answer_then_close,
    answer_then_drop,
    answers,
    provider,
    silence,
    turns,
    until,
)

MakePool = Callable[..., Pool]


async def begin(pool: Pool, method: bytes = b"POST") -> tuple[UpstreamExchange, Notes]:
    exchange = await pool.connect(notes := Notes())
    exchange.send(method, b"/", [], b"")
    return exchange, notes


async def call(pool: Pool) -> Notes:
    _, notes = await begin(pool)
    await notes.over()
    return notes


def pending(pool: Pool) -> asyncio.Task[UpstreamExchange]:
    return asyncio.get_running_loop().create_task(pool.connect(Notes()))


async def refused(pool: Pool) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await pool.connect(Notes())
    assert not caught.value.sent
    assert pool.open_exchanges == 0
    return caught.value


# Idle connections


async def test_the_connection_used_last_is_taken_first(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        sinks = [(await begin(pool))[1] for _ in range(2)]
        for sink in sinks:
            await sink.over()
        for _ in range(3):
            await call(pool)
        assert sorted(len(each) for each in acme.requests) == [1, 4]


async def test_connect_does_not_suspend_if_a_connection_is_idle(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        with pytest.raises(StopIteration) as returned:
            pool.connect(Notes()).send(None)
        returned.value.value.cancel()


async def test_a_closed_idle_connection_is_not_handed_out(make_pool: MakePool) -> None:
    async with provider(answer_then_close(HELLO), answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        await asyncio.sleep(0.05)
        assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 2


async def test_a_reset_idle_connection_is_not_handed_out(make_pool: MakePool) -> None:
    async def reset(peer: Peer) -> None:
        await peer.request()
        peer.write(HELLO)
        await turns(20)
        peer.reset()

    async with provider(reset, answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        await asyncio.sleep(0.05)
        assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 2


async def test_a_closing_idle_connection_is_not_handed_out(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        exchange, notes = await begin(pool)
        connection = exchange.connection
        assert connection is not None
        await notes.over()
        connection.abort()
        assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 2


async def test_an_idle_connection_is_closed_after_its_time(
    quick_sweep: None, make_pool: MakePool
) -> None:
    async def note_close(peer: Peer) -> None:
        await peer.request()
        peer.write(HELLO)
        await peer.gone()
        closed.set()

    closed = asyncio.Event()
    async with provider(note_close, answers(HELLO)) as acme:
        pool = make_pool(acme.url, keepalive_ms=60)
        await call(pool)
        await asyncio.wait_for(closed.wait(), 5)
        assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 2


@pytest.mark.parametrize(
    ("settings", "header"),
    [({"keepalive_ms": 0}, "X: y"), ({}, "Keep-Alive: timeout=1")],
)
async def test_an_expired_connection_is_not_handed_out_before_the_sweep(
    settings: dict[str, int], header: str, make_pool: MakePool
) -> None:
    async with provider(answers(head(header, "Content-Length: 0"))) as acme:
        pool = make_pool(acme.url, **settings)
        await call(pool)
        await call(pool)
        assert acme.connections == 2


# The limit


async def test_calls_over_the_limit_wait_their_turn(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url, max_connections=2)
        held = [await pool.connect(Notes()) for _ in range(2)]
        order: list[int] = []

        async def wait_and_call(number: int) -> None:
            exchange = await pool.connect(notes := Notes())
            order.append(number)
            exchange.send(b"POST", b"/", [], b"")
            await notes.over()

        async with asyncio.TaskGroup() as tasks:
            for number in range(6):
                tasks.create_task(wait_and_call(number))
            await turns()
            assert order == []
            assert pool.open_exchanges == 2
            for exchange in held:
                exchange.cancel()
        assert order == list(range(6))
        assert acme.connections == 2
        assert pool.open_exchanges == 0


async def test_a_freed_slot_goes_to_the_call_that_waits(make_pool: MakePool) -> None:
    async with provider(answers(head("Connection: close", "Content-Length: 0"))) as acme:
        pool = make_pool(acme.url, max_connections=1)
        _, notes = await begin(pool)
        waiting = [pending(pool) for _ in range(2)]
        await notes.over()
        (await waiting[0]).send(b"POST", b"/", [], b"")
        await waiting[1]
        assert acme.connections == 3
        (await waiting[1]).cancel()


async def test_waiting_too_long_is_busy(make_pool: MakePool) -> None:
    async with provider(silence) as acme:
        pool = make_pool(acme.url, max_connections=1, connect_timeout_ms=50)
        held = await pool.connect(Notes())
        with pytest.raises(UpstreamError) as caught:
            await pool.connect(Notes())
        assert caught.value.code == "upstream_busy"
        assert not caught.value.sent
        assert "all 1 connections to acme were in use for 50 ms" in caught.value.message
        held.cancel()
        (await pool.connect(Notes())).cancel()


async def test_a_call_that_stops_waiting_leaves_the_queue(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url, max_connections=1)
        held = await pool.connect(Notes())
        first, second = pending(pool), pending(pool)
        await turns()
        first.cancel()
        await asyncio.wait([first])
        held.cancel()
        (await second).cancel()
        assert pool.open_exchanges == 0


@pytest.mark.parametrize("gift", ["connection", "slot", "dead connection"])
async def test_what_a_cancelled_call_was_just_given_goes_on(gift: str, make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url, max_connections=1)
        held = await pool.connect(Notes())
        connection = held.connection
        assert connection is not None
        first, second = pending(pool), pending(pool)
        await turns()
        if gift == "slot":
            held.send(b"POST", b"/", [], b"")
        held.cancel()
        if gift == "dead connection":
            connection.data_received(b"unasked")
        first.cancel()
        exchange = await second
        assert first.cancelled()
        exchange.cancel()
        assert pool.open_exchanges == 0


@pytest.mark.parametrize("gift", ["connection", "slot"])
async def test_a_call_cancelled_just_before_is_passed_over(gift: str, make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url, max_connections=1)
        held = await pool.connect(Notes())
        first, second = pending(pool), pending(pool)
        await turns()
        if gift == "slot":
            held.send(b"POST", b"/", [], b"")
        first.cancel()
        held.cancel()
        (await second).cancel()
        assert first.cancelled()
        assert pool.open_exchanges == 0


async def test_a_call_that_timed_out_and_was_cancelled_at_once_gives_nothing_back(
    make_pool: MakePool,
) -> None:
    async with provider(silence) as acme:
        pool = make_pool(acme.url, max_connections=1)
        held = await pool.connect(Notes())
        waiting = pending(pool)
        await turns()
        pool._give_up_waiting(pool._waiting[0])
        waiting.cancel()
        await asyncio.wait([waiting])
        assert pool.open_exchanges == 1
        held.cancel()
        assert pool.open_exchanges == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_call_cancelled_while_connecting_leaves_nothing_open(
    scheme: str, make_pool: MakePool
) -> None:
    async def note_close(peer: Peer) -> None:
        opened.append(peer)
        await peer.gone()
        opened.remove(peer)

    opened: list[Peer] = []
    async with provider(note_close) as acme:
        url = acme.url.replace("http", scheme)
        pool = make_pool(url, max_connections=1, connect_timeout_ms=100)
        for moment in range(12):
            connecting = pending(pool)
            await turns(moment)
            connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled():
                (await connecting).cancel()
            assert pool.open_exchanges == 0
        await pool.close(0)
        await until(lambda: not opened)


# Connecting


async def test_a_refused_connection_is_unreachable(make_pool: MakePool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = await refused(make_pool(f"http://127.0.0.1:{port}"))
    assert error.code == "upstream_unreachable"
    assert f"acme (127.0.0.1:{port})" in error.message


async def test_an_unknown_host_is_unreachable(make_pool: MakePool) -> None:
    assert (await refused(make_pool("http://nowhere.invalid"))).code == "upstream_unreachable"


async def test_a_host_name_that_cannot_be_is_unreachable(make_pool: MakePool) -> None:
    pool = make_pool(f"http://{'x' * 70}.invalid")
    assert (await refused(pool)).code == "upstream_unreachable"


async def test_a_connection_that_takes_too_long_is_unreachable(make_pool: MakePool) -> None:
    async with provider(silence) as acme:  # speaks no TLS, so the handshake never ends
        pool = make_pool(acme.url.replace("http:", "https:"), connect_timeout_ms=50)
        error = await refused(pool)
        assert error.code == "upstream_unreachable"
        assert "no connection within 50 ms" in error.message


async def test_ipv6_literals(make_pool: MakePool) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with provider(answers(HELLO), host="::1") as acme:
        assert (await call(make_pool(acme.url))).events == HELLO_EVENTS
        assert f"\r\nHost: [::1]:{acme.port}\r\n".encode() in acme.requests[0][0]


def server_tls(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


async def test_a_certificate_of_the_given_ca_is_accepted(
    ca: trustme.CA, ca_file: str, make_pool: MakePool
) -> None:
    async with provider(answers(HELLO), tls=server_tls(ca, "127.0.0.1")) as acme:
        pool = make_pool(acme.url, ca_file=ca_file)
        assert (await call(pool)).events == HELLO_EVENTS


async def test_a_certificate_of_an_unknown_ca_is_not(ca: trustme.CA, make_pool: MakePool) -> None:
    async with provider(answers(HELLO), tls=server_tls(ca, "127.0.0.1")) as acme:
        error = await refused(make_pool(acme.url))
        assert error.code == "upstream_unreachable"
        assert "certificate not accepted: " in error.message
        assert "issuer certificate" in error.message


async def test_nor_is_one_for_another_name(
    ca: trustme.CA, ca_file: str, make_pool: MakePool
) -> None:
    async with provider(answers(HELLO), tls=server_tls(ca, "other.test")) as acme:
        error = await refused(make_pool(f"https://localhost:{acme.port}", ca_file=ca_file))
        assert error.code == "upstream_unreachable"
        assert "Hostname mismatch" in error.message
        assert "localhost" in error.message


async def test_a_provider_that_speaks_no_tls_is_unreachable(make_pool: MakePool) -> None:
    async def not_tls(peer: Peer) -> None:
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    async with provider(not_tls) as acme:
        error = await refused(make_pool(acme.url.replace("http:", "https:")))
        assert error.code == "upstream_unreachable"


async def test_a_ca_file_that_is_none_is_found_at_the_start(
    make_pool: MakePool, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("")
    for ca_file in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        with pytest.raises(InvalidConfigError, match=f"upstreams.acme.ca_file: {ca_file}"):
            make_pool("https://h", ca_file=str(ca_file))


# Read timeout


async def test_silence_is_a_timeout(quick_sweep: None, make_pool: MakePool) -> None:
    async with provider(silence) as acme:
        pool = make_pool(acme.url, read_timeout_ms=60)
        notes = await call(pool)
        assert notes.events == [("broken", "upstream_timeout")]
        assert notes.sent
        assert notes.error is not None
        assert "sent nothing for 60 ms" in notes.error.message
        assert pool.open_exchanges == 0


async def test_each_read_counts_anew(quick_sweep: None, make_pool: MakePool) -> None:
    async def dribble(peer: Peer) -> None:
        await peer.request()
        for byte in HELLO:
            peer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        await peer.request()
        peer.write(HELLO[:-1])
        await peer.gone()

    async with provider(dribble) as acme:
        pool = make_pool(acme.url, read_timeout_ms=300)
        assert (await call(pool)).events == HELLO_EVENTS
        assert (await call(pool)).events[-1] == ("broken", "upstream_timeout")


async def test_no_timeout_while_paused_or_before_the_request(
    quick_sweep: None, make_pool: MakePool
) -> None:
    async with provider(answer_then_drop(HELLO[:-1]), answers(HELLO)) as acme:
        pool = make_pool(acme.url, read_timeout_ms=200)
        exchange, notes = await begin(pool)
        waiting = await pool.connect(later := Notes())
        await until(lambda: bool(notes.pieces))
        exchange.pause()
        await asyncio.sleep(0.4)
        assert notes.events[-1][0] == "body"
        waiting.send(b"POST", b"/", [], b"")
        assert await later.over() == HELLO_EVENTS
        exchange.resume()
        assert (await notes.over())[-1] == ("broken", "upstream_timeout")


# The end


async def test_close_lets_open_exchanges_end(make_pool: MakePool) -> None:
    async def slow(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.05)
        peer.write(HELLO)
        await peer.gone()

    async with provider(slow) as acme:
        pool = make_pool(acme.url)
        _, notes = await begin(pool)
        await pool.close(5)
        assert notes.events == HELLO_EVENTS


async def test_close_breaks_off_what_takes_longer(make_pool: MakePool) -> None:
    async with provider(silence, answers(HELLO)) as acme:
        pool = make_pool(acme.url, max_connections=3)
        _, notes = await begin(pool)
        _, idle_notes = await begin(pool)
        await idle_notes.over()
        unsent = await pool.connect(unsent_notes := Notes())
        held = await pool.connect(Notes())
        waiting = pending(pool)
        await turns()
        await pool.close(0.05)
        assert notes.events == [("broken", "upstream_broken")]
        with pytest.raises(UpstreamError, match="shutting down"):
            await waiting
        unsent.send(b"POST", b"/", [], b"")
        assert await unsent_notes.over() == [("broken", "upstream_unreachable")]
        assert not unsent_notes.sent
        held.cancel()
        assert pool.open_exchanges == 0
        assert "shutting down" in (await refused(pool)).message


async def test_a_connection_that_opens_after_the_close_is_closed_at_once(
    make_pool: MakePool,
) -> None:
    async with provider(silence) as acme:
        pool = make_pool(acme.url)
        connecting = pending(pool)
        await turns(1)
        pool._closed = True
        with pytest.raises(UpstreamError, match="shutting down"):
            await connecting
        assert pool.open_exchanges == 0


@pytest.mark.parametrize("moment", [0, 1])
async def test_close_ends_exchanges_that_are_going_out_again(
    moment: int, make_pool: MakePool
) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(notes := Notes())
        assert exchange.connection is not None
        exchange.connection.abort()
        exchange.send(b"POST", b"/", [], b"")
        await turns(moment)
        await asyncio.wait_for(pool.close(0), 1)
        assert await notes.over() == [("broken", "upstream_broken")]
        assert moment or not notes.sent


async def test_a_new_connection_that_is_closed_at_once_breaks_the_call(
    make_pool: MakePool,
) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(notes := Notes())
        assert exchange.connection is not None
        exchange.connection.abort()
        opening = pool._open

        async def open_dead_one() -> object:
            connection = await opening()
            connection.abort()
            return connection

        pool._open = open_dead_one  # type: ignore[assignment,method-assign]
        exchange.send(b"POST", b"/", [], b"")
        assert await notes.over() == [("broken", "upstream_broken")]
        assert not notes.sent
        assert pool.open_exchanges == 0


async def test_the_sweep_stops_with_the_last_connection(
    quick_sweep: None, make_pool: MakePool
) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url, keepalive_ms=10)
        await call(pool)
        await until(lambda: pool._sweep_timer is None)
        assert (await call(pool)).events == HELLO_EVENTS
        await until(lambda: pool._sweep_timer is None)
