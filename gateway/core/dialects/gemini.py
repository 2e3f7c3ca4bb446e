"""Gemini: `POST .../models/<model>:generateContent` and `:streamGenerateContent`.

Facts (`docs/wire.md`): the model stands in the path. `candidatesTokenCount` leaves out thoughts,
`promptTokenCount` what tools fed back; cached tokens are inside the prompt. A stream reports on
nearly every chunk, cumulatively; without `alt=sse` it is one JSON array.
"""

import json
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.core.dialects.prompt_text import text_of_members
from gateway.core.dialects.prompted_body import read_prompted_body
from gateway.core.dialects.stream_end import end_of_gemini
from gateway.core.dialects.wire_format import (
    ModelRequest,
    WireFormat,
    check_sizes,
    converted,
    has_no_usage,
    never_usage_only,
    readable_members,
    unless_it_falls,
)
from gateway.core.errors import BadCall
from gateway.core.json_edit import reject_duplicates, with_members
from gateway.core.usage import Usage, modalities

# Google's parsers take a member in either spelling.
_CONFIG_NAMES = (b"generationConfig", b"generation_config")
_LIMIT_NAMES = (b"maxOutputTokens", b"max_output_tokens")
_CLIENT_TOOLS = frozenset({"functionDeclarations", "function_declarations"})


class _Thinking(msgspec.Struct):
    thinkingBudget: int | None = None
    thinking_budget: int | None = None


class _Config(msgspec.Struct):
    maxOutputTokens: int | None = None
    max_output_tokens: int | None = None
    candidateCount: int | None = None
    candidate_count: int | None = None
    thinkingConfig: _Thinking | None = None
    thinking_config: _Thinking | None = None


class _Body(msgspec.Struct):
    generationConfig: msgspec.Raw = msgspec.Raw(b"null")
    generation_config: msgspec.Raw = msgspec.Raw(b"null")
    tools: Any = None
    cachedContent: Any = None
    cached_content: Any = None


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_config = msgspec.json.Decoder(_Config | None).decode


def read_request(body: bytes, target: bytes) -> ModelRequest:
    """Return a request's facts (`WireFormat.read`)."""
    read, media = read_prompted_body(_decode_body, body, (), "contents")
    config = _read_config(read)
    limit = _either(config.maxOutputTokens, config.max_output_tokens)
    choices = _either(config.candidateCount, config.candidate_count)
    thinking = _thinking_budget(config)
    model = _model_of(target)
    check_sizes(model, choices, max(limit or 0, thinking))
    return ModelRequest(
        model=model,
        output_limit=limit + thinking if limit else None,
        choices=max(1, choices or 1),
        least_limit=thinking + 1,
        is_open=bool(read.cachedContent or read.cached_content) or _has_server_tools(read.tools),
        media=media,
    )


def read_stream_request(body: bytes, target: bytes) -> ModelRequest:
    """Return the facts of a request for a stream (`WireFormat.read`)."""
    return msgspec.structs.replace(read_request(body, target), stream=True)


def _read_config(read: _Body) -> _Config:
    """Return the generation's settings. Raises BadCall where parsers could take others."""
    raw = [bytes(each) for each in (read.generationConfig, read.generation_config)]
    said = [each for each in raw if each != b"null"]
    if not said:
        return _Config()
    if len(said) > 1:
        raise BadCall("invalid_body", "generationConfig stands twice in the request body.")
    try:
        config = _decode_config(said[0]) or _Config()
    except (ValueError, RecursionError) as error:
        raise BadCall("invalid_body", f"generationConfig cannot be read: {error}") from None
    reject_duplicates(said[0], ())
    return config


def _either(camel: int | None, snake: int | None) -> int | None:
    """Return the larger of two spellings' values: a parser may take either."""
    return max((value for value in (camel, snake) if value is not None), default=None)


def _thinking_budget(config: _Config) -> int:
    """Return the tokens of thought that are asked for beside the output, 0 if none are named."""
    asked = config.thinkingConfig or config.thinking_config or _Thinking()
    return max(0, _either(asked.thinkingBudget, asked.thinking_budget) or 0)


def _model_of(target: bytes) -> str:
    path = target.partition(b"?")[0]
    last = unquote_to_bytes(path).rstrip(b"/ ").rpartition(b"/")[2]
    return last.rpartition(b":")[0].decode("utf-8", "replace")


def _has_server_tools(tools: object) -> bool:
    """Return whether a tool is run by Google: it may bring in any amount of text."""
    each = tools if isinstance(tools, list) else [tools]
    return any(isinstance(tool, dict) and not _CLIENT_TOOLS.issuperset(tool) for tool in each)


