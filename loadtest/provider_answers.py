"""How an answer is played: heads, bodies, streams, and the faults that break them."""

import http
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadtest.provider_chat import LAST_CHUNK, SLOT, ChatStream, encode, frame
from loadtest.provider_dialects import DialectStream
from loadtest.provider_http import Halt, Pause, Steps
from loadtest.provider_journal import Received, Served
from loadtest.provider_script import Script

JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"
BYTES = b"application/octet-stream"

Stream = ChatStream | DialectStream

_BATCH_TOKENS = 32  # written between two looks at whether the client still reads
_BLOCK_BYTES = 16_384

# status -> type, code, message, as OpenAI words them
_ERRORS: dict[int, tuple[str, str | None, str]] = {
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: bad-key."),
    404: ("invalid_request_error", "unknown_url", "Invalid URL"),
    429: ("tokens", "rate_limit_exceeded", "Rate limit reached. Please try again in 1s."),
    500: ("server_error", None, "The server had an error while processing your request."),
    529: ("server_error", "overloaded", "The engine is currently overloaded."),
}
_RETRY_AFTER = b"retry-after: 1\r\n"


@dataclass(slots=True)
class Call:
    """One request on its way to an answer."""

    request: Received
    served: Served
    script: Script
    ident: bytes
    keep_alive: bool
    is_refused: bool = False  # it came with the key that never works

    def fill(self, template: bytes) -> bytes:
        """A made-up body with this call's id in it."""
        return template.replace(SLOT, self.ident)


def error_body(status: int, message: str = "") -> dict[str, Any]:
    """An error as OpenAI shapes it."""
    other = ("server_error" if status >= 500 else "invalid_request_error", None, "Request failed.")
    kind, code, usual = _ERRORS.get(status, other)
    said = {"message": message or usual, "type": kind, "param": None, "code": code}
    return {"error": said}


def head(call: Call, status: int, fields: bytes) -> bytes:
    """A response head: status line, the usual fields and those given (each with its CRLF)."""
    close = b"" if call.keep_alive else b"connection: close\r\n"
    return b"HTTP/1.1 %d %b\r\n%bx-request-id: req_%b\r\nopenai-version: 2020-10-01\r\n%b\r\n" % (
        status,
        _reason(status),
        fields,
        call.ident,
        close,
    )


def _reason(status: int) -> bytes:
    if status == 200:
        return b"OK"
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Overloaded" if status == 529 else b"Unknown"


def fault_instead(call: Call) -> Steps:
    """Play a fault that replaces the answer: it costs no tokens."""
    fault = call.script.broken
    if fault.kind == "status":
        call.served.status = fault.number or 500
        return error_answer(call, call.served.status)
    return _never(call, Halt.HANG if fault.kind == "hang" else Halt.RESET)


def _never(call: Call, halt: Halt) -> Steps:
    yield from _first_wait(call)
    while True:
        yield halt


def error_answer(call: Call, status: int, message: str = "") -> Steps:
    """Answer with an error. Only the time before it is played from the script."""
    call.served.status = status
    body = encode(error_body(status, message))
    extra = _RETRY_AFTER if status in (429, 529) else b""
    yield from _first_wait(call)
    yield head(call, status, extra + _sized(JSON, body)) + body


def json_answer(call: Call, body: bytes, has_usage: bool = False) -> Steps:
    """Answer 200 with JSON; `error_event` puts an error into it, as some providers do."""
    if call.script.broken.kind == "error_event":
        return sized_answer(call, JSON, encode(error_body(500)))
    return sized_answer(call, JSON, body, has_usage)


def sized_answer(call: Call, content_type: bytes, body: bytes, has_usage: bool = False) -> Steps:
    """Answer 200 with these bytes, or as many of them as the fault lets through."""
    call.served.status = 200
    kind, number = call.script.broken
    yield from _first_wait(call)
    if number is not None and kind in ("cut", "hang"):
        yield head(call, 200, _sized(content_type, body)) + body[:number]
        while True:
            yield Halt.HANG if kind == "hang" else Halt.CLOSE
    if kind == "truncate":
        yield head(call, 200, _chunked(content_type)) + frame(body)
    else:
        yield head(call, 200, _sized(content_type, body)) + body
    call.served.usage_sent = has_usage
    if kind == "truncate":
        yield Halt.CLOSE


