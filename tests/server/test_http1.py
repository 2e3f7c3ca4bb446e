"""The client side of the data plane, byte by byte."""

import asyncio

import pytest

from gateway.ports import Request
from gateway.server.http1 import ClientAnswer, framing_problem
from tests.server.client import open_call, serving

GET = b"GET /v1/models HTTP/1.1\r\nHost: t\r\n\r\n"
POST = b"POST /v1/x HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /v1/x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
)


class Watcher:
    """Writes down what a flow is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.news = asyncio.Event()

    def _note(self, what: str) -> None:
        self.heard.append(what)
        self.news.set()

    def client_is_slow(self) -> None:
        self._note("slow")

    def client_caught_up(self) -> None:
        self._note("caught up")

    def client_left(self) -> None:
        self._note("left")

    async def hears(self, what: str) -> None:
        async with asyncio.timeout(30):
            while what not in self.heard:
                self.news.clear()
                await self.news.wait()


# Requests -----------------------------------------------------------------------------------------


async def test_requests_follow_each_other_on_a_connection() -> None:
    """A connection stays for the next request; the request comes as it was written."""
    async with serving() as server, server.client() as client:
        first = await client.ask(GET)
        second = await client.ask(POST)
        third = await client.ask(CHUNKED)
        assert (first.status, first.body) == (200, b"/v1/models")
        assert (second.body, third.body) == (b"hello", b"hello world")
        assert "connection" not in first.headers
        assert first.headers["x-budget"] == "1"
        request = server.calls.requests[1]
        assert (request.method, request.target, request.body) == (b"POST", b"/v1/x", b"hello")
        assert request.headers == [(b"Host", b"t"), (b"Content-Length", b"5")]
        assert server.server.open_connections == 1


@pytest.mark.parametrize("data", [GET, POST, CHUNKED], ids=["bodiless", "sized", "chunked"])
async def test_a_request_may_come_byte_by_byte(data: bytes) -> None:
    """However a request is cut, it is the same request."""
    async with serving() as server, server.client() as client:
        await client.send_bytewise(data)
        await client.reply()
        whole = await client.ask(data)
        bytewise, at_once = server.calls.requests
        assert (bytewise.target, bytewise.headers, bytewise.body) == (
            at_once.target,
            at_once.headers,
            at_once.body,
        )
        assert whole.status == 200


async def test_pipelined_requests_are_carried_one_after_another() -> None:
    """The second waits until the first is answered; the order holds."""
    async with serving() as server, server.client() as client:
        server.calls.act = open_call
        client.send(GET + POST + GET)
        first = await server.calls.number(1)
        await asyncio.sleep(0.02)
        assert len(server.calls.answers) == 1
        for number, text in enumerate((b"one", b"two", b"three"), start=1):
            answer = await server.calls.number(number)
            answer.start(200, [], "", len(text))
            answer.write(text)
            answer.finish()
        assert [(await client.reply()).body for _ in range(3)] == [b"one", b"two", b"three"]
        assert not first.is_open


async def test_a_client_cannot_pipeline_without_end() -> None:
    """After sixteen requests that wait, no more is read until one is answered."""
    async with serving() as server, server.client() as client:
        server.calls.act = open_call
        client.send(GET * 40)
        (await server.calls.number(1)).start(200, [], "", 0)
        server.calls.answers[0].finish()
        for number in range(2, 41):
            answer = await server.calls.number(number)
            answer.start(200, [], "", 0)
            answer.finish()
        assert [(await client.reply()).status for _ in range(40)] == [200] * 40


async def test_the_continue_that_a_client_waits_for() -> None:
    """`Expect: 100-continue` is answered before the body is read."""
    head = b"POST /v1/x HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    async with serving() as server, server.client() as client:
        assert (await client.ask(head)).status == 100
        assert not server.calls.requests
        assert (await client.ask(b"hello")).body == b"hello"


async def test_no_continue_for_a_body_that_is_refused() -> None:
    """A client that asks first is spared the body, and hears why."""
    head = b"POST /v1/x HTTP/1.1\r\nHost: t\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n"
    async with serving(max_body_bytes=4_000) as server, server.client() as client:
        reply = await client.ask(head)
        assert (reply.status, reply.code) == (413, "body_too_large")
        assert await client.rest() == b""


async def test_a_method_is_passed_on_as_it_is() -> None:
    """Methods are the provider's matter."""
    async with serving() as server, server.client() as client:
        reply = await client.ask(GET.replace(b"GET", b"DELETE"))
        assert reply.headers["x-method"] == "DELETE"


