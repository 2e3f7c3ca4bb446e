"""Anthropic Messages: `POST /v1/messages`, JSON and SSE.

Facts (`docs/wire.md`): input, cache reads and cache writes are reported side by side, none inside
another; thinking is part of the output. A stream reports at its start and again at its end, each
field that is named then replacing the earlier one. `iterations` list what the top level leaves out.
"""

import json
from typing import Any

import msgspec

from gateway.core.dialects.prompt_text import text_of_members
from gateway.core.dialects.prompted_body import read_prompted_body
from gateway.core.dialects.stream_end import end_of_messages
from gateway.core.dialects.wire_format import (
    ModelRequest,
    WireFormat,
    check_sizes,
    clamped_members,
    converted,
    has_no_usage,
    never_usage_only,
    readable_members,
)
from gateway.core.usage import NO_USAGE, Usage, tier_term

_BUDGETED_KEYS = (b"model", b"stream", b"max_tokens", b"thinking", b"speed", b"inference_geo")
# Tools that the client runs itself; any other kind runs at the provider and brings in more input.
_CLIENT_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_")


class _Thinking(msgspec.Struct):
    budget_tokens: int | None = None


class _Tool(msgspec.Struct):
    type: str | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    thinking: _Thinking | None = None
    tools: list[_Tool] | None = None
    mcp_servers: Any = None
    container: Any = None
    speed: Any = None
    inference_geo: Any = None


_decode_body = msgspec.json.Decoder(_Body).decode


