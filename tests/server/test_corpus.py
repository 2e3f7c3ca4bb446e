"""Requests that proxies are attacked with, each by name: rejected, or read in the one right way."""

import asyncio

import pytest

from gateway.core.errors import BadCall
from gateway.core.identity import ErrorShape, identify
from gateway.ports import Request
from gateway.server.framing import framing_problem, method_problem, upgrade_problem
from gateway.server.http1 import ClientAnswer
from gateway.server.refusals import Refusals
from tests.server.client import Serving, echo, open_call, serving

HOST = b"Host: t\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: t\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


def get(lines: bytes) -> bytes:
    return b"GET /v1/x HTTP/1.1\r\n" + HOST + lines + b"\r\n"


def post(lines: bytes, body: bytes) -> bytes:
    return b"POST /v1/x HTTP/1.1\r\n" + HOST + lines + b"\r\n" + body


def to(target: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: t\r\n\r\n"


CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
REJECTED = {
    # where the body ends
    "CL+TE": post(b"Content-Length: 3\r\n" + CHUNKED, CHUNKS),
    "TE+CL": post(CHUNKED + b"Content-Length: 3\r\n", CHUNKS),
    "two equal lengths": post(b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"),
    "two lengths": post(b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd"),
    "length list": post(b"Content-Length: 3, 3\r\n", b"abc"),
    "signed length": post(b"Content-Length: +3\r\n", b"abc"),
    "negative length": post(b"Content-Length: -3\r\n", b"abc"),
    "hexadecimal length": post(b"Content-Length: 0x3\r\n", b"abc"),
    "underscored length": post(b"Content-Length: 1_0\r\n", b"0123456789"),
    "empty length": post(b"Content-Length:\r\n", b""),
    "length over 64 bits": post(b"Content-Length: 18446744073709551619\r\n", b"abc"),
    "length of many digits": post(b"Content-Length: " + b"0" * 5_000 + b"3\r\n", b"abc"),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
    "chunked, gzip": post(b"Transfer-Encoding: chunked, gzip\r\n", CHUNKS),
    "chunked, chunked": post(b"Transfer-Encoding: chunked, chunked\r\n", CHUNKS),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "identity": post(b"Transfer-Encoding: identity\r\n", b""),
    "xchunked": post(b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    "quoted chunked": post(b'Transfer-Encoding: "chunked"\r\n', CHUNKS),
    "vertical tab before chunked": post(b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS),
    "two TE lines": post(CHUNKED + CHUNKED, CHUNKS),
    "two TE lines, one empty": post(CHUNKED + b"Transfer-Encoding:\r\n", CHUNKS),
    "HTTP/1.0 + chunked": b"POST /v1/x HTTP/1.0\r\nHost: t\r\n" + CHUNKED + b"\r\n" + CHUNKS,
    "chunk size of no digits": post(CHUNKED, b"zz\r\n"),
    "signed chunk size": post(CHUNKED, b"+3\r\nabc\r\n0\r\n\r\n"),
    "hexadecimal chunk size": post(CHUNKED, b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size over 64 bits": post(CHUNKED, b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    "chunk longer than its size": post(CHUNKED, b"3\r\nabcd\r\n0\r\n\r\n"),
    "chunk size with bare LF": post(CHUNKED, b"3\nabc\n0\n\n"),
    "length in a trailer": post(CHUNKED, b"3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n"),
    "space after chunk size": post(CHUNKED, b"3 \r\nabc\r\n0\r\n\r\n"),
    # lines
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: t\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: t\r\n\r\n",
    "lower-case version": b"GET / http/1.1\r\nHost: t\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 64 + b"\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: t\n\n",
    "bare LF after a header": b"GET / HTTP/1.1\r\nHost: t\nX: a\r\n\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: t\r\n\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: t\r\nX: a\rb\r\n\r\n",
    "folded line": get(b"X: a\r\n b\r\n"),
    "folded line with a tab": get(b"X: a\r\n\tb\r\n"),
    "blank before the first header": b"GET / HTTP/1.1\r\n Host: t\r\n\r\n",
    "NUL in a value": get(b"X: a\0b\r\n"),
    "control character in a value": get(b"X: a\x01b\r\n"),
    "DEL in a value": get(b"X: a\x7fb\r\n"),
    "NUL in a name": get(b"X\0Y: a\r\n"),
    "control character in a name": get(b"X\x01: a\r\n"),
    "byte over 127 in a name": get(b"X\xe9: a\r\n"),
    "UTF-8 in a name": get("Höst: a\r\n".encode()),
    "space before the colon": get(b"X : a\r\n"),
    "tab before the colon": get(b"X\t: a\r\n"),
    "empty name": get(b": a\r\n"),
    "no colon": get(b"nonsense\r\n"),
    # the host
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": get(b"Host: t\r\n"),
    "two Hosts of different case": get(b"hOST: other\r\n"),
    "empty Host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "Host with a path": b"GET / HTTP/1.1\r\nHost: t/x\r\n\r\n",
    "Host with credentials": b"GET / HTTP/1.1\r\nHost: u@t\r\n\r\n",
    "Host list": b"GET / HTTP/1.1\r\nHost: t, u\r\n\r\n",
    "Host with an odd port": b"GET / HTTP/1.1\r\nHost: t:80a\r\n\r\n",
    "Host with bytes over 127": b"GET / HTTP/1.1\r\nHost: t\xe9\r\n\r\n",
    # methods and protocols
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
    "CONNECT with a path": b"CONNECT /v1/x HTTP/1.1\r\nHost: t\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: t\r\n\r\n",
    "unknown method": b"SPEND / HTTP/1.1\r\nHost: t\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: t\r\n\r\n",
    "WebSocket": get(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    "WebSocket among others": get(b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n"),
}
ODD_TARGETS = {
    "two slashes": b"//evil.example/v1/x",
    "two slashes inside": b"/v1//x",
    "absolute form": b"http://evil.example/v1/x",
    "asterisk": b"*",
    "dot segments": b"/v1/../admin",
    "encoded dot segments": b"/v1/%2e%2E/admin",
    "dot segments with a parameter": b"/v1/..;a=b/admin",
    "encoded slash": b"/v1/..%2fadmin",
    "encoded backslash": b"/v1/..%5Cadmin",
    "backslash": b"/v1\\x",
    "encoded NUL": b"/v1/x%00",
    "encoded line end": b"/v1/x%0d%0aX:%20y",
    "fragment": b"/v1/x#y",
}
LIMITS = {"max_head_bytes": 16_384, "max_headers": 100}


@pytest.mark.parametrize("data", REJECTED.values(), ids=REJECTED)
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_it_is_rejected(data: bytes, bytewise: bool) -> None:
    """400, however it is cut; it is never carried, nor is what stands behind it."""
    async with serving(**LIMITS) as server, server.client() as client:
        if bytewise:
            await client.send_bytewise(data)
        else:
            client.send(data + GET)
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert reply.headers["connection"] == "close"
        assert await client.rest() == b""
        assert not server.calls.requests


def identified(request: Request, answer: ClientAnswer) -> None:
    """Do what step 1 of a call does first."""
    try:
        identify(request.target, request.headers)
    except BadCall as error:
        shape = ErrorShape.OPENAI_ANTHROPIC
        answer.send(Refusals().answer(error.code, error.message, shape, "-"), "")
    else:
        echo(request, answer)


@pytest.mark.parametrize("target", ODD_TARGETS.values(), ids=ODD_TARGETS)
async def test_a_target_that_means_another_place_is_rejected(target: bytes) -> None:
    """Either by the parser or by step 1 of the call."""
    async with serving() as server, server.client() as client:
        server.calls.act = identified
        reply = await client.ask(to(target))
        assert reply.status == 400
        assert reply.code in ("invalid_target", "invalid_request")


@pytest.mark.parametrize(
    "data",
    [
        get(b"X: " + b"a" * 20_000 + b"\r\n"),
        get(b"X: a\r\n" * 10_000),
        get(b"X: a\r\n" * 100),
        to(b"/" + b"a" * 20_000),
    ],
    ids=["long header", "10,000 headers", "too many headers", "long target"],
)
async def test_a_head_that_is_too_large(data: bytes) -> None:
    """431: by bytes, and by number of headers."""
    async with serving(**LIMITS) as server, server.client() as client:
        reply = await client.ask(data)
        assert (reply.status, reply.code) == (431, "head_too_large")
        assert await client.rest() == b""
        assert not server.calls.requests


async def test_a_length_that_is_too_large() -> None:
    """It is known from the head."""
    async with serving(**LIMITS) as server, server.client() as client:
        reply = await client.ask(post(b"Content-Length: 9999999999999\r\n", b""))
        assert (reply.status, reply.code) == (413, "body_too_large")


FLOODS = {
    "one long extension": [b"3;" + b"x" * 4_000] * 10,
    "many extensions": [b"1;" + b"x" * 4_000 + b"\r\na\r\n"] * 10,
    "one long trailer": [b"3\r\nabc\r\n0\r\nX: " + b"x" * 4_000, *([b"x" * 4_000] * 10)],
    "many trailers": [b"3\r\nabc\r\n0\r\n", *([b"X: y\r\n" * 500] * 15)],
}


@pytest.mark.parametrize("pieces", FLOODS.values(), ids=FLOODS)
async def test_a_body_that_is_mostly_not_data(pieces: list[bytes]) -> None:
    """Chunk extensions and trailers are bounded like a head."""
    async with serving(**LIMITS) as server, server.client() as client:
        client.send(post(CHUNKED, b""))
        for piece in pieces:
            await asyncio.sleep(0.002)
            client.send(piece)
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert not server.calls.requests


async def test_single_bytes_as_chunks_are_no_flood() -> None:
    """A client that sends a short text byte by byte is odd, not hostile."""
    async with serving(**LIMITS) as server, server.client() as client:
        await client.send_bytewise(post(CHUNKED, b"1\r\na\r\n" * 500 + b"0\r\n\r\n"))
        assert (await client.reply()).body == b"a" * 500


async def test_an_expectation_that_nobody_knows() -> None:
    """417, and the connection ends: the body may or may not follow."""
    async with serving() as server, server.client() as client:
        reply = await client.ask(post(b"Expect: 200-ok\r\nContent-Length: 3\r\n", b"abc"))
        assert (reply.status, reply.code) == (417, "expectation_failed")
        assert not server.calls.requests


async def test_an_old_client_is_not_told_to_continue() -> None:
    """HTTP/1.0 knows no interim answers."""
    async with serving() as server, server.client() as client:
        data = b"POST /v1/x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"
        assert (await client.ask(data)).body == b"abc"


# What looks odd and is served -----------------------------------------------------------------

SERVED = {
    "UTF-8 in a value": get("X: Grüße\r\n".encode()),
    "bytes over 127 in a value": get(b"X: \xff\xfe\r\n"),
    "tab in a value": get(b"X: a\tb\r\n"),
    "empty value": get(b"X:\r\n"),
    "line ends before the request": b"\r\n\r\n" + get(b""),
    "Host with a port": b"GET /v1/x HTTP/1.1\r\nHost: gateway.example:8080\r\n\r\n",
    "Host of digits": b"GET /v1/x HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
    "two blanks before the version": b"GET /v1/x  HTTP/1.1\r\nHost: t\r\n\r\n",
    "upgrade without Connection": get(b"Upgrade: websocket\r\n"),
    "h2c": get(H2C),
    "HTTP/2.0 offered": get(b"Connection: Upgrade\r\nUpgrade: HTTP/2.0, TLS/1.3\r\n"),
}


@pytest.mark.parametrize("data", SERVED.values(), ids=SERVED)
async def test_what_is_odd_but_plain_is_served(data: bytes) -> None:
    """And the connection goes on."""
    async with serving() as server, server.client() as client:
        assert (await client.ask(data)).body == b"/v1/x"
        assert (await client.ask(GET)).status == 200


H2C_BODIES = {
    "length": post(H2C + b"Content-Length: 5\r\n", b"hello"),
    "chunked": post(H2C + CHUNKED, b"2\r\nhe\r\n3;e=1\r\nllo\r\n0\r\nX-Task-Id: a\r\n\r\n"),
}


@pytest.mark.parametrize("data", H2C_BODIES.values(), ids=H2C_BODIES)
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_an_offer_of_h2c_is_ignored_the_body_is_whole(data: bytes, bytewise: bool) -> None:
    """Java's client makes it with every first request; pipelining behind it works."""
    async with serving() as server, server.client() as client:
        if bytewise:
            await client.send_bytewise(data * 2 + GET)
        else:
            client.send(data * 2 + GET)
        bodies = [(await client.reply()).body for _ in range(3)]
        assert bodies == [b"hello", b"hello", b"/v1/models"]
        names = [name.lower() for name, _ in server.calls.requests[0].headers]
        assert b"upgrade" not in names
        assert b"x-task-id" not in names


async def test_many_offers_of_h2c_in_one_packet() -> None:
    """They cost no more than as many requests."""
    async with serving() as server, server.client() as client:
        client.send(get(H2C) * 300)
        assert [(await client.reply()).status for _ in range(300)] == [200] * 300


async def test_trailers_are_ignored() -> None:
    """A tag cannot come after the body."""
    data = post(CHUNKED, b"3\r\nabc\r\n0\r\nX-Task-Id: other\r\nHost: other\r\n\r\n")
    async with serving() as server, server.client() as client:
        assert (await client.ask(data)).body == b"abc"
        assert [name for name, _ in server.calls.requests[0].headers] == [
            b"Host",
            b"Transfer-Encoding",
        ]
        assert (await client.ask(GET)).status == 200


async def test_what_waits_before_a_bad_request_is_answered() -> None:
    """Requests that came whole are served; then the connection ends."""
    async with serving() as server, server.client() as client:
        server.calls.act = open_call
        client.send(GET + post(b"Content-Length: 3\r\n", b"abc") + REJECTED["no Host"] + GET)
        await server.calls.number(1)
        await asyncio.sleep(0.02)
        server.calls.act = echo
        echo(server.calls.requests[0], server.calls.answers[0])
        assert [(await client.reply()).body for _ in range(2)] == [b"/v1/models", b"abc"]
        assert await client.rest() == b""
        assert len(server.calls.requests) == 2


async def test_the_statuses_of_our_own_answers_are_read_by_a_client_that_sends_on() -> None:
    """The connection lingers, so that unread input does not reset it."""

    async def ask(server: Serving, data: bytes) -> int:
        async with server.client() as client:
            client.send(data)
            for _ in range(20):
                client.send(b"x" * 10_000)
                await asyncio.sleep(0)
            return (await client.reply()).status

    async with serving(max_body_bytes=4_000) as server:
        assert await ask(server, REJECTED["no Host"]) == 400
        assert await ask(server, post(b"Content-Length: 5000\r\n", b"")) == 413


def test_problems_are_named() -> None:
    """Each is told in words; a good head has none."""
    host = (b"Host", b"t")
    assert framing_problem("1.1", [host]) == ""
    assert "Host must be" in framing_problem("1.1", [(b"host", b"a b")])
    assert "number" in framing_problem("1.1", [host, (b"content-length", b"9" * 20)])
    assert method_problem(b"POST") == ""
    assert "TRACE" in method_problem(b"TRACE")
    assert upgrade_problem([(b"upgrade", b"h2c"), host]) == ""
    assert "not supported" in upgrade_problem([(b"upgrade", b"websocket")])
