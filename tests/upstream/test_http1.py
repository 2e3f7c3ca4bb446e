"""Exchanges over real sockets: what is sent, what is heard, what becomes of the connection."""

import asyncio
import ssl
from collections.abc import Callable

import pytest
import trustme

from gateway.core.errors import BadCall
from gateway.core.headers import Headers
from gateway.upstream.http1 import ONE_WRITE_BYTES, UpstreamExchange
from gateway.upstream.pool import Pool
from tests.upstream.cases import CASES, WHOLE, Case, head, names
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
POST = (b"POST", b"/v1/x", [(b"X-a", b"1")], b"{}")


async def begin(
    pool: Pool, method: bytes = b"POST", body: bytes = b"{}", sink: Notes | None = None
) -> tuple[UpstreamExchange, Notes]:
    notes = sink or Notes()
    exchange = await pool.connect(notes)
    exchange.send(method, b"/v1/x", [(b"X-a", b"1")], body)
    return exchange, notes


async def call(pool: Pool, method: bytes = b"POST", body: bytes = b"{}") -> Notes:
    _, notes = await begin(pool, method, body)
    await notes.over()
    return notes


# What the sink hears


@pytest.mark.parametrize("case", CASES, ids=names)
async def test_an_answer(case: Case, make_pool: MakePool) -> None:
    script = answer_then_close(case.wire) if case.at_close else answers(case.wire)
    async with provider(script) as acme:
        assert (await call(make_pool(acme.url), case.method)).events == case.events


@pytest.mark.parametrize("case", [case for case in WHOLE if not case.at_close], ids=names)
async def test_the_connection_is_used_again_only_if_fit(case: Case, make_pool: MakePool) -> None:
    async with provider(answers(case.wire)) as acme:
        pool = make_pool(acme.url)
        for _ in range(3):
            assert (await call(pool, case.method)).events == case.events
        assert acme.connections == (1 if case.reusable else 3)
        assert pool.open_exchanges == 0


SPLIT = [case for case in CASES if case.name in {"chunked", "cut in a body with length", "101"}]


@pytest.mark.parametrize("case", SPLIT, ids=names)
async def test_an_answer_cut_at_every_byte(case: Case, make_pool: MakePool) -> None:
    cut = range(1, len(case.wire))
    scripts = [answer_then_close(case.wire[:at], case.wire[at:]) for at in cut]
    async with provider(*scripts) as acme:
        for at in cut:
            pool = make_pool(acme.url)
            assert (await call(pool, case.method)).events == case.events, at
            await pool.close(0)


