"""OpenAI Chat Completions: `POST .../chat/completions`, JSON and SSE.

Facts (`docs/wire.md`): usage comes in the JSON answer; in a stream only if
`stream_options.include_usage` asks for it, as one extra event with empty `choices`. Details counts
are subsets of the totals. Azure sends other events with empty `choices`; they are not ours.
"""

from typing import Any

import msgspec

from gateway.core.errors import BadCall
from gateway.core.json_edit import reject_duplicates, with_members
from gateway.core.usage import Usage

USAGE_MARK = b'"usage"'
_BUDGETED_KEYS = (
    b"model",
    b"stream",
    b"stream_options",
    b"max_tokens",
    b"max_completion_tokens",
    b"n",
)
# What a usage event may carry beside its usage and still be only that.
_ENVELOPE = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "choices",
        "usage",
        "system_fingerprint",
        "service_tier",
        "obfuscation",
    }
)


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream_options: dict[str, Any] | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """What a budget needs to know of a request."""

    model: str
    stream: bool
    asks_usage: bool
    output_limit: int | None
    choices: int
    limit_key: bytes
    stream_options: dict[str, Any] | None


_decode_body = msgspec.json.Decoder(_Body).decode


def read_request(body: bytes) -> ChatRequest:
    """Return the request's facts. Raises BadCall (`invalid_body`) where it cannot be read."""
    try:
        read = _decode_body(body)
    except msgspec.DecodeError as error:
        raise BadCall("invalid_body", f"The request body cannot be read: {error}") from None
    reject_duplicates(body, _BUDGETED_KEYS)
    limit, key = read.max_completion_tokens, b"max_completion_tokens"
    if limit is None and read.max_tokens is not None:
        limit, key = read.max_tokens, b"max_tokens"
    options = read.stream_options
    return ChatRequest(
        model=read.model,
        stream=bool(read.stream),
        asks_usage=bool(options and options.get("include_usage")),
        output_limit=limit,
        choices=max(1, read.n or 1),
        limit_key=key,
        stream_options=options,
    )


def edited_body(body: bytes, request: ChatRequest, *, ask_usage: bool, clamp: int | None) -> bytes:
    """Return the body to send: usage asked for in a stream, the output clamped, no other change."""
    edits = {}
    if ask_usage and request.stream and not request.asks_usage:
        edits[b"stream_options"] = msgspec.json.encode(
            {**(request.stream_options or {}), "include_usage": True}
        )
    if clamp is not None:
        edits[request.limit_key] = b"%d" % (clamp // request.choices)
    return with_members(body, edits)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Text(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Text | None = None
    message: _Text | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class Answer(msgspec.Struct):
    """A JSON answer or one event of a stream, as far as a meter reads it."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: msgspec.Raw | None = None

    def text(self) -> str:
        """Return all generated text: content, reasoning, refusal, tool names and arguments."""
        parts: list[str] = []
        for choice in self.choices or ():
            text = choice.delta or choice.message
            if text is None:
                continue
            parts += [part for part in (text.content, text.reasoning_content, text.refusal) if part]
            for call in text.tool_calls or ():
                if call.function:
                    parts += [call.function.name or "", call.function.arguments or ""]
        return "".join(parts)


class _UsageOnly(msgspec.Struct):
    usage: _Usage | None = None
    model: str | None = None


_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_usage_only = msgspec.json.Decoder(_UsageOnly).decode


def read_answer(data: bytes) -> Answer | None:
    """Return an answer or event; None if it is none. Odd choices do not hide a usage."""
    try:
        return _decode_answer(data)
    except msgspec.ValidationError:
        return _read_usage_only(data)
    except (msgspec.DecodeError, RecursionError):
        return None


def _read_usage_only(data: bytes) -> Answer | None:
    try:
        read = _decode_usage_only(data)
    except msgspec.DecodeError:
        return None
    return Answer(usage=read.usage, model=read.model)


def usage_of(answer: Answer) -> Usage | None:
    """Return the usage that an answer reports; None if it reports none or nonsense."""
    reported = answer.usage
    if reported is None or reported.prompt_tokens is None:
        return None
    into = reported.prompt_tokens_details or _Details()
    out = reported.completion_tokens_details or _Details()
    usage = Usage(
        input_total=reported.prompt_tokens,
        cached_read=into.cached_tokens or 0,
        cache_write=into.cache_write_tokens or 0,
        output_total=reported.completion_tokens or 0,
        reasoning=out.reasoning_tokens or 0,
    )
    counts = (usage.input_total, usage.cached_read, usage.cache_write, usage.output_total)
    subsets_fit = usage.cached_read + usage.cache_write <= usage.input_total
    return usage if min(counts) >= 0 and subsets_fit else None


def is_usage_event_only(data: bytes) -> bool:
    """Return whether an event is exactly the one that `include_usage` adds."""
    try:
        event = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return False
    return (
        isinstance(event, dict)
        and event.get("choices") == []
        and isinstance(event.get("usage"), dict)
        and event.keys() <= _ENVELOPE
    )


def countable_text(body: bytes) -> tuple[str, int]:
    """Return a request's text to count, and the tokens that messages cost beside their text.

    3 tokens a message, 1 for a name, 3 to prime the answer (`docs/wire.md`); tools as their JSON,
    which counts about twice what is billed for them, so the sum stays an upper bound.
    """
    request = msgspec.json.decode(body)
    texts: list[str] = []
    overhead = 3
    for message in request.get("messages") or ():
        overhead += 3 + bool(message.get("name"))
        texts += [str(message.get("role", "")), str(message.get("name") or "")]
        texts.append(_content_text(message.get("content")))
        texts += [
            msgspec.json.encode(message[key]).decode()
            for key in ("tool_calls", "function_call")
            if message.get(key)
        ]
    for key in ("tools", "functions", "response_format"):
        if request.get(key):
            texts.append(msgspec.json.encode(request[key]).decode())
    return "\n".join(texts), overhead


def _content_text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            str(part["text"]) for part in content if isinstance(part, dict) and part.get("text")
        )
    return ""
