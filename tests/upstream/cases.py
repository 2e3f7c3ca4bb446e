"""Answers as they come over the wire, and what must come out of each however it is cut."""

from dataclasses import dataclass
from typing import Any

Events = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """One answer: its bytes, the request's method, and what a sink must hear.

    `reusable` tells whether the connection may serve another request; `at_close` that the answer
    ends only with the connection.
    """

    name: str
    wire: bytes
    events: Events
    method: bytes = b"POST"
    reusable: bool = True
    at_close: bool = False


def head(*lines: str, status: int = 200, version: str = "1.1") -> bytes:
    return "\r\n".join((f"HTTP/{version} {status} Any Reason", *lines, "", "")).encode("latin-1")


def _told(
    status: int, headers: list[tuple[bytes, bytes]], length: int | None, body: bytes
) -> Events:
    events: Events = [("head", status, headers, length)]
    if body:
        events.append(("body", body))
    return [*events, ("end",)]


REFUSED: Events = [("broken", "upstream_protocol_error")]
CUT_OFF: Events = [("broken", "upstream_broken")]

CL5 = (b"Content-Length", b"5")
CHUNKED = (b"Transfer-Encoding", b"chunked")
_CHUNKS = b"3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\n\r\n"
_HELLO = _told(200, [CL5], 5, b"hello")
_HELLO_CHUNKED = _told(200, [CHUNKED], None, b"hello")

