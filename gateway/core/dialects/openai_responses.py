"""OpenAI Responses: `POST .../responses` and `.../responses/compact`, JSON and SSE.

Facts (`docs/wire.md`): usage comes unasked, with the event that ends a stream
(`response.completed`, `.incomplete`, `.failed`). What tools used is reported beside it. With
`background` the answer is fetched later: what it used may never be seen here.
"""

import re
from typing import Any

import msgspec

from gateway.core.dialects.openai_chat import on_tier
from gateway.core.dialects.prompt_text import text_of_members
from gateway.core.dialects.prompted_body import read_prompted_body
from gateway.core.dialects.stream_end import end_of_response
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
from gateway.core.usage import Usage, tier_term

_BUDGETED_KEYS = (b"model", b"stream", b"max_output_tokens", b"background", b"service_tier")
# Tools that the client runs itself; any other kind runs at the provider and brings in more input.
_CLIENT_TOOLS = frozenset(
    {"function", "custom", "local_shell", "apply_patch", "computer_use_preview", "computer"}
)
_LEAST_LIMIT = 16
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class _Tool(msgspec.Struct):
    type: str | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    background: bool | None = None
    tools: list[_Tool] | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    service_tier: Any = None


_decode_body = msgspec.json.Decoder(_Body).decode


def read_request(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return the request's facts (`WireFormat.read`)."""
    read, media = read_prompted_body(_decode_body, body, _BUDGETED_KEYS, "input")
    check_sizes(read.model, 1, read.max_output_tokens or 0)
    limit, is_compaction = read.max_output_tokens, _is_compaction(target)
    return ModelRequest(
        model=read.model or "",
        stream=bool(read.stream),
        output_limit=limit if limit is not None and limit >= 0 else None,
        limit_keys=() if is_compaction else (b"max_output_tokens",),
        least_limit=_LEAST_LIMIT,
        is_open=_is_open(read) or media.is_unbounded,
        is_background=bool(read.background),
        media=media,
        pieces=on_tier(read.service_tier),
        takes_limit=not is_compaction,
    )


def _is_compaction(target: bytes) -> bool:
    return b"/compact" in target.partition(b"?")[0].lower()


def _is_open(read: _Body) -> bool:
    elsewhere = read.previous_response_id or read.conversation or read.prompt
    return bool(elsewhere) or any(tool.type not in _CLIENT_TOOLS for tool in read.tools or ())


def countable_text(body: bytes) -> tuple[str, int]:
    """Return a request's text to count (`WireFormat.countable_text`)."""
    return text_of_members(body, "input", ("instructions",), ("tools", "text"))


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Counts(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _ImageTool(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _SearchTool(msgspec.Struct):
    num_requests: int | None = None


class _ToolUsage(msgspec.Struct):
    image_gen: _ImageTool | None = None
    web_search: _SearchTool | None = None


_NO_INPUT_DETAILS = _InputDetails()
_NO_OUTPUT_DETAILS = _OutputDetails()
_NO_TOOL_USAGE = _ToolUsage()
_NO_IMAGE = _ImageTool()
_NO_SEARCH = _SearchTool()


def _inclusive(counts: _Counts, tools: _ToolUsage, tier: object) -> Usage | None:
    """Return counts with what tools used on top; None if half of the counts is missing."""
    if counts.input_tokens is None or counts.output_tokens is None:
        return None
    into = counts.input_tokens_details or _NO_INPUT_DETAILS
    out = counts.output_tokens_details or _NO_OUTPUT_DETAILS
    image = tools.image_gen or _NO_IMAGE
    search = tools.web_search or _NO_SEARCH
    return Usage(
        input_total=_with_tool(counts.input_tokens, image.input_tokens),
        cached_read=into.cached_tokens or 0,
        cache_write=into.cache_write_tokens or 0,
        output_total=_with_tool(counts.output_tokens, image.output_tokens),
        reasoning=out.reasoning_tokens or 0,
        web_searches=search.num_requests or 0,
        terms=tier_term(tier) if tier else "",
    )


def _with_tool(tokens: int, of_tool: int | None) -> int:
    """Return the sum; a negative part makes it negative, so that it is not believed."""
    return tokens + (of_tool or 0) if min(tokens, of_tool or 0) >= 0 else -1


class _Part(msgspec.Struct):
    text: Any = None
    refusal: Any = None


class _Item(msgspec.Struct):
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    name: Any = None
    arguments: Any = None
    input: Any = None

    def words(self) -> str:
        """Return what was generated."""
        parts = [*(self.content or ()), *(self.summary or ())]
        texts = [text for part in parts for text in (part.text, part.refusal)]
        texts += [self.name, self.arguments, self.input]
        return "".join([text for text in texts if type(text) is str])


class _Response(msgspec.Struct):
    id: str | None = None
    background: bool | None = None
    model: str | None = None
    usage: _Counts | None = None
    tool_usage: _ToolUsage | None = None
    error: Any = None
    service_tier: Any = None


class ResponsesAnswer(_Response):
    """`wire_format.Answer` of a response, or of one event of its stream."""

    output: list[_Item] | None = None
    delta: Any = None
    response: _Response | None = None
    type: str | None = None

    def __post_init__(self) -> None:
        """Take from a stream's event what it says of its response."""
        said = self.response
        if said is not None:
            self.model, self.usage, self.tool_usage = said.model, said.usage, said.tool_usage
            self.error, self.id, self.background = said.error, said.id, said.background
            self.service_tier = said.service_tier
        elif self.type == "error":
            self.error = self.error or True

    @property
    def background_id(self) -> str:
        """Return the response's id if it is made in the background and could be part of a key."""
        found = _ID.fullmatch(self.id or "") if self.background else None
        return found[0] if found else ""

    def text(self) -> str:
        """Return all generated text; the event that ends a stream repeats it, that is not read."""
        if type(self.delta) is str:
            return self.delta
        return "".join([item.words() for item in self.output or ()])

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the usage that this reports: it speaks of the whole response."""
        if self.usage is None:
            return None
        return _inclusive(self.usage, self.tool_usage or _NO_TOOL_USAGE, self.service_tier)


_decode_answer = msgspec.json.Decoder(ResponsesAnswer).decode


def read_answer(data: bytes) -> ResponsesAnswer | None:
    """Return a response or event; None if it is none. Never raises."""
    try:
        return _decode_answer(data)
    except (ValueError, RecursionError):
        return _read_odd_answer(data)


def _read_odd_answer(data: bytes) -> ResponsesAnswer | None:
    """Return what can be read of an answer with an odd member, or with broken text."""
    found = readable_members(data)
    if found is None:
        return None
    return ResponsesAnswer(
        id=converted(str, found.get("id")),
        background=converted(bool, found.get("background")),
        model=converted(str, found.get("model")),
        usage=converted(_Counts, found.get("usage")),
        tool_usage=converted(_ToolUsage, found.get("tool_usage")),
        error=found.get("error"),
        service_tier=found.get("service_tier"),
        output=converted(list[_Item], found.get("output")),
        delta=found.get("delta"),
        response=converted(_Response, found.get("response")),
        type=converted(str, found.get("type")),
    )


OPENAI_RESPONSES = WireFormat(
    read=read_request,
    clamped=clamped_members,
    countable_text=countable_text,
    read_answer=read_answer,
    may_be_only_text=has_no_usage,
    is_usage_only=never_usage_only,
    stream_end=end_of_response,
    takes_comments=True,
)
