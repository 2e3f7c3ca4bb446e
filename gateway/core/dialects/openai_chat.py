"""OpenAI Chat Completions: `POST .../chat/completions`, JSON and SSE.

Facts (`docs/wire.md`): usage comes in the JSON answer; in a stream only if
`stream_options.include_usage` asks for it, as one extra event with empty `choices`. Details counts
are subsets of the totals. Azure sends other events with empty `choices`; they are not ours.
"""

import math
from decimal import Decimal
from typing import Any

import msgspec

from gateway.core.dialects.prompt_text import (
    MESSAGE_TOKENS,
    PRIMING_TOKENS,
    read_object,
    text_of,
)
from gateway.core.dialects.prompted_body import read_prompted_body
from gateway.core.dialects.stream_end import end_of_chat
from gateway.core.dialects.wire_format import (
    ModelRequest,
    WireFormat,
    check_sizes,
    clamped_members,
    converted,
    readable_members,
    unless_it_falls,
)
from gateway.core.usage import NO_USAGE, Modalities, Usage, modalities, tier_term

_BUDGETED_KEYS = (
    b"model",
    b"stream",
    b"stream_options",
    b"max_tokens",
    b"max_completion_tokens",
    b"n",
    b"service_tier",
)
_USAGE_WISH = b"stream_options", b'{"include_usage":true}'
_LIMIT_KEYS = (b"max_completion_tokens", b"max_tokens")
_NANO_USD_PER_USD = 10**9
_MOST_USD = 10**6
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
    service_tier: Any = None


_decode_body = msgspec.json.Decoder(_Body).decode


