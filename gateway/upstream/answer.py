"""A provider's answers: bytes in; status, headers, body and end out. No I/O, no loop.

llhttp does the parsing; what it lets pass and a proxy must not is refused here. Framing
follows RFC 9112 section 6.3, taken strictly.
"""

import re
from collections.abc import Callable

import httptools

from gateway.core.errors import UpstreamError
from gateway.core.headers import RULES, Headers

MAX_HEAD_BYTES = 65_536
"""Of all heads of one answer together, interim ones included: nginx takes 4-8 KiB, Node 16 KiB."""
MAX_IDLE_FRAMING_BYTES = 65_536
"""Of chunk extensions and trailers in a row without one byte of body."""

PROTOCOL_ERROR = "upstream_protocol_error"
BROKEN = "upstream_broken"

_VERSIONS = frozenset({"1.0", "1.1"})
_FIRST_INTERIM_STATUS = 100
_SWITCHING_PROTOCOLS = 101
_FIRST_FINAL_STATUS = 200
_NO_BODY = frozenset({204, 304})
_CONNECTION_HEADERS = frozenset({b"content-length", b"transfer-encoding", b"keep-alive"})
_TIMEOUT = re.compile(rb"(?i:timeout)=(\d{1,6})")


class _Stop(Exception):
    """Leaves the parser from within a callback; never seen outside this file."""


class AnswerReader:
    """Reads the answers of one connection, one after another: `begin`, then `feed` to the end.

    After each `feed` and `feed_eof`: `head_done` says that `status`, `headers` and `length` (of
    `Content-Length`; a HEAD answer's too, though no body comes) are there; `ended` says that no
    more will come. Then `error` is None if the answer is whole, and `keep_alive` tells whether the
    connection is fit for another request. What is given does not depend on how the bytes were cut.

    Refused: statuses below 200 but for interim answers, 101, versions other than 1.0 and 1.1, any
    `Transfer-Encoding` but one exact `chunked` under 1.1, oversized heads; by llhttp itself
    duplicate or malformed `Content-Length`, or one beside `Transfer-Encoding`, bare LF, folded
    lines, control characters.
    """

    __slots__ = (
        "_head_bytes",
        "_idle_framing_bytes",
        "_interim",
        "_parser",
        "_pieces",
        "_to_head",
        "_until_close",
        "ended",
        "error",
        "head_done",
        "headers",
        "keep_alive",
        "keep_alive_s",
        "length",
        "on_body",
        "status",
    )

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        # The parser calls the list itself: no Python frame for each piece of a body.
        self.on_body: Callable[[bytes], None] = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self.keep_alive_s: int | None = None
        self.begin(b"GET")

    def begin(self, method: bytes) -> None:
        """Expect the answer to a request with `method`."""
        self._head_bytes = 0
        self._idle_framing_bytes = 0
        self._interim = False
        self._to_head = method == b"HEAD"
        self._until_close = False
        self.head_done = False
        self.ended = False
        self.error: UpstreamError | None = None
        self.keep_alive = False
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None

    @property
    def untouched(self) -> bool:
        """Return whether not one byte of the expected answer has come."""
        return self._head_bytes == 0

    def close(self) -> None:
        """Let go of the parser: it and this object hold each other."""
        del self._parser

    def feed(self, data: bytes) -> bytes:
        """Read `data` and return the body bytes in it, transfer coding taken off."""
        if self.head_done:
            self._parse(data)
        else:
            self._feed_head(data)
        pieces = self._pieces
        if pieces:
            self._idle_framing_bytes = 0
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            return body
        if self.head_done and not self.ended:
            self._idle_framing_bytes += len(data)
            if self._idle_framing_bytes > MAX_IDLE_FRAMING_BYTES:
                self._fail_protocol("chunk extensions or trailers without end")
        return b""

    def feed_eof(self, *, clean: bool) -> None:
        """Take note that no more bytes come; `clean` if the provider itself closed in order.

        A clean close ends a body that is framed by nothing else. Any other answer was cut off.
        """
        if self.ended:
            return
        if clean and self._until_close:
            self.ended = True
            return
        where = "within its answer" if self._head_bytes else "without an answer"
        self._fail(BROKEN, f"the provider closed the connection {where}")

    # Feeding the parser

    def _feed_head(self, data: bytes) -> None:
        room = MAX_HEAD_BYTES - self._head_bytes
        self._head_bytes += len(data)
        if len(data) <= room:
            self._parse(data)
            return
        self._parse(data[:room])
        if self.head_done or self.ended:
            self._parse(data[room:])
        else:
            self._fail_protocol(f"the head is larger than {MAX_HEAD_BYTES} bytes")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.keep_alive = False
            if not self.ended:
                self._fail_protocol(str(error))

    def _refuse(self, why: str) -> None:
        """Fail from within a callback of the parser, which goes no further."""
        self._fail_protocol(why)
        raise _Stop

    def _fail_protocol(self, why: str) -> None:
        self._fail(PROTOCOL_ERROR, f"the provider's answer is not sound HTTP/1.1: {why}")

    def _fail(self, code: str, message: str) -> None:
        self.ended = True
        self.keep_alive = False
        self.error = UpstreamError(code, message, sent=True)

    # What the parser calls, in the order of an answer

    def on_message_begin(self) -> None:
        """Stop at bytes after the answer's end: they belong to no request of ours."""
        if self.ended:
            raise _Stop

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers come here too and are left out."""
        if not self.head_done:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Settle the framing; an answer to HEAD is over here, whatever its headers say."""
        self.status = self._parser.get_status_code()
        if self.status < _FIRST_FINAL_STATUS:
            self._begin_interim()
            return
        self._settle_framing()
        self.head_done = True
        if self._to_head:
            self.ended = True
            raise _Stop

    def on_message_complete(self) -> None:
        """End the answer, or an interim one: that is forgotten."""
        if self._interim:
            self._interim = False
            self.headers.clear()
            return
        self.keep_alive = self._parser.should_keep_alive()
        self.ended = True

    def _begin_interim(self) -> None:
        if self.status < _FIRST_INTERIM_STATUS or self.status == _SWITCHING_PROTOCOLS:
            self._refuse(f"status {self.status} was not asked for")
        self._interim = True

    def _settle_framing(self) -> None:
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            self._refuse(f"HTTP/{version}")
        stated = self._stated()
        if b"content-length" in stated:
            self.length = int(stated[b"content-length"])
        coding = stated.get(b"transfer-encoding")
        if coding is None:
            self._until_close = self.length is None and self.status not in _NO_BODY
        elif version != "1.1" or coding.strip().lower() != b"chunked":
            self._refuse("Transfer-Encoding is not exactly chunked under HTTP/1.1")
        timeout = _TIMEOUT.search(stated.get(b"keep-alive", b""))
        self.keep_alive_s = int(timeout[1]) if timeout else None

    def _stated(self) -> dict[bytes, bytes]:
        """Return what is said of the connection; repeated headers become one list."""
        stated: dict[bytes, bytes] = {}
        for name, value in self.headers:
            lower = RULES[name].lower
            if lower in _CONNECTION_HEADERS:
                stated[lower] = stated[lower] + b", " + value if lower in stated else value
        return stated