# Requests that are not trusted --------------------------------------------------------------------

HOST = b"Host: t\r\n"
BAD_REQUESTS = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n",
    "length and coding": b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n"
    b"Content-Length: 3\r\n\r\nabc",
    "length list": b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3, 3\r\n\r\nabc",
    "signed length": b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: +3\r\n\r\nabc",
    "negative length": b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: -3\r\n\r\nabc",
    "gzip, chunked": b"POST / HTTP/1.1\r\nHost: t\r\n"
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "xchunked": b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": b"POST / HTTP/1.1\r\nHost: t\r\n"
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 chunked": b"POST / HTTP/1.0\r\nHost: t\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: t\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : t\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: t\r\nX: a\r\n b\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: t\n\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n",
    "no method": b"\0\1\2\3\r\n\r\n",
    "bad chunk size": b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_what_two_parsers_could_read_differently_is_refused(data: bytes) -> None:
    """It is never carried; the client is told, and the connection ends."""
    async with serving() as server, server.client() as client:
        reply = await client.ask(data)
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert reply.headers["connection"] == "close"
        assert reply.headers["x-tollgate-decision"] == "refuse"
        assert reply.headers["x-tollgate-call-id"] == reply.json["request_id"] == "call-1"
        assert await client.rest() == b""
        assert not server.calls.requests
        (told,) = server.told.events
        assert (told["event"], told["code"]) == ("request_refused", "invalid_request")


