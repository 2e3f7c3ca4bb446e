"""The request parser under random bytes: never raises, never carries twice, agrees with h11."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.configuration import DataPlane
from gateway.core.identity import ErrorShape
from gateway.ports import Answer, Request
from gateway.server.http1 import ClientAnswer, ClientConnection
from gateway.server.limits import Shared
from gateway.server.refusals import Refusals
from tests.soak import fuzz

pytestmark = [pytest.mark.soak, pytest.mark.repeats]

EXAMPLES = 250
PLANE = DataPlane("unix:///nowhere", max_head_bytes=4_096, max_headers=40, max_body_bytes=4_096)


class StubTransport(asyncio.Transport):
    """Takes what is written; says nothing of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True

    abort = close


class StubLoop:
    """Runs what is called soon when it is told to."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self.soon.append((callback, args))

    def run(self) -> None:
        while self.soon:
            callback, args = self.soon.pop(0)
            callback(*args)


Seen = list[tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]]


def carried(pieces: list[bytes], monkey: pytest.MonkeyPatch) -> tuple[Seen, bytes, bool]:
    """Return the requests that are carried of these pieces, what was answered, if it ended."""
    loop, refusals, seen = StubLoop(), Refusals(), Seen()
    monkey.setattr(asyncio, "get_running_loop", lambda: loop)

    def carry(request: Request, answer: ClientAnswer) -> None:
        seen.append((request.method, request.target, tuple(request.headers), request.body))
        answer.start(200, [], "", 0)
        answer.finish()

    def refuse(code: str, message: str) -> tuple[Answer, str]:
        return refusals.answer(code, message, ErrorShape.OPENAI_ANTHROPIC, "-"), ""

    shared = Shared(PLANE)
    connection, transport = ClientConnection(carry, refuse, lambda: 0.0, shared), StubTransport()
    connection.connection_made(transport)
    for piece in pieces:
        if transport.closed:
            break
        connection.data_received(piece)
        loop.run()
    ended = connection._refused or transport.closed
    connection.check_deadlines(1e9)
    loop.run()
    connection.connection_lost(None)
    assert (shared.room.used, shared.room._carried, len(shared.guests)) == (0, 0, 0)
    return seen, b"".join(transport.written), ended


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


# Requests -----------------------------------------------------------------------------------------

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"DELETE", b"PUT", b"OPTIONS"])
TARGETS = st.sampled_from(
    [b"/", b"/v1/chat/completions", b"/v1/x?a=b&c=%20", b"*", b"//x", b"/a;b"]
)
LINES = st.lists(
    st.sampled_from(
        [
            b"X-Task-Id: a",
            b"x-task-phase:PLAN",
            b"Accept: */*",
            b"X: \xff\xfe",
            b"X:",
            b"Y:\t a b\t",
            b"Connection: keep-alive",
            b"Expect: 100-continue",
            b"Upgrade: h2c",
            b"Connection: Upgrade, HTTP2-Settings",
        ]
    ),
    max_size=5,
)
BODIES = st.binary(max_size=60)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    lines = [draw(METHODS) + b" " + draw(TARGETS) + b" HTTP/1.1", b"Host: t", *draw(LINES)]
    framing, body = draw(st.sampled_from(["none", "length", "chunked"])), draw(BODIES)
    if framing == "none":
        body = b""
    elif framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    else:
        lines.append(b"Transfer-Encoding: chunked")
        at = draw(st.integers(0, len(body)))
        chunks = [chunk for chunk in (body[:at], body[at:]) if chunk]
        extension = draw(st.sampled_from([b"", b";a=b", b';a="b"']))
        trailer = draw(st.sampled_from([b"", b"X-Task-Id: evil\r\n"]))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(c), extension, c) for c in chunks)
        body += b"0\r\n" + trailer + b"\r\n"
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


ODDITIES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"-", b"+", b"\xff",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: u\r\n", b"HTTP/1.0",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Upgrade: websocket\r\n", b"0\r\n\r\n", b"chunked",
    b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\n",
]  # fmt: skip
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(0, 12),
        st.one_of(st.sampled_from(ODDITIES), st.binary(max_size=3)),
    ),
    max_size=4,
)
CUTS = st.lists(st.integers(0, 800), max_size=6)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Requests after each other, with some bytes replaced, inserted or left out."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for place, length, piece in draw(MUTATIONS):
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + length :]
    return data


def by_h11(data: bytes) -> tuple[Seen, bool]:
    """Return the requests as h11 reads them, up to the first that it does not take."""
    connection, seen = h11.Connection(h11.SERVER, 64_000), Seen()
    head, body = None, b""
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED):
                return seen, True
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = tuple((name.lower(), value) for name, value in head.headers)
                seen.append((head.method, head.target, headers, body))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return seen, True
                connection.start_next_cycle()
    except h11.RemoteProtocolError:
        return seen, False


def as_h11_would_say(seen: Seen) -> Seen:
    return [
        (
            method,
            target,
            tuple((name.lower(), value.strip(b" \t")) for name, value in headers),
            body,
        )
        for method, target, headers, body in seen
    ]


def without_upgrade(seen: Seen) -> Seen:
    """Our side leaves out an upgrade that is ignored."""
    return [
        (method, target, tuple(h for h in headers if h[0] != b"upgrade"), body)
        for method, target, headers, body in seen
    ]


@fuzz(EXAMPLES)
@given(data=mutated(), places=CUTS)
def test_cuts_do_not_matter_and_h11_reads_the_same(data: bytes, places: list[int]) -> None:
    """Nothing raises; whatever the cuts, the same requests are carried, each once, as h11 reads it.

    We may carry less than h11, for we are stricter, but what both take ends at the same byte.
    """
    with pytest.MonkeyPatch.context() as monkey:
        whole, answered, ended = carried([data], monkey)
        pieces, answered_in_pieces, ended_in_pieces = carried(cut(data, places), monkey)
        assert (pieces, ended_in_pieces) == (whole, ended)
        assert answered.count(b"HTTP/1.1 200 ") == len(whole)
        assert answered_in_pieces.count(b"HTTP/1.1 200 ") == len(whole)
    theirs, theirs_is_clean = by_h11(data)
    ours = without_upgrade(as_h11_would_say(whole))
    theirs = without_upgrade(theirs)
    both = min(len(ours), len(theirs))
    assert ours[:both] == theirs[:both]
    if not ended and theirs_is_clean:
        assert len(ours) == len(theirs)


@fuzz(EXAMPLES)
@given(data=st.lists(requests(), min_size=1, max_size=4).map(b"".join), places=CUTS)
def test_valid_requests_are_all_carried(data: bytes, places: list[int]) -> None:
    """What is valid is taken whole."""
    with pytest.MonkeyPatch.context() as monkey:
        seen, _, ended = carried(cut(data, places), monkey)
    theirs, clean = by_h11(data)
    assert clean
    assert not ended
    assert without_upgrade(as_h11_would_say(seen)) == without_upgrade(theirs)


@fuzz(EXAMPLES)
@given(pieces=st.lists(st.binary(max_size=80), max_size=5))
def test_any_bytes(pieces: list[bytes]) -> None:
    """Nothing raises, whatever comes."""
    with pytest.MonkeyPatch.context() as monkey:
        assert carried(pieces, monkey)[0] == carried([b"".join(pieces)], monkey)[0]
