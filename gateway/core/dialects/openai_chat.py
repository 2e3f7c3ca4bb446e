"""OpenAI Chat Completions: `POST .../chat/completions`, JSON and SSE.

Facts (`docs/wire.md`): usage comes in the JSON answer; in a stream only if
`stream_options.include_usage` asks for it, as one extra event with empty `choices`. Details counts
are subsets of the totals. Azure sends other events with empty `choices`; they are not ours.
"""

import json
from typing import Any, TypeVar

import msgspec

from gateway.core.errors import BadCall
from gateway.core.json_edit import reject_duplicates, with_members
from gateway.core.usage import Usage

_BUDGETED_KEYS = (
    b"model",
    b"stream",
    b"stream_options",
    b"max_tokens",
    b"max_completion_tokens",
    b"n",
)
_LIMIT_KEYS = (b"max_completion_tokens", b"max_tokens")
_LONGEST_MODEL_NAME = 256
_MOST_TOKENS = 10**9  # beyond any model: a larger count is nonsense, and sums stay exact
_MOST_CHOICES = 10_000
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
    model: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream_options: dict[str, Any] | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """What a budget needs to know of a request.

    `output_limit` is for each choice, None if the request sets none; `limit_keys` are its members
    that set one, or the one to set.
    """

    model: str
    stream: bool
    asks_usage: bool
    output_limit: int | None
    choices: int
    limit_keys: tuple[bytes, ...]
    stream_options: dict[str, Any] | None


_decode_body = msgspec.json.Decoder(_Body).decode


def read_request(body: bytes) -> ChatRequest:
    """Return the request's facts. Raises BadCall (`invalid_body`) where it cannot be read."""
    try:
        read = _decode_body(body)
    except (ValueError, RecursionError) as error:
        raise BadCall("invalid_body", f"The request body cannot be read: {error}") from None
    reject_duplicates(body, _BUDGETED_KEYS)
    _check_sizes(read)
    keys, limit = _output_limit(read)
    options = read.stream_options
    return ChatRequest(
        model=read.model or "",
        stream=bool(read.stream),
        asks_usage=bool(options and options.get("include_usage")),
        output_limit=limit,
        choices=max(1, read.n or 1),
        limit_keys=keys,
        stream_options=options,
    )


def _check_sizes(read: _Body) -> None:
    """Raise BadCall for what no provider takes and no label, key or counter should have to."""
    if (
        len(read.model or "") <= _LONGEST_MODEL_NAME
        and (read.n or 0) <= _MOST_CHOICES
        and (read.max_tokens or 0) <= _MOST_TOKENS
        and (read.max_completion_tokens or 0) <= _MOST_TOKENS
    ):
        return
    raise BadCall(
        "invalid_body",
        f"The request cannot be budgeted: model is bounded by {_LONGEST_MODEL_NAME:,} characters, "
        f"n by {_MOST_CHOICES:,}, max_tokens and max_completion_tokens by {_MOST_TOKENS:,}.",
    )


def _output_limit(read: _Body) -> tuple[tuple[bytes, ...], int | None]:
    """Return the members that limit the output, and the limit: providers differ in which counts.

    Local servers take -1 for no limit.
    """
    older, newer = read.max_tokens, read.max_completion_tokens
    if older is None:
        return (b"max_completion_tokens",), _or_unlimited(newer)
    if newer is None:
        return (b"max_tokens",), _or_unlimited(older)
    return _LIMIT_KEYS, max(older, newer) if min(older, newer) >= 0 else None


def _or_unlimited(limit: int | None) -> int | None:
    return None if limit is None or limit < 0 else limit