async def test_body_bytes_are_the_providers(make_pool: MakePool) -> None:
    body = bytes(range(256)) * 8_192
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + 9_973]), body[at : at + 9_973])
        for at in range(0, len(body), 9_973)
    )
    for wire in (
        head(f"Content-Length: {len(body)}") + body,
        head("Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n",
        head("X: y", "Connection: close") + body,
    ):
        async with provider(answer_then_close(wire)) as acme:
            assert (await call(make_pool(acme.url))).body == body


async def test_the_sink_hears_body_bytes_once_a_read(make_pool: MakePool) -> None:
    chunks = b"2\r\nhe\r\n" * 50
    wire = head("Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n"
    async with provider(answers(wire)) as acme:
        notes = await call(make_pool(acme.url))
        assert notes.pieces == [b"he" * 50]


async def test_an_answer_may_come_before_the_request_has_gone_out(make_pool: MakePool) -> None:
    async def refuse_early(peer: Peer) -> None:
        peer.write(head("Content-Length: 0", status=413))
        await asyncio.sleep(60)

    async with provider(refuse_early) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(notes := Notes())
        exchange.send(b"POST", b"/", [], b"x" * 50_000_000)
        assert (await notes.over())[0][1] == 413
        assert notes.events[-1] == ("end",)
        assert pool.open_exchanges == 0
        exchange = await pool.connect(Notes())
        await until(lambda: acme.connections == 2)
        exchange.cancel()


# What is sent


@pytest.mark.parametrize("size", [0, 1, ONE_WRITE_BYTES, ONE_WRITE_BYTES + 1, 5_000_000])
async def test_a_request_is_sent_as_given(size: int, make_pool: MakePool) -> None:
    body = b"\0\r\n\xff"[:size].ljust(size, b"x")
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url + "/base/")
        exchange = await pool.connect(notes := Notes())
        exchange.send(b"POST", b"/v1/a%2Fb?x=%7e", [(b"x-B", b"1"), (b"X-a", b"\xff")], body)
        await notes.over()
        assert acme.requests == [
            [
                b"POST /base/v1/a%%2Fb?x=%%7e HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                b"x-B: 1\r\nX-a: \xff\r\nContent-Length: %d\r\n\r\n%b" % (acme.port, size, body)
            ]
        ]


async def test_a_header_that_ends_its_line_is_refused_before_a_byte_is_sent(
    make_pool: MakePool,
) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(notes := Notes())
        with pytest.raises(BadCall) as caught:
            exchange.send(b"POST", b"/", [(b"X", b"a\r\nY: b")], b"")
        assert caught.value.code == "invalid_header"
        assert notes.events == []
        assert pool.open_exchanges == 0
        assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 1


# Closing and breaking


async def test_a_reset_within_the_answer_breaks_it(make_pool: MakePool) -> None:
    async def reset(peer: Peer) -> None:
        await peer.request()
        peer.write(head("X: y") + b"hel")
        await turns(20)
        peer.reset()

    async with provider(reset) as acme:
        notes = await call(make_pool(acme.url))
        assert notes.events[-1] == ("broken", "upstream_broken")
        assert notes.sent


async def test_bytes_on_an_idle_connection_close_it(make_pool: MakePool) -> None:
    async def chatty(peer: Peer) -> None:
        await peer.request()
        peer.write(HELLO)
        await turns(20)
        peer.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
        await peer.gone()
        told.set()

    told = asyncio.Event()
    async with provider(chatty, answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        await told.wait()
        assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 2


async def test_bytes_before_the_request_are_no_answer_to_it(make_pool: MakePool) -> None:
    async def hasty(peer: Peer) -> None:
        peer.write(head("Content-Length: 4") + b"evil")
        await peer.gone()
        told.set()

    told = asyncio.Event()
    async with provider(hasty, answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(notes := Notes())
        await told.wait()
        exchange.send(*POST)
        assert await notes.over() == HELLO_EVENTS
        assert acme.connections == 2
        assert pool.open_exchanges == 0


async def test_cancel_closes_and_the_sink_hears_no_more(make_pool: MakePool) -> None:
    async def endless(peer: Peer) -> None:
        await peer.request()
        peer.write(head("Content-Length: 1000000") + b"x")
        await peer.gone()
        closed.set()

    closed = asyncio.Event()
    async with provider(endless) as acme:
        pool = make_pool(acme.url)
        exchange, notes = await begin(pool)
        await until(lambda: bool(notes.pieces))
        heard = list(notes.events)
        exchange.cancel()
        await closed.wait()
        assert notes.events == heard
        assert pool.open_exchanges == 0


class Canceller(Notes):
    """Cancels its exchange in the middle of an event."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
        self.exchange: UpstreamExchange | None = None

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        super().on_head(status, headers, length)
        self._cancel("head")

    def on_body(self, data: bytes) -> None:
        super().on_body(data)
        self._cancel("body")

    def _cancel(self, event: str) -> None:
        if event == self.at:
            assert self.exchange is not None
            self.exchange.cancel()


@pytest.mark.parametrize(("at", "heard"), [("head", 1), ("body", 2)])
async def test_a_sink_may_cancel_while_it_hears(at: str, heard: int, make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        sink = Canceller(at)
        pool = make_pool(acme.url)
        sink.exchange, _ = await begin(pool, sink=sink)
        await until(lambda: pool.open_exchanges == 0)
        await turns()
        assert sink.events == HELLO_EVENTS[:heard]


async def test_a_finished_exchange_cannot_touch_the_next_one(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        old, notes = await begin(pool)
        await notes.over()
        _, next_notes = await begin(pool)
        old.pause()
        old.resume()
        old.cancel()
        assert await next_notes.over() == HELLO_EVENTS
        assert acme.connections == 1


async def test_cancel_before_send_keeps_the_connection(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(notes := Notes())
        exchange.cancel()
        exchange.cancel()
        exchange.send(*POST)
        assert pool.open_exchanges == 0
        assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 1
        assert notes.events == []


# Back-pressure

LARGE = 16_000_000


async def large_answer(peer: Peer) -> None:
    await peer.request()
    peer.write(head(f"Content-Length: {LARGE}") + bytes(LARGE))
    await peer.gone()


class Pauser(Notes):
    """Pauses its exchange with the first body bytes."""

    exchange: UpstreamExchange

    def on_body(self, data: bytes) -> None:
        if not self.pieces:
            self.exchange.pause()
        super().on_body(data)


async def test_a_paused_connection_reads_nothing(make_pool: MakePool) -> None:
    async with provider(large_answer) as acme:
        sink = Pauser()
        sink.exchange = await (pool := make_pool(acme.url)).connect(sink)
        sink.exchange.send(*POST)
        await until(lambda: bool(sink.pieces))
        heard = len(sink.pieces)
        await asyncio.sleep(0.1)
        assert len(sink.pieces) == heard
        sink.exchange.pause()
        sink.exchange.resume()
        sink.exchange.resume()
        assert (await sink.over())[-1] == ("end",)
        assert sink.body == bytes(LARGE)
        assert pool.open_exchanges == 0


async def test_an_answer_that_ends_while_paused_leaves_a_connection_that_reads(
    make_pool: MakePool,
) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        for _ in range(3):
            sink = Pauser()
            sink.exchange = await pool.connect(sink)
            sink.exchange.send(*POST)
            assert await sink.over() == HELLO_EVENTS
        assert acme.connections == 1


async def test_pausing_before_the_request_is_sent_does_nothing(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        exchange = await make_pool(acme.url).connect(notes := Notes())
        exchange.pause()
        exchange.send(*POST)
        assert await notes.over() == HELLO_EVENTS


# Going out again

IDEMPOTENT = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"]


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
async def test_a_post_is_never_sent_twice(method: bytes, make_pool: MakePool) -> None:
    async with provider(answer_then_drop(HELLO), answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        notes = await call(pool, method)
        assert notes.events == [("broken", "upstream_broken")]
        assert notes.sent
        assert acme.connections == 1
        assert pool.open_exchanges == 0


@pytest.mark.parametrize("method", IDEMPOTENT)
async def test_others_go_out_once_more_on_a_new_connection(
    method: bytes, make_pool: MakePool
) -> None:
    async with provider(answer_then_drop(HELLO), answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        notes = await call(pool, method, b"{}")
        assert notes.events == [event for event in HELLO_EVENTS if notes.body or event[0] != "body"]
        assert acme.requests[1] == [acme.requests[0][1]]
        assert pool.open_exchanges == 0


async def test_but_only_once(make_pool: MakePool) -> None:
    async def drop(peer: Peer) -> None:
        await peer.request()

    async with provider(answer_then_drop(HELLO), drop) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        notes = await call(pool, b"GET", b"")
        assert notes.events == [("broken", "upstream_broken")]
        assert acme.connections == 2


async def test_not_if_the_connection_was_new(make_pool: MakePool) -> None:
    async def drop(peer: Peer) -> None:
        await peer.request()

    async with provider(drop, answers(HELLO)) as acme:
        notes = await call(make_pool(acme.url), b"GET", b"")
        assert notes.events == [("broken", "upstream_broken")]
        assert acme.connections == 1


async def test_not_once_the_answer_has_begun(make_pool: MakePool) -> None:
    async def begin_and_drop(peer: Peer) -> None:
        await peer.request()
        peer.write(HELLO)
        await peer.request()
        peer.write(b"H")

    async with provider(begin_and_drop, answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        assert (await call(pool, b"GET", b"")).events == [("broken", "upstream_broken")]
        assert acme.connections == 1


async def test_if_there_is_no_other_connection_the_sink_hears_why(make_pool: MakePool) -> None:
    async def last_one(peer: Peer) -> None:
        await peer.request()
        peer.write(HELLO)
        await peer.request()
        acme_gone.set()
        await asyncio.sleep(60)

    acme_gone = asyncio.Event()
    async with provider(last_one) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        _, notes = await begin(pool, b"GET", b"")
        await acme_gone.wait()
    assert await notes.over() == [("broken", "upstream_unreachable")]
    assert notes.sent
    assert pool.open_exchanges == 0


async def test_a_post_goes_out_elsewhere_if_its_connection_dies_before_it_is_written(
    make_pool: MakePool,
) -> None:
    async def answer_and_close(peer: Peer) -> None:
        await peer.request()
        peer.write(HELLO)
        await close.wait()

    close = asyncio.Event()
    async with provider(answer_and_close, answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        exchange = await pool.connect(notes := Notes())
        close.set()
        await asyncio.sleep(0.05)
        assert pool.open_exchanges == 1
        exchange.send(*POST)
        assert await notes.over() == HELLO_EVENTS
        assert [len(each) for each in acme.requests] == [1, 1]
        assert pool.open_exchanges == 0


async def test_cancel_after_the_connection_died_unused_frees_the_slot(make_pool: MakePool) -> None:
    async def close_at_once(peer: Peer) -> None:
        pass

    async with provider(close_at_once) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(Notes())
        await asyncio.sleep(0.05)
        assert pool.open_exchanges == 1
        exchange.cancel()
        assert pool.open_exchanges == 0


async def test_cancel_before_send_closes_a_connection_that_is_closing(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(Notes())
        assert exchange.connection is not None
        exchange.connection.abort()
        exchange.cancel()
        assert pool.open_exchanges == 0
        assert (await call(pool)).events == HELLO_EVENTS


async def test_cancel_while_going_out_again_in_vain_is_silent(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        exchange = await pool.connect(notes := Notes())
        assert exchange.connection is not None
        exchange.connection.abort()
        exchange.send(*POST)
        exchange.cancel()
    await until(lambda: pool.open_exchanges == 0)
    assert notes.events == []


async def test_cancel_while_going_out_again_sends_nothing(make_pool: MakePool) -> None:
    async with provider(answer_then_drop(HELLO), answers(HELLO)) as acme:
        pool = make_pool(acme.url)
        await call(pool)
        exchange, notes = await begin(pool, b"GET", b"")
        await until(lambda: exchange.connection is None, step_s=0)
        exchange.pause()
        exchange.cancel()
        await until(lambda: acme.connections == 2)
        await until(lambda: pool.open_exchanges == 0)
        assert notes.events == []
        assert acme.requests[1] == []
        assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 2


# TLS


def server_tls(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"])
    ca.issue_cert(name).configure_cert(context)
    return context


async def test_tls_carries_all_of_it(
    ca: trustme.CA, make_pool: MakePool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen: list[object] = []

    async def note_protocol(peer: Peer) -> None:
        tls = peer.writer.get_extra_info("ssl_object")
        seen.append((tls.selected_alpn_protocol(), tls.version()))
        await large_answer(peer)

    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    async with provider(answers(HELLO), note_protocol, tls=server_tls(ca, "localhost")) as acme:
        pool = make_pool(f"https://localhost:{acme.port}", ca_file=str(ca_file))
        for _ in range(3):
            assert (await call(pool)).events == HELLO_EVENTS
        assert acme.connections == 1
        held = await pool.connect(Notes())
        notes = await call(pool, body=b"x" * 1_000_000)
        held.cancel()
        assert notes.body == bytes(LARGE)
        assert seen == [("http/1.1", "TLSv1.3")]


@pytest.mark.parametrize("clean", [True, False])
async def test_over_tls_only_an_orderly_close_ends_a_body(
    clean: bool, ca: trustme.CA, make_pool: MakePool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def close(peer: Peer) -> None:
        await peer.request()
        peer.write(head("X: y") + b"hello")
        await asyncio.sleep(0.02)
        if not clean:
            peer.writer.transport.abort()

    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    async with provider(close, tls=server_tls(ca, "localhost")) as acme:
        pool = make_pool(f"https://localhost:{acme.port}", ca_file=str(ca_file))
        notes = await call(pool)
    on_uvloop = type(asyncio.get_running_loop()).__module__.startswith("uvloop")
    if clean or not on_uvloop:  # asyncio cannot tell one from the other
        assert notes.events[-1] == ("end",)
    else:
        assert notes.events[-1] == ("broken", "upstream_broken")


async def test_silence_is_no_answer(make_pool: MakePool) -> None:
    async with provider(silence) as acme:
        exchange, notes = await begin(make_pool(acme.url))
        await asyncio.sleep(0.02)
        assert notes.events == []
        exchange.cancel()