def read_request(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return the request's facts. Raises BadCall (`invalid_body`) where it cannot be read."""
    read, media = read_prompted_body(_decode_body, body, _BUDGETED_KEYS, "messages")
    limit = max(read.max_tokens or 0, read.max_completion_tokens or 0)
    check_sizes(read.model, read.n, limit)
    keys, limit_of_one = _output_limit(read)
    return ModelRequest(
        model=read.model or "",
        stream=bool(read.stream),
        output_limit=limit_of_one,
        choices=max(1, read.n or 1),
        limit_keys=keys,
        usage_wish=usage_wish(read.stream_options) if read.stream else None,
        media=media,
        pieces=on_tier(read.service_tier),
    )


def on_tier(said: object) -> Usage:
    """Return the terms that a request's `service_tier` asks for."""
    term = tier_term(said)
    return Usage(terms=term) if term else NO_USAGE


def usage_wish(options: dict[str, Any] | None) -> tuple[bytes, bytes] | None:
    """Return `stream_options` with the wish for usage added, None if it is there already."""
    if not options:
        return _USAGE_WISH
    if options.get("include_usage"):
        return None
    return b"stream_options", msgspec.json.encode({**options, "include_usage": True})


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
    text: Any = None  # of a legacy completion


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


_NO_DETAILS = _Details()


def nano_usd(cost: object) -> int | None:
    """Return dollars as nano-dollars, rounded up (OpenRouter's `cost`); None if they are none."""
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not abs(cost) < _MOST_USD:
        return None
    return math.ceil(Decimal(str(cost)) * _NANO_USD_PER_USD)


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    cost: Any = None
    is_byok: Any = None

    def inclusive(self, tier: object = None) -> Usage | None:
        """Return the counts in inclusive buckets; None if half of them is missing.

        xAI counts reasoning beside the completion, Gemini at times only in the total: what the
        total has beyond the prompt is output. OpenRouter's `cost` leaves out what a key of the
        customer's own is billed elsewhere (`is_byok`).
        """
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        into = self.prompt_tokens_details or _NO_DETAILS
        out = self.completion_tokens_details or _NO_DETAILS
        beyond_prompt = (self.total_tokens or 0) - self.prompt_tokens
        return Usage(
            input_total=self.prompt_tokens,
            cached_read=into.cached_tokens or self.prompt_cache_hit_tokens or 0,
            cache_write=into.cache_write_tokens or 0,
            output_total=max(self.completion_tokens, beyond_prompt)
            if self.completion_tokens >= 0
            else self.completion_tokens,
            reasoning=out.reasoning_tokens or 0,
            provider_nano_usd=None if self.is_byok else nano_usd(self.cost),
            terms=tier_term(tier) if tier else "",
            modalities=_modalities(into, out),
        )


def _modalities(into: _Details, out: _Details) -> Modalities | None:
    """Return the tokens that are no text, None where there are none."""
    if not (into.audio_tokens or out.audio_tokens or into.image_tokens or out.image_tokens):
        return None
    return modalities(
        audio_input=into.audio_tokens,
        audio_output=out.audio_tokens,
        image_input=into.image_tokens,
        image_output=out.image_tokens,
    )


class ChatAnswer(msgspec.Struct):
    """`wire_format.Answer` of chat completions."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None
    service_tier: Any = None

    def text(self) -> str:
        """Return all generated text: content, reasoning, refusal, tool names and arguments."""
        return "".join(
            [
                said.words() if (said := choice.delta or choice.message) else _words(choice.text)
                for choice in self.choices or ()
            ]
        )

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the usage that this reports: each speaks of the whole answer so far."""
        if self.usage is None:
            return None
        return unless_it_falls(self.usage.inclusive(self.service_tier), earlier)


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


_decode_answer = msgspec.json.Decoder(ChatAnswer).decode


def read_answer(data: bytes) -> ChatAnswer | None:
    """Return an answer or event; None if it is none. Never raises."""
    try:
        return _decode_answer(data)
    except (ValueError, RecursionError):
        return _read_odd_answer(data)


def _read_odd_answer(data: bytes) -> ChatAnswer | None:
    """Return what can be read of an answer with an odd member, or with broken text.

    Neither a choice of another shape nor half a surrogate pair in a text hides the usage.
    """
    found = readable_members(data)
    if found is None:
        return None
    return ChatAnswer(
        choices=converted(list[_Choice], found.get("choices")),
        usage=converted(_Usage, found.get("usage")),
        model=converted(str, found.get("model")),
        error=found.get("error"),
        service_tier=found.get("service_tier"),
    )


def may_be_only_text(data: bytes) -> bool:
    """Return whether an event holds neither usage nor an error; False if that is not sure.

    Plain searches, for this is asked of every event: a name could hide in escapes only.
    """
    if b'"error"' in data or b"\\u00" in data:
        return False
    named = data.count(b'"usage"')
    return not named or named == data.count(b'"usage":null') + data.count(b'"usage": null')


def is_usage_only(data: bytes) -> bool:
    """Return whether an event is exactly the one that `include_usage` adds. Never raises.

    Members that are null carry nothing.
    """
    if may_be_only_text(data):
        return False
    event = read_object(data)
    return (
        event is not None
        and event.get("choices") == []
        and isinstance(event.get("usage"), dict)
        and all(key in _ENVELOPE or value is None for key, value in event.items())
    )


_PROMPT_KEYS = ("tools", "functions", "response_format", "documents")
# Billed by other rules than the length of what they hold.
_NO_TEXT = frozenset({"image_url", "input_audio", "audio_url", "video_url", "file", "type"})


def countable_text(body: bytes) -> tuple[str, int]:
    """Return a request's text to count, and the tokens that messages cost beside their text.

    3 tokens a message, 1 for a name, 3 to prime the answer (`docs/wire.md`); tools as their JSON,
    which counts about twice what is billed for them, so the sum stays an upper bound of the text.
    A body that cannot be read counts as it stands. Never raises.
    """
    request = read_object(body)
    if request is None:
        return body.decode("utf-8", "replace"), PRIMING_TOKENS
    texts: list[str] = []
    overhead = PRIMING_TOKENS
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else [messages]:
        if isinstance(message, dict):
            overhead += MESSAGE_TOKENS + bool(message.get("name"))
            texts += [
                _content_text(value) if key == "content" else text_of(value)
                for key, value in message.items()
            ]
        else:
            texts.append(text_of(message))
    texts += [text_of(request.get(key)) for key in _PROMPT_KEYS]
    return "\n".join(text for text in texts if text), overhead


def _content_text(content: object) -> str:
    """Return the text of a message's content; images, audio and files are left out."""
    if not isinstance(content, list):
        return text_of(content)
    return "\n".join(
        text_of(value)
        for part in content
        for key, value in (part.items() if isinstance(part, dict) else [("text", part)])
        if key not in _NO_TEXT
    )


OPENAI_CHAT = WireFormat(
    read=read_request,
    clamped=clamped_members,
    countable_text=countable_text,
    read_answer=read_answer,
    may_be_only_text=may_be_only_text,
    is_usage_only=is_usage_only,
    stream_end=end_of_chat,
    takes_comments=True,
)