def edited_body(body: bytes, request: ChatRequest, *, ask_usage: bool, clamp: int | None) -> bytes:
    """Return the body to send: usage asked for in a stream, the output clamped, no other change."""
    edits: dict[bytes, bytes] = {}
    if ask_usage and request.stream and not request.asks_usage:
        edits[b"stream_options"] = msgspec.json.encode(
            {**(request.stream_options or {}), "include_usage": True}
        )
    if clamp is not None:
        one = b"%d" % max(1, clamp // request.choices)  # some servers take 0 for no limit
        edits |= dict.fromkeys(request.limit_keys, one)
    return with_members(body, edits)


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Text(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    function_call: _Function | None = None
    tool_calls: list[_ToolCall] | None = None

    def words(self) -> str:
        """Return what was generated; most events of a stream hold one piece of content."""
        # Servers that send both members of reasoning send the same in both.
        reasoning, content = self.reasoning_content or self.reasoning, self.content
        called = _called(self) if self.tool_calls or self.function_call else []
        if type(content) is str and not (reasoning or self.refusal or called):
            return content
        parts = [content, reasoning, self.refusal, *called]
        return "".join([_words(part) for part in parts if part])


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
    total_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class Answer(msgspec.Struct):
    """A JSON answer or one event of a stream, as far as a meter reads it."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None

    def text(self) -> str:
        """Return all generated text: content, reasoning, refusal, tool names and arguments."""
        texts = [choice.delta or choice.message for choice in self.choices or ()]
        return "".join([text.words() for text in texts if text])


def _called(text: _Text) -> list[object]:
    functions = [call.function for call in text.tool_calls or ()]
    return [
        part
        for function in (text.function_call, *functions)
        if function is not None
        for part in (function.name, function.arguments)
    ]


def _words(value: object) -> str:
    """Return a text, also one that comes in parts (Mistral's reasoning models)."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_words, value))
    if isinstance(value, dict):
        return "".join(_words(value.get(key)) for key in ("text", "thinking", "content"))
    return ""


_decode_answer = msgspec.json.Decoder(Answer).decode
_Member = TypeVar("_Member")


def read_answer(data: bytes) -> Answer | None:
    """Return an answer or event; None if it is none. Never raises."""
    try:
        return _decode_answer(data)
    except (ValueError, RecursionError):
        return _read_odd_answer(data)


def _read_odd_answer(data: bytes) -> Answer | None:
    """Return what can be read of an answer with an odd member, or with broken text.

    Neither a choice of another shape nor half a surrogate pair in a text hides the usage.
    """
    try:
        found = json.loads(data.decode("utf-8-sig", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return Answer(
        choices=_as(list[_Choice], found.get("choices")),
        usage=_as(_Usage, found.get("usage")),
        model=_as(str, found.get("model")),
        error=found.get("error"),
    )


def _as(kind: type[_Member], value: object) -> _Member | None:
    try:
        return msgspec.convert(value, kind, strict=False)
    except (ValueError, RecursionError):
        return None


def may_be_only_text(data: bytes) -> bool:
    """Return whether an event holds neither usage nor an error; False if that is not sure.

    Plain searches, for this is asked of every event: a name could hide in escapes only.
    """
    if b'"error"' in data or b"\\u00" in data:
        return False
    named = data.count(b'"usage"')
    return not named or named == data.count(b'"usage":null') + data.count(b'"usage": null')


def usage_of(answer: Answer) -> Usage | None:
    """Return the usage that an answer reports; None if it reports none, half of one or nonsense.

    xAI counts reasoning beside the completion, Gemini at times only in the total: what the total
    has beyond the prompt is output.
    """
    reported = answer.usage
    if reported is None or reported.prompt_tokens is None or reported.completion_tokens is None:
        return None
    into = reported.prompt_tokens_details or _Details()
    out = reported.completion_tokens_details or _Details()
    beyond_prompt = (reported.total_tokens or 0) - reported.prompt_tokens
    usage = Usage(
        input_total=reported.prompt_tokens,
        cached_read=into.cached_tokens or reported.prompt_cache_hit_tokens or 0,
        cache_write=into.cache_write_tokens or 0,
        output_total=max(reported.completion_tokens, beyond_prompt),
        reasoning=out.reasoning_tokens or 0,
    )
    return usage if reported.completion_tokens >= 0 and _is_plausible(usage) else None


def _is_plausible(usage: Usage) -> bool:
    counts = (
        usage.input_total,
        usage.cached_read,
        usage.cache_write,
        usage.output_total,
        usage.reasoning,
    )
    subsets_fit = (
        usage.cached_read + usage.cache_write <= usage.input_total
        and usage.reasoning <= usage.output_total
    )
    return min(counts) >= 0 and max(counts) <= _MOST_TOKENS and subsets_fit


def is_usage_event_only(data: bytes) -> bool:
    """Return whether an event is exactly the one that `include_usage` adds. Never raises.

    Members that are null carry nothing.
    """
    try:
        event = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(event, dict)
        and event.get("choices") == []
        and isinstance(event.get("usage"), dict)
        and all(key in _ENVELOPE or value is None for key, value in event.items())
    )


_PRIMING_TOKENS = 3
_MESSAGE_TOKENS = 3
_PROMPT_KEYS = ("tools", "functions", "response_format", "documents")
# Billed by other rules than the length of what they hold.
_NO_TEXT = frozenset({"image_url", "input_audio", "audio_url", "video_url", "file", "type"})


def countable_text(body: bytes) -> tuple[str, int]:
    """Return a request's text to count, and the tokens that messages cost beside their text.

    3 tokens a message, 1 for a name, 3 to prime the answer (`docs/wire.md`); tools as their JSON,
    which counts about twice what is billed for them, so the sum stays an upper bound of the text.
    A body that cannot be read counts as it stands. Never raises.
    """
    try:
        request = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        return body.decode("utf-8", "replace"), _PRIMING_TOKENS
    texts: list[str] = []
    overhead = _PRIMING_TOKENS
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else [messages]:
        if isinstance(message, dict):
            overhead += _MESSAGE_TOKENS + bool(message.get("name"))
            texts += [
                _content_text(value) if key == "content" else _text_of(value)
                for key, value in message.items()
            ]
        else:
            texts.append(_text_of(message))
    texts += [_text_of(request.get(key)) for key in _PROMPT_KEYS]
    return "\n".join(text for text in texts if text), overhead


def _content_text(content: object) -> str:
    """Return the text of a message's content; images, audio and files are left out."""
    if not isinstance(content, list):
        return _text_of(content)
    return "\n".join(
        _text_of(value)
        for part in content
        for key, value in (part.items() if isinstance(part, dict) else [("text", part)])
        if key not in _NO_TEXT
    )


def _text_of(value: object) -> str:
    """Return a string as it is, nothing for nothing, and anything else as its JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value else ""