WHOLE = [
    Case("length", head("Content-Length: 5") + b"hello", _HELLO),
    Case("no body", head("Content-Length: 0"), _told(200, [(b"Content-Length", b"0")], 0, b"")),
    Case("no reason phrase", b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", _HELLO),
    Case("chunked", head("Transfer-Encoding: chunked") + _CHUNKS, _HELLO_CHUNKED),
    Case(
        "chunked in capitals",
        head("transfer-encoding: Chunked ") + _CHUNKS,
        _told(200, [(b"transfer-encoding", b"Chunked ")], None, b"hello"),
    ),
    Case(
        "headers keep order, case and bytes",
        head("X-b: 1", "x-A: \xff ", "X-b: 2", "Empty:", "Content-Length: 5") + b"hello",
        _told(
            200,
            [(b"X-b", b"1"), (b"x-A", b"\xff "), (b"X-b", b"2"), (b"Empty", b""), CL5],
            5,
            b"hello",
        ),
    ),
    Case(
        "trailers are no headers",
        head("Transfer-Encoding: chunked")
        + b"5\r\nhello\r\n0\r\nX-Task-Id: evil\r\nContent-Type: x/y\r\n\r\n",
        _HELLO_CHUNKED,
    ),
    Case(
        "interim answers are swallowed",
        head(status=100)
        + head("Link: a", "Content-Length: 9", status=103)
        + head("Content-Length: 5")
        + b"hello",
        _HELLO,
    ),
    Case(
        "HEAD ends at the head",
        head("Content-Length: 5"),
        _told(200, [CL5], 5, b""),
        method=b"HEAD",
        reusable=False,
    ),
    Case(
        "HEAD of a chunked one",
        head("Transfer-Encoding: chunked"),
        _told(200, [CHUNKED], None, b""),
        method=b"HEAD",
        reusable=False,
    ),
    Case("204 ends at the head", head(status=204), _told(204, [], None, b"")),
    Case(
        "304 ends at the head",
        head("Content-Length: 5", status=304),
        _told(304, [CL5], 5, b""),
    ),
    Case(
        "body after a 304",
        head("Content-Length: 5", status=304) + b"hello",
        _told(304, [CL5], 5, b""),
        reusable=False,
    ),
    Case(
        "an upgrade that was only offered",
        head("Upgrade: h2c", "Connection: Upgrade", "Content-Length: 5") + b"hello",
        _told(200, [(b"Upgrade", b"h2c"), (b"Connection", b"Upgrade"), CL5], 5, b"hello"),
    ),
    Case(
        "Connection: close",
        head("Connection: x, close", "Content-Length: 5") + b"hello",
        _told(200, [(b"Connection", b"x, close"), CL5], 5, b"hello"),
        reusable=False,
    ),
    Case(
        "bytes after the end",
        head("Content-Length: 5") + b"helloHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        _HELLO,
        reusable=False,
    ),
    Case(
        "bytes after Connection: close",
        head("Connection: close", "Content-Length: 5") + b"hello!",
        _told(200, [(b"Connection", b"close"), CL5], 5, b"hello"),
        reusable=False,
    ),
    Case(
        "HTTP/1.0",
        head("Content-Length: 5", version="1.0") + b"hello",
        _HELLO,
        reusable=False,
    ),
    Case(
        "HTTP/1.0 kept alive",
        head("Connection: keep-alive", "Content-Length: 5", version="1.0") + b"hello",
        _told(200, [(b"Connection", b"keep-alive"), CL5], 5, b"hello"),
    ),
    Case(
        "until close",
        head("X: y") + b"hello",
        _told(200, [(b"X", b"y")], None, b"hello"),
        reusable=False,
        at_close=True,
    ),
]

BROKEN = [
    Case("101", head("Upgrade: x", "Connection: upgrade", status=101) + b"\0\1", REFUSED),
    Case("status 099", b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n", REFUSED),
    Case("HTTP/0.9", head("Content-Length: 5", version="0.9") + b"hello", REFUSED),
    Case("HTTP/2.0", head("Content-Length: 5", version="2.0") + b"hello", REFUSED),
    Case("not HTTP", b"\x15\x03\x01\x00\x02\x02\x16", REFUSED),
    Case(
        "length and chunked",
        head("Content-Length: 5", "Transfer-Encoding: chunked") + _CHUNKS,
        REFUSED,
    ),
    Case(
        "chunked and length",
        head("Transfer-Encoding: chunked", "Content-Length: 5") + _CHUNKS,
        REFUSED,
    ),
    Case("two lengths", head("Content-Length: 5", "Content-Length: 6") + b"hello", REFUSED),
    Case("one length twice", head("Content-Length: 5", "Content-Length: 5") + b"hello", REFUSED),
    Case("a list of lengths", head("Content-Length: 5, 5") + b"hello", REFUSED),
    Case("a signed length", head("Content-Length: +5") + b"hello", REFUSED),
    Case("gzip, chunked", head("Transfer-Encoding: gzip, chunked") + _CHUNKS, REFUSED),
    Case("identity", head("Transfer-Encoding: identity") + b"hello", REFUSED),
    Case("no coding", head("Transfer-Encoding:") + b"hello", REFUSED),
    Case(
        "chunked twice",
        head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + _CHUNKS,
        REFUSED,
    ),
    Case("chunked under 1.0", head("Transfer-Encoding: chunked", version="1.0") + _CHUNKS, REFUSED),
    Case("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", REFUSED),
    Case("folded header", head("X: a", " b", "Content-Length: 0"), REFUSED),
    Case("NUL in a header", head("X: a\0b", "Content-Length: 0"), REFUSED),
    Case(
        "a chunk size that is none",
        head("Transfer-Encoding: chunked") + b"5\r\nhello\r\nxyz\r\n",
        [*_HELLO_CHUNKED[:-1], *REFUSED],
    ),
    Case(
        "a framing header as trailer",
        head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
        [*_HELLO_CHUNKED[:-1], *REFUSED],
    ),
]

CUT = [
    Case("cut in the head", b"HTTP/1.1 200 OK\r\nContent-Le", CUT_OFF, at_close=True),
    Case(
        "cut in a body with length",
        head("Content-Length: 9") + b"hello",
        [("head", 200, [(b"Content-Length", b"9")], 9), ("body", b"hello"), *CUT_OFF],
        at_close=True,
    ),
    Case(
        "cut in a chunked body",
        head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n",
        [*_HELLO_CHUNKED[:-1], *CUT_OFF],
        at_close=True,
    ),
    Case("cut after an interim answer", head(status=100), CUT_OFF, at_close=True),
]

CASES = [*WHOLE, *BROKEN, *CUT]


def names(case: Case) -> str:
    return case.name
