"""OpenAI Realtime: `response.create` of a WebSocket session, and the events that answer it.

Facts (`docs/wire.md`): the conversation is kept by the server, so a request does not hold what is
billed as input. `response.done` reports usage whatever the response's status is. Transcribing the
input is billed apart, with the event that completes it, by tokens or by seconds.
"""

from typing import Any

import msgspec

from gateway.core.dialects.wire_format import (
    ModelRequest,
    WireFormat,
    check_sizes,
    has_no_usage,
    never_usage_only,
    read_body,
)
from gateway.core.json_edit import with_members
from gateway.core.usage import Usage, modalities

_LIMIT = b"max_output_tokens"


class _Wish(msgspec.Struct):
    max_output_tokens: int | str | None = None


class _Create(msgspec.Struct):
    response: _Wish | None = None


class _RawCreate(msgspec.Struct):
    response: msgspec.Raw = msgspec.Raw(b"null")


_decode_create = msgspec.json.Decoder(_Create).decode
_decode_raw = msgspec.json.Decoder(_RawCreate).decode


def read_request(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return a `response.create`'s facts; its model is the session's (`WireFormat.read`)."""
    read = read_body(_decode_create, body, (b"response",))
    inner = bytes(_decode_raw(body).response)
    if inner != b"null":
        read_body(msgspec.json.Decoder(_Wish).decode, inner, (_LIMIT,))
    limit = read.response.max_output_tokens if read.response else None
    tokens = limit if isinstance(limit, int) and limit >= 0 else None  # else "inf"
    check_sizes("", 1, tokens or 0)
    return ModelRequest(
        model="",
        stream=True,
        output_limit=tokens,
        limit_keys=(_LIMIT,),
        least_limit=1,
        is_open=True,
    )


def clamped(body: bytes, request: ModelRequest, tokens: int) -> dict[bytes, bytes]:
    """Return the edit that limits the output (`WireFormat.clamped`)."""
    inner = bytes(_decode_raw(body).response)
    limit = b"%d" % max(1, tokens)
    if inner == b"null":
        return {b"response": b'{"max_output_tokens":%b}' % limit}
    return {b"response": with_members(inner, {_LIMIT: limit})}


class _Kinds(msgspec.Struct):
    audio_tokens: int | None = None
    image_tokens: int | None = None


_NO_KINDS = _Kinds()


class _InputDetails(_Kinds):
    cached_tokens: int | None = None
    cached_tokens_details: _Kinds | None = None


_NO_DETAILS = _InputDetails()


class _Counts(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_token_details: _InputDetails | None = None
    output_token_details: _Kinds | None = None


class _Response(msgspec.Struct):
    usage: _Counts | None = None
    status: str | None = None


class RealtimeAnswer(msgspec.Struct):
    """`wire_format.Answer` of one event."""

    type: str = ""
    delta: Any = None
    transcript: str = ""
    response: _Response | None = None
    usage: _Counts | None = None
    model: str | None = None
    error: Any = None

    def __post_init__(self) -> None:
        """Take from a response's last event what it says of it."""
        if self.response is not None:
            self.usage = self.response.usage
            if self.response.status == "failed":
                self.error = self.error or True

    def text(self) -> str:
        """Return generated text and transcripts; audio is no text."""
        if type(self.delta) is str and not self.type.endswith("audio.delta"):
            return self.delta
        return self.transcript if self.type.endswith("transcription.completed") else ""

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the usage that this reports: it speaks of the whole response."""
        counts = self.usage
        if counts is None or counts.input_tokens is None or counts.output_tokens is None:
            return None
        into = counts.input_token_details or _NO_DETAILS
        cached = into.cached_tokens_details or _NO_KINDS
        return Usage(
            input_total=counts.input_tokens,
            cached_read=into.cached_tokens or 0,
            output_total=counts.output_tokens,
            modalities=modalities(
                audio_input=into.audio_tokens,
                audio_cached=cached.audio_tokens,
                audio_output=(counts.output_token_details or _NO_KINDS).audio_tokens,
                image_input=into.image_tokens,
                image_cached=cached.image_tokens,
            ),
        )


_decode_answer = msgspec.json.Decoder(RealtimeAnswer).decode


def read_answer(data: bytes) -> RealtimeAnswer | None:
    """Return an event; None if it cannot be read. Never raises."""
    try:
        return _decode_answer(data)
    except (ValueError, RecursionError):
        return None


def countable_text(body: bytes) -> tuple[str, int]:
    """Return nothing to count: the conversation is at the server (`WireFormat.countable_text`)."""
    return "", 0


OPENAI_REALTIME = WireFormat(
    read=read_request,
    clamped=clamped,
    countable_text=countable_text,
    read_answer=read_answer,
    may_be_only_text=has_no_usage,
    is_usage_only=never_usage_only,
)