def clamped(body: bytes, request: ModelRequest, tokens: int) -> dict[bytes, bytes]:
    """Return the edit that limits the output (`WireFormat.clamped`)."""
    read = _decode_body(body)
    config = _read_config(read)
    limit = max(1, tokens // request.choices - _thinking_budget(config))
    camel, snake = bytes(read.generationConfig), bytes(read.generation_config)
    name, raw = (_CONFIG_NAMES[1], snake) if snake != b"null" else (_CONFIG_NAMES[0], camel)
    both = [key for key in _LIMIT_NAMES if getattr(config, key.decode()) is not None]
    edits = dict.fromkeys(both or _LIMIT_NAMES[:1], b"%d" % limit)
    return {name: with_members(b"{}" if raw == b"null" else raw, edits)}


def countable_text(body: bytes) -> tuple[str, int]:
    """Return a request's text to count (`WireFormat.countable_text`)."""
    systems = ("systemInstruction", "system_instruction")
    return text_of_members(body, "contents", systems, ("tools",))


class _OfModality(msgspec.Struct):
    modality: str | None = None
    tokenCount: int | None = None


_Details = list[_OfModality] | None


def _of(details: _Details, modality: str) -> int:
    """Return the tokens of one kind."""
    return sum(one.tokenCount or 0 for one in details or () if one.modality == modality)


class _Counts(msgspec.Struct):
    promptTokenCount: int | None = None
    cachedContentTokenCount: int | None = None
    candidatesTokenCount: int | None = None
    thoughtsTokenCount: int | None = None
    toolUsePromptTokenCount: int | None = None
    totalTokenCount: int | None = None
    promptTokensDetails: _Details = None
    cacheTokensDetails: _Details = None
    candidatesTokensDetails: _Details = None

    def inclusive(self) -> Usage | None:
        """Return the counts in inclusive buckets; what the total has beyond the input is output."""
        if self.promptTokenCount is None:
            return None
        parts = (
            self.promptTokenCount,
            self.toolUsePromptTokenCount or 0,
            self.candidatesTokenCount or 0,
            self.thoughtsTokenCount or 0,
        )
        into, out = parts[0] + parts[1], parts[2] + parts[3]
        return Usage(
            input_total=into if min(parts) >= 0 else -1,
            cached_read=self.cachedContentTokenCount or 0,
            output_total=max(out, (self.totalTokenCount or 0) - into),
            reasoning=parts[3],
            modalities=modalities(
                audio_input=_of(self.promptTokensDetails, "AUDIO"),
                audio_cached=_of(self.cacheTokensDetails, "AUDIO"),
                audio_output=_of(self.candidatesTokensDetails, "AUDIO"),
                image_input=_of(self.promptTokensDetails, "IMAGE"),
                image_cached=_of(self.cacheTokensDetails, "IMAGE"),
                image_output=_of(self.candidatesTokensDetails, "IMAGE"),
            ),
        )


class _Call(msgspec.Struct):
    name: Any = None
    args: Any = None


class _Code(msgspec.Struct):
    code: Any = None


class _Part(msgspec.Struct):
    text: Any = None
    functionCall: _Call | None = None
    executableCode: _Code | None = None

    def words(self) -> str:
        """Return what was generated."""
        words = self.text if type(self.text) is str else ""
        if self.functionCall is not None:
            called = self.functionCall
            words += f"{called.name or ''}{json.dumps(called.args) if called.args else ''}"
        if self.executableCode is not None:
            words += str(self.executableCode.code or "")
        return words


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct):
    content: _Content | None = None


class GeminiAnswer(msgspec.Struct):
    """`wire_format.Answer` of one answer, or of one chunk of a stream."""

    candidates: list[_Candidate] | None = None
    usageMetadata: _Counts | None = None
    modelVersion: str | None = None
    error: Any = None

    @property
    def model(self) -> str | None:
        """Return the model that answers."""
        return self.modelVersion

    def text(self) -> str:
        """Return all generated text: content, thoughts, calls of functions, code."""
        contents = [each.content for each in self.candidates or () if each.content]
        return "".join([part.words() for content in contents for part in content.parts or ()])

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the usage that this reports: each speaks of the whole answer so far."""
        counts = self.usageMetadata
        return unless_it_falls(counts.inclusive(), earlier) if counts else None


class GeminiChunks:
    """`wire_format.Answer` of a stream that came as one JSON array."""

    def __init__(self, chunks: list[GeminiAnswer]) -> None:
        self._chunks = chunks

    @property
    def model(self) -> str | None:
        """Return the model that answers."""
        return next((each.model for each in self._chunks if each.model), None)

    @property
    def error(self) -> Any:
        """Return the first error."""
        return next((each.error for each in self._chunks if each.error is not None), None)

    def text(self) -> str:
        """Return all generated text."""
        return "".join([each.text() for each in self._chunks])

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the last usage: it is cumulative."""
        reports = [each.usage_after(earlier) for each in self._chunks]
        return next((each for each in reversed(reports) if each is not None), None)


_decode_answer = msgspec.json.Decoder(GeminiAnswer | list[GeminiAnswer]).decode


def read_answer(data: bytes) -> GeminiAnswer | GeminiChunks | None:
    """Return an answer, a chunk or an array of chunks; None if it is none. Never raises."""
    try:
        found = _decode_answer(data)
    except (ValueError, RecursionError):
        return _read_odd_answer(data)
    return GeminiChunks(found) if isinstance(found, list) else found


def _read_odd_answer(data: bytes) -> GeminiAnswer | None:
    """Return what can be read of an answer with an odd member, or with broken text."""
    found = readable_members(data)
    if found is None:
        return None
    return GeminiAnswer(
        candidates=converted(list[_Candidate], found.get("candidates")),
        usageMetadata=converted(_Counts, found.get("usageMetadata")),
        modelVersion=converted(str, found.get("modelVersion")),
        error=found.get("error"),
    )


def may_be_only_text(data: bytes) -> bool:
    """Return whether an event holds neither usage nor an error (`WireFormat.may_be_only_text`)."""
    return b'"usageMetadata"' not in data and has_no_usage(data)


GEMINI = WireFormat(
    read=read_request,
    clamped=clamped,
    countable_text=countable_text,
    read_answer=read_answer,
    may_be_only_text=may_be_only_text,
    is_usage_only=never_usage_only,
    stream_end=end_of_gemini,
)
GEMINI_STREAM = msgspec.structs.replace(GEMINI, read=read_stream_request)
