"""Ollama's own API: `POST /api/chat`, `/api/generate`, `/api/embed`; JSON, or lines of JSON.

Facts (`docs/wire.md`): a stream is the default; the line with `done: true` reports
`prompt_eval_count`, which may be absent where the prompt was cached, and `eval_count`.
"""

from typing import Any

import msgspec

from gateway.core.dialects.prompt_text import text_of_members
from gateway.core.dialects.stream_end import end_of_ollama
from gateway.core.dialects.wire_format import (
    ModelRequest,
    WireFormat,
    check_sizes,
    converted,
    has_no_usage,
    never_usage_only,
    read_body,
    readable_members,
)
from gateway.core.json_edit import with_members
from gateway.core.usage import Usage

_BUDGETED_KEYS = (b"model", b"stream", b"options")


class _Options(msgspec.Struct):
    num_predict: int | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    options: _Options | None = None
    context: Any = None


class _Raw(msgspec.Struct):
    options: msgspec.Raw = msgspec.Raw(b"null")


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_raw = msgspec.json.Decoder(_Raw).decode


def read_request(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return the request's facts (`WireFormat.read`). Below 0 is how it spells no limit."""
    read = read_body(_decode_body, body, _BUDGETED_KEYS)
    limit = read.options.num_predict if read.options else None
    check_sizes(read.model, 1, limit or 0)
    return ModelRequest(
        model=read.model or "",
        stream=read.stream is not False,
        output_limit=limit if limit is not None and limit >= 0 else None,
        is_open=bool(read.context),
    )


def read_embed_request(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return the facts of a request for embeddings: nothing is generated (`WireFormat.read`)."""
    return msgspec.structs.replace(read_request(body), stream=False, output_limit=0)


def clamped(body: bytes, request: ModelRequest, tokens: int) -> dict[bytes, bytes]:
    """Return the edit that limits the output (`WireFormat.clamped`)."""
    raw = bytes(_decode_raw(body).options)
    options = b"{}" if raw == b"null" else raw
    return {b"options": with_members(options, {b"num_predict": b"%d" % max(1, tokens)})}


def countable_text(body: bytes) -> tuple[str, int]:
    """Return a request's text to count (`WireFormat.countable_text`)."""
    return text_of_members(body, "messages", ("prompt", "system", "input"), ("tools",))


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _Called(msgspec.Struct):
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: Any = None
    thinking: Any = None
    tool_calls: list[_Called] | None = None

    def words(self) -> str:
        """Return what was generated."""
        functions = [each.function for each in self.tool_calls or () if each.function]
        called = [f"{each.name or ''}{each.arguments or ''}" for each in functions]
        return "".join([part for part in (self.thinking, self.content, *called) if _is_text(part)])


def _is_text(part: object) -> bool:
    return isinstance(part, str)


class OllamaAnswer(msgspec.Struct):
    """`wire_format.Answer` of an answer, or of one line of it."""

    model: str | None = None
    message: _Message | None = None
    response: Any = None
    thinking: Any = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    embeddings: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None

    def text(self) -> str:
        """Return all generated text."""
        if self.message is not None:
            return self.message.words()
        return "".join([part for part in (self.thinking, self.response) if _is_text(part)])

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the usage; a prompt that is not counted is left to be counted here."""
        if self.prompt_eval_count is None:
            return None
        if self.eval_count is None and bytes(self.embeddings) == b"null":
            return None
        return Usage(input_total=self.prompt_eval_count, output_total=self.eval_count or 0)


class OllamaLines:
    """`wire_format.Answer` of a stream that was read as a whole."""

    def __init__(self, lines: list[OllamaAnswer]) -> None:
        self._lines = lines

    @property
    def model(self) -> str | None:
        """Return the model that answers."""
        return next((line.model for line in self._lines if line.model), None)

    @property
    def error(self) -> Any:
        """Return the first error."""
        return next((line.error for line in self._lines if line.error is not None), None)

    def text(self) -> str:
        """Return all generated text."""
        return "".join([line.text() for line in self._lines])

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return what the last line reports."""
        return self._lines[-1].usage_after(earlier)


_decode_answer = msgspec.json.Decoder(OllamaAnswer).decode


def read_answer(data: bytes) -> OllamaAnswer | OllamaLines | None:
    """Return an answer, or all lines of a stream; None if it is none. Never raises."""
    lines = [found for line in data.split(b"\n") if (found := _read_line(line)) is not None]
    if len(lines) <= 1:
        return lines[0] if lines else None
    return OllamaLines(lines)


def _read_line(line: bytes) -> OllamaAnswer | None:
    try:
        return _decode_answer(line)
    except (ValueError, RecursionError):
        found = readable_members(line)
    if found is None:
        return None
    return OllamaAnswer(
        model=converted(str, found.get("model")),
        message=converted(_Message, found.get("message")),
        response=found.get("response"),
        prompt_eval_count=converted(int, found.get("prompt_eval_count")),
        eval_count=converted(int, found.get("eval_count")),
        error=found.get("error"),
    )


OLLAMA = WireFormat(
    read=read_request,
    clamped=clamped,
    countable_text=countable_text,
    read_answer=read_answer,
    may_be_only_text=has_no_usage,
    is_usage_only=never_usage_only,
    stream_end=end_of_ollama,
    streams_lines=True,
)
OLLAMA_EMBED = msgspec.structs.replace(OLLAMA, read=read_embed_request)