def stream_answer(call: Call, stream: Stream, content_type: bytes = SSE) -> Steps:
    """Answer 200 with the stream, at the script's pace, to where its fault ends it."""
    call.served.status = 200
    yield from _first_wait(call)
    # A connection that is closed behind an error is announced, as servers do: nobody uses it again.
    ends = b"connection: close\r\n" if call.script.broken.kind == "error_event" else b""
    start = head(call, 200, _chunked(content_type) + ends)
    if stream.whole is not None and _is_plain(call.script):
        call.served.completion_tokens = stream.hidden_tokens + stream.tokens
        yield start + call.fill(stream.whole)
        call.served.usage_sent = stream.has_usage
        return
    call.served.completion_tokens = stream.hidden_tokens
    yield start + call.fill(stream.opening)
    yield from _tokens(call, stream)
    yield from _stream_end(call, stream)


def _is_plain(script: Script) -> bool:
    """Whether the stream may go out in one write, to its end."""
    fault = script.broken
    paced = script.chunk_delay_ms or script.is_sliced
    return not paced and fault.number is None and fault.kind != "truncate"


def _tokens(call: Call, stream: Stream) -> Steps:
    """Each token counts as generated with the write that carries it."""
    delay_ms, fault = call.script.chunk_delay_ms, call.script.broken
    last = stream.tokens if fault.number is None else min(fault.number, stream.tokens)
    step = 1 if delay_ms or call.script.is_sliced else _BATCH_TOKENS
    for first in range(0, last, step):
        if first:
            yield Pause(delay_ms)
        stop = min(first + step, last)
        call.served.completion_tokens = stream.hidden_tokens + stop
        yield call.fill(stream.token_frames(first, stop))


def _stream_end(call: Call, stream: Stream) -> Steps:
    kind = call.script.broken.kind
    if kind == "hang":
        while True:
            yield Halt.HANG
    if kind == "cut":
        yield Halt.CLOSE
    if kind == "error_event":
        yield stream.error_frame(error_body(500)) + LAST_CHUNK
        yield Halt.CLOSE
    yield call.fill(stream.closing) + (b"" if kind == "truncate" else LAST_CHUNK)
    call.served.usage_sent = stream.has_usage
    if kind == "truncate":
        yield Halt.CLOSE


def bytes_answer(call: Call, size_bytes: int, chunked: bool) -> Steps:
    """Answer 200 with so many bytes, no faster than they are read: chunked, or until close."""
    call.served.status = 200
    yield from _first_wait(call)
    field = b"content-type: %b\r\n" % BYTES
    yield head(call, 200, _chunked(BYTES) if chunked else field)
    for start in range(0, size_bytes, _BLOCK_BYTES):
        block = b"." * min(_BLOCK_BYTES, size_bytes - start)
        yield frame(block) if chunked else block
        yield Pause(0)
    if chunked:
        yield LAST_CHUNK


def empty_answer(call: Call) -> Steps:
    """Answer 204, which has no body."""
    call.served.status = 204
    yield from _first_wait(call)
    yield head(call, 204, b"")


def head_only(steps: Steps) -> Steps:
    """The answer to HEAD: everything up to the end of the head."""
    for step in steps:
        if isinstance(step, bytes):
            yield step[: step.index(b"\r\n\r\n") + 4]
            return
        yield step


def sliced(steps: Steps, script: Script) -> Steps:
    """The same bytes in writes of the prescribed sizes.

    Two loop turns lie between them, so that a reader on the same loop gets each by itself.
    """
    sizes: Iterator[int] = itertools.chain(
        script.pieces, itertools.repeat(script.slice_bytes or 1 << 62)
    )
    size, held = next(sizes), b""
    for step in steps:
        if isinstance(step, bytes):
            held, start = held + step, 0
            while len(held) - start >= size:
                yield held[start : start + size]
                yield Pause(0)
                yield Pause(0)
                start, size = start + size, next(sizes)
            held = held[start:]
        elif step != Pause(0):
            if held:
                yield held
                held = b""
            yield step
    if held:
        yield held


def _first_wait(call: Call) -> Steps:
    if call.script.ttfb_ms:
        yield Pause(call.script.ttfb_ms)


def _sized(content_type: bytes, body: bytes) -> bytes:
    return b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body))


def _chunked(content_type: bytes) -> bytes:
    return b"content-type: %b\r\ntransfer-encoding: chunked\r\n" % content_type