def read_request(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return the request's facts (`WireFormat.read`). `max_tokens` may be 0: a cache is warmed."""
    read, media = read_prompted_body(_decode_body, body, _BUDGETED_KEYS, "messages")
    thinking = read.thinking.budget_tokens if read.thinking else None
    check_sizes(read.model, 1, max(read.max_tokens or 0, thinking or 0))
    limit = read.max_tokens
    terms = _terms(None, read.speed, read.inference_geo)
    return ModelRequest(
        model=read.model or "",
        stream=bool(read.stream),
        output_limit=limit if limit is not None and limit >= 0 else None,
        limit_keys=(b"max_tokens",),
        least_limit=thinking + 1 if thinking else 1,
        is_open=bool(read.mcp_servers or read.container) or _has_server_tools(read.tools or []),
        media=media,
        pieces=Usage(terms=terms) if terms else NO_USAGE,
    )


def _terms(tier: object, speed: object, geo: object) -> str:
    """Return what is said of service tier, speed and place as `Usage.terms`."""
    words = tier_term(tier), "fast" if speed == "fast" else "", "us" if geo == "us" else ""
    return " ".join([word for word in words if word])


def _has_server_tools(tools: list[_Tool]) -> bool:
    return any(tool.type and not tool.type.startswith(_CLIENT_TOOLS) for tool in tools)


def countable_text(body: bytes) -> tuple[str, int]:
    """Return a request's text to count (`WireFormat.countable_text`)."""
    return text_of_members(body, "messages", ("system",), ("tools",))


class _CacheWrites(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _ServerTools(msgspec.Struct):
    web_search_requests: int | None = None


class _Counts(msgspec.Struct):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheWrites | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None

    def over(self, earlier: Usage) -> Usage:
        """Return these counts in inclusive buckets; a field that is not named keeps its value."""
        plain = _first(self.input_tokens, _plain_input(earlier))
        read = _first(self.cache_read_input_tokens, earlier.cached_read)
        write = _first(self.cache_creation_input_tokens, earlier.cache_write)
        hour = self.cache_creation.ephemeral_1h_input_tokens if self.cache_creation else None
        details = self.output_tokens_details
        thinking = details.thinking_tokens if details else None
        searches = self.server_tool_use.web_search_requests if self.server_tool_use else None
        return Usage(
            input_total=plain + read + write if min(plain, read, write) >= 0 else -1,
            cached_read=read,
            cache_write=write,
            output_total=_first(self.output_tokens, earlier.output_total),
            reasoning=_first(thinking, earlier.reasoning),
            cache_write_1h=_first(hour, earlier.cache_write_1h),
            web_searches=_first(searches, earlier.web_searches),
            terms=_terms(self.service_tier, self.speed, self.inference_geo) or earlier.terms,
        )


class _Report(_Counts):
    iterations: list[_Counts] | None = None


def _first(reported: int | None, earlier: int) -> int:
    return earlier if reported is None else reported


def _plain_input(usage: Usage) -> int:
    return usage.input_total - usage.cached_read - usage.cache_write


_NOTHING = Usage()


def _sum(usages: list[Usage]) -> Usage:
    """Return what several model runs of one call used together."""
    return Usage(
        input_total=sum(each.input_total for each in usages),
        cached_read=sum(each.cached_read for each in usages),
        cache_write=sum(each.cache_write for each in usages),
        output_total=sum(each.output_total for each in usages),
        cache_write_1h=sum(each.cache_write_1h for each in usages),
    )


class _Piece(msgspec.Struct):
    """A content block, or the delta of one."""

    type: str | None = None
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    name: Any = None
    input: Any = None

    def words(self) -> str:
        """Return what was generated."""
        parts = (self.text, self.thinking, self.partial_json, self.name)
        words = "".join([part for part in parts if type(part) is str])
        return words + json.dumps(self.input) if self.input else words


class _Message(msgspec.Struct):
    model: str | None = None
    usage: _Report | None = None


class MessagesAnswer(msgspec.Struct):
    """`wire_format.Answer` of a message, or of one event of its stream."""

    model: str | None = None
    usage: _Report | None = None
    error: Any = None
    content: list[_Piece] | None = None
    message: _Message | None = None
    content_block: _Piece | None = None
    delta: _Piece | None = None

    def __post_init__(self) -> None:
        """Take model and usage from where the stream's first event has them."""
        if self.message is not None:
            self.model = self.message.model
            self.usage = self.message.usage

    def text(self) -> str:
        """Return all generated text: content, thinking, tool names and arguments."""
        if self.delta is not None:
            return self.delta.words()
        pieces = [self.content_block] if self.content_block else self.content or ()
        return "".join([piece.words() for piece in pieces])

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the usage in force: named fields replace earlier ones, iterations are summed."""
        if self.usage is None:
            return None
        top = self.usage.over(earlier or _NOTHING)
        if not self.usage.iterations:
            return top
        summed = _sum([each.over(_NOTHING) for each in self.usage.iterations])
        return msgspec.structs.replace(
            summed, reasoning=top.reasoning, web_searches=top.web_searches, terms=top.terms
        )


_decode_answer = msgspec.json.Decoder(MessagesAnswer).decode


def read_answer(data: bytes) -> MessagesAnswer | None:
    """Return a message or event; None if it is none. Never raises."""
    try:
        return _decode_answer(data)
    except (ValueError, RecursionError):
        return _read_odd_answer(data)


def _read_odd_answer(data: bytes) -> MessagesAnswer | None:
    """Return what can be read of an answer with an odd member, or with broken text."""
    found = readable_members(data)
    if found is None:
        return None
    return MessagesAnswer(
        model=converted(str, found.get("model")),
        usage=converted(_Report, found.get("usage")),
        error=found.get("error"),
        content=converted(list[_Piece], found.get("content")),
        message=converted(_Message, found.get("message")),
        content_block=converted(_Piece, found.get("content_block")),
        delta=converted(_Piece, found.get("delta")),
    )


ANTHROPIC_MESSAGES = WireFormat(
    read=read_request,
    clamped=clamped_members,
    countable_text=countable_text,
    read_answer=read_answer,
    may_be_only_text=has_no_usage,
    is_usage_only=never_usage_only,
    stream_end=end_of_messages,
    takes_comments=True,
)