@pytest.mark.parametrize("data", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_it_is_refused_byte_by_byte_too(data: bytes) -> None:
    """The verdict does not depend on how the bytes were cut."""
    async with serving() as server, server.client() as client:
        await client.send_bytewise(data)
        assert (await client.reply()).status == 400
        assert not server.calls.requests


async def test_trailers_are_dropped() -> None:
    """What comes after the body cannot add a tag to the request."""
    data = CHUNKED.replace(b"0\r\n\r\n", b"0\r\nX-Task-Id: other\r\n\r\n")
    async with serving() as server, server.client() as client:
        assert (await client.ask(data)).body == b"hello world"
        names = [name for name, _ in server.calls.requests[0].headers]
        assert names == [b"Host", b"Transfer-Encoding"]
        await client.ask(GET)
        assert [name for name, _ in server.calls.requests[1].headers] == [b"Host"]


async def test_a_bad_request_behind_an_open_call_does_not_disturb_it() -> None:
    """The open call is answered; then the connection ends."""
    async with serving() as server, server.client() as client:
        server.calls.act = open_call
        client.send(GET + BAD_REQUESTS["no host"] + GET)
        answer = await server.calls.number(1)
        await asyncio.sleep(0.02)
        client.send(GET)
        answer.start(200, [], "", 2)
        answer.write(b"ok")
        answer.finish()
        assert (await client.reply()).body == b"ok"
        assert await client.rest() == b""
        assert len(server.calls.requests) == 1


async def test_a_head_has_a_cap() -> None:
    """A head that is too large is refused, in one piece or in many, before it is held whole."""
    big = b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 5_000 + b"\r\n\r\n"
    endless = b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 20_000
    many = b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: a\r\n" * 2_000
    for data in (big, endless, many, b"GET /" + b"a" * 20_000):
        async with serving(max_head_bytes=4_096) as server, server.client() as client:
            for place in range(0, len(data), 512):
                client.send(data[place : place + 512])
                await asyncio.sleep(0)
            reply = await client.reply()
            assert (reply.status, reply.code) == (431, "head_too_large")
            assert not server.calls.requests


@pytest.mark.parametrize("piece", [100, 1_000, 10_000])
async def test_a_head_below_the_cap_is_taken_however_it_is_cut(piece: int) -> None:
    """Nothing is counted twice."""
    data = b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X-Long: %b\r\n" % (b"a" * 500) * 7 + b"\r\n"
    async with serving(max_head_bytes=4_096) as server, server.client() as client:
        for place in range(0, len(data), piece):
            client.send(data[place : place + piece])
            await client.writer.drain()
            await asyncio.sleep(0.001)
        assert (await client.reply()).status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_has_a_cap(chunked: bool) -> None:
    """A body that is too large is refused, also where its length is not stated beforehand."""
    body = b"a" * 5_000
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 5000"
    data = b"POST / HTTP/1.1\r\nHost: t\r\n" + framing + b"\r\n\r\n"
    data += b"1388\r\n" + body + b"\r\n0\r\n\r\n" if chunked else body
    async with serving(max_body_bytes=4_000) as server, server.client() as client:
        reply = await client.ask(data)
        assert (reply.status, reply.code) == (413, "body_too_large")
        assert "4000 bytes" in reply.json["error"]["message"]
        assert await client.rest() == b""
        assert not server.calls.requests


async def test_a_client_that_goes_on_sending_reads_the_refusal() -> None:
    """The connection is not reset under a client that has not read the answer yet."""
    async with serving(max_body_bytes=4_000) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 500000\r\n\r\n")
        for _ in range(50):
            client.send(b"a" * 10_000)
            await asyncio.sleep(0)
        assert (await client.reply()).status == 413


def test_framing_problems_are_named() -> None:
    """Each is told in words; a good head has none."""
    host = (b"Host", b"t")
    assert framing_problem("1.1", [host]) == ""
    assert framing_problem("1.0", []) == ""
    assert framing_problem("1.1", [host, (b"transfer-encoding", b"CHUNKED")]) == ""
    assert "HTTP/0.9" in framing_problem("0.9", [host])
    assert "Host" in framing_problem("1.1", [])
    assert "more than once" in framing_problem(
        "1.1", [host, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")]
    )
    assert "number" in framing_problem("1.1", [host, (b"content-length", b"1x")])
    assert "chunked" in framing_problem("1.0", [host, (b"transfer-encoding", b"chunked")])


# Answers ------------------------------------------------------------------------------------------


def answering(status: int, length: int | None, *pieces: bytes) -> "object":
    def act(_: Request, answer: ClientAnswer) -> None:
        answer.start(status, [(b"a", b"1"), (b"A", b"2")], "", length)
        for piece in pieces:
            answer.write(piece)
        answer.finish()

    return act


async def test_an_answer_of_unknown_length_is_chunked() -> None:
    """Pieces go out as they come, empty ones not at all: those would end it."""
    async with serving() as server, server.client() as client:
        server.calls.act = answering(200, None, b"one", b"", b"two")
        reply = await client.ask(GET)
        assert (reply.body, reply.complete) == (b"onetwo", True)
        assert reply.headers["transfer-encoding"] == "chunked"
        assert (await client.ask(GET)).complete


async def test_to_an_old_client_it_runs_to_the_close() -> None:
    """HTTP/1.0 knows no chunks."""
    async with serving() as server, server.client() as client:
        server.calls.act = answering(200, None, b"one", b"two")
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        reply = await client.reply()
        assert (reply.body, reply.headers["connection"]) == (b"onetwo", "close")
        assert "transfer-encoding" not in reply.headers


async def test_keep_alive_is_the_clients_wish() -> None:
    """`Connection: close` and HTTP/1.0 end it; HTTP/1.0 with keep-alive does not."""
    async with serving() as server:
        for data in (
            GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
            b"GET / HTTP/1.0\r\n\r\n",
        ):
            async with server.client() as client:
                assert (await client.ask(data)).headers["connection"] == "close"
                assert await client.rest() == b""
        async with server.client() as client:
            kept = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
            assert (await client.ask(kept)).complete
            assert (await client.ask(kept)).complete


@pytest.mark.parametrize("length", [5, None])
async def test_head_is_answered_without_a_body(length: int | None) -> None:
    """The headers are those of GET, and the next answer is not taken for the body."""
    async with serving() as server, server.client() as client:
        server.calls.act = answering(200, length, b"hello")
        reply = await client.ask(GET.replace(b"GET", b"HEAD"))
        assert reply.headers.get("content-length") == (None if length is None else "5")
        assert (await client.ask(GET)).body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(status: int) -> None:
    """They have neither body nor framing."""
    async with serving() as server, server.client() as client:
        server.calls.act = answering(status, 0, b"ignored")
        reply = await client.ask(GET)
        assert reply.status == status
        assert not {"content-length", "transfer-encoding"} & set(reply.headers)
        assert (await client.ask(GET)).status == status


async def test_a_status_that_nobody_knows() -> None:
    """It goes through, and so do repeated headers."""
    async with serving() as server, server.client() as client:
        server.calls.act = answering(529, 0)
        client.send(GET)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 529 Unknown\r\na: 1\r\nA: 2\r\n")


async def test_an_answer_that_is_too_short_is_cut() -> None:
    """It must not look whole."""
    async with serving() as server, server.client() as client:
        server.calls.act = answering(200, 10, b"short")
        reply = await client.ask(GET)
        assert (reply.complete, reply.body) == (False, b"short")
        assert await client.rest() == b""


async def test_an_aborted_answer_is_cut() -> None:
    """A chunked one lacks its last chunk; aborting twice, or after the end, does nothing."""

    def act(_: Request, answer: ClientAnswer) -> None:
        answer.start(200, [], "", None)
        answer.write(b"half")

    async with serving() as server, server.client() as client:
        server.calls.act = act
        client.send(GET)
        answer = await server.calls.number(1)
        assert answer.started
        await asyncio.sleep(0.02)
        answer.abort()
        answer.abort()
        reply = await client.reply()
        assert not reply.complete
        assert not answer.is_open


async def test_a_finished_answer_takes_nothing_more() -> None:
    """Whoever writes late cannot hit the next call."""
    async with serving() as server, server.client() as client:
        await client.ask(GET)
        answer = server.calls.answers[0]
        answer.write(b"late")
        answer.start(500, [], "", 0)
        answer.finish()
        answer.abort()
        assert (await client.ask(GET)).status == 200


# The client's doings ------------------------------------------------------------------------------


async def test_a_client_that_leaves_is_noticed() -> None:
    """The flow hears of it; requests that waited are dropped."""
    async with serving() as server:
        server.calls.act = open_call
        watcher = Watcher()
        async with server.client() as client:
            client.send(GET + GET)
            answer = await server.calls.number(1)
            answer.attach(watcher)
        await watcher.hears("left")
        assert not answer.is_open
        assert len(server.calls.requests) == 1
        answer.write(b"nobody reads this")
        late = Watcher()
        answer.attach(late)
        assert late.heard == ["left"]


async def test_a_client_that_left_before_anybody_asked() -> None:
    """Without a flow nobody is told; nothing breaks."""
    async with serving() as server:
        server.calls.act = open_call
        async with server.client() as client:
            client.send(GET)
            answer = await server.calls.number(1)
        while answer.is_open:
            await asyncio.sleep(0.001)


async def test_a_slow_client_is_noticed_and_so_is_its_catching_up() -> None:
    """Back-pressure is told at once to whoever attaches late."""
    async with serving() as server, server.client(receive_buffer=4_096) as client:
        server.calls.act = open_call
        client.send(GET)
        answer = await server.calls.number(1)
        watcher, late = Watcher(), Watcher()
        answer.start(200, [], "", None)
        answer.attach(watcher)
        while "slow" not in watcher.heard:
            answer.write(b"x" * 65_536)
        answer.attach(late)
        assert late.heard == ["slow"]
        answer.write(b"end")
        reading = asyncio.ensure_future(client.reply())
        await late.hears("caught up")
        answer.finish()
        assert (await reading).body.endswith(b"end")


async def test_slowness_without_a_flow() -> None:
    """An answer of our own has no flow: it is simply written."""
    async with serving() as server, server.client(receive_buffer=4_096) as client:
        server.calls.act = answering(200, 4_000_000, b"x" * 4_000_000)
        reply = await client.ask(GET)
        assert len(reply.body) == 4_000_000


async def test_a_failure_of_our_own_ends_the_connection() -> None:
    """It is told to the loop, and the client does not wait for ever."""

    def act(_: Request, __: ClientAnswer) -> None:
        raise RuntimeError("boom")

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with serving() as server, server.client() as client:
        server.calls.act = act
        client.send(GET)
        assert await client.rest() == b""
    assert len(told) == 1


# Keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "Authorization: Bearer sk-1\r\n", "x-api-key: tg-1\r\n"])
async def test_who_brings_no_key_is_answered_before_the_body_is_read(key: str) -> None:
    """Where keys are required."""
    head = f"POST /v1/x HTTP/1.1\r\nHost: t\r\n{key}Content-Length: 60000000\r\n\r\n"
    async with serving(keys_required=True) as server, server.client() as client:
        client.send(head.encode())
        reply = await client.reply()
        assert (reply.status, reply.code) == (401, "invalid_key")
        assert await client.rest() == b""
        assert not server.calls.requests


async def test_the_text_of_a_key_opens_the_door() -> None:
    """Whether it is a good one is seen by who carries the call."""
    head = f"GET /v1/x HTTP/1.1\r\nHost: t\r\nx-api-key: tg-abcd1234-{'s' * 40}\r\n\r\n"
    async with serving(keys_required=True) as server, server.client() as client:
        assert (await client.ask(head.encode())).status == 200
