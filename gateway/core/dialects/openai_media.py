"""OpenAI's images, transcriptions and speech: JSON or form in; JSON, SSE, text or sound out.

Facts (`docs/wire.md`): GPT image models report tokens, in a stream with the event that ends an
image; DALL-E reports nothing. A transcription reports tokens or seconds, in its formats `text`,
`srt` and `vtt` nothing. Speech is sound without a report, billed by characters or as tokens. What
is not reported is charged by what was asked for, and marked as an estimate.
"""

import re
from typing import Any

import msgspec
from msgspec.structs import astuple

from gateway.core.dialects.prompt_media import TEXT_ONLY, Media
from gateway.core.dialects.prompt_text import read_object
from gateway.core.dialects.wire_format import (
    ModelRequest,
    WireFormat,
    check_sizes,
    clamped_members,
    converted,
    has_no_usage,
    never_usage_only,
    read_body,
    readable_members,
)
from gateway.core.errors import BadCall
from gateway.core.multipart import form_fields
from gateway.core.usage import Modalities, Usage, modalities

_IMAGE_TOKENS = 6_240  # of the largest image in high quality
_BYTES_PER_SECOND = 16_000  # of compressed speech at 128 kbit/s
_LONGEST_EVENT = 33_554_432  # an image travels as base64 in the event that reports it
_SIZE_TERM = re.compile(r"[a-z]{1,12}/[1-9]\d{1,4}x[1-9]\d{1,4}")
_BUDGETED_KEYS = (b"model", b"stream", b"n", b"stream_format")


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    stream_format: str | None = None
    n: int | None = None
    size: Any = None
    quality: Any = None
    input: Any = None
    prompt: Any = None


_decode_body = msgspec.json.Decoder(_Body).decode


def _read(body: bytes) -> _Body:
    read = read_body(_decode_body, body, _BUDGETED_KEYS)
    check_sizes(read.model, read.n, 0)
    return read


def _read_form(body: bytes, content_type: bytes) -> tuple[_Body, int]:
    """Return the fields of a form that a budget depends on, and the bytes of its files."""
    fields, file_bytes = form_fields(body, content_type)
    choices = fields.get("n", b"1").strip()
    if not choices.isdigit() or len(choices) > 5:  # noqa: PLR2004
        raise BadCall("invalid_body", "The form's field 'n' must be a small number.")
    read = _Body(
        model=fields.get("model", b"").decode("utf-8", "replace").strip(),
        stream=fields.get("stream", b"").strip().lower() in (b"true", b"1"),
        n=int(choices),
        size=fields.get("size", b"").decode("latin-1"),
        quality=fields.get("quality", b"").decode("latin-1"),
    )
    check_sizes(read.model, read.n, 0)
    return read, file_bytes


def read_images(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return the facts of a request for images (`WireFormat.read`)."""
    return _images(_read(body), TEXT_ONLY)


def read_images_form(body: bytes, content_type: bytes) -> ModelRequest:
    """Return the facts of a form that asks for images (`WireFormat.read_form`)."""
    read, file_bytes = _read_form(body, content_type)
    return _images(read, Media(payload_bytes=file_bytes, is_unbounded=True))


def _images(read: _Body, media: Media) -> ModelRequest:
    choices = max(1, read.n or 1)
    has_tokens = not (read.model or "").startswith("dall-e")
    return ModelRequest(
        model=read.model or "",
        stream=bool(read.stream),
        output_limit=_IMAGE_TOKENS if has_tokens else 0,
        choices=choices,
        least_limit=_IMAGE_TOKENS * choices if has_tokens else 0,
        media=media,
        pieces=Usage(images=choices, terms=_size_term(read)),
        is_uncountable=True,
    )


def _size_term(read: _Body) -> str:
    """Return the quality and size asked for as `Usage.terms`; "" where they are not stated.

    What is not stated is standard quality (DALL-E), and a square of 1,024 pixels a side.
    """
    quality, size = read.quality or "standard", read.size or "1024x1024"
    term = f"{'standard' if quality == 'auto' else quality}/{size}"
    return term if _SIZE_TERM.fullmatch(term) else ""


def read_audio(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return the facts of a request for a transcription (`WireFormat.read`)."""
    return _audio(_read(body), 0)


def read_audio_form(body: bytes, content_type: bytes) -> ModelRequest:
    """Return the facts of a form with a recording to write down (`WireFormat.read_form`)."""
    return _audio(*_read_form(body, content_type))


def _audio(read: _Body, file_bytes: int) -> ModelRequest:
    model = read.model or ""
    return ModelRequest(
        model=model,
        stream=bool(read.stream),
        media=Media(payload_bytes=file_bytes, is_unbounded=True),
        pieces=Usage(seconds=-(-file_bytes // _BYTES_PER_SECOND)),
        is_uncountable=True,
        takes_limit=model.startswith("whisper"),  # puts out no tokens that could go over
    )


def read_speech(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return the facts of a request for speech (`WireFormat.read`)."""
    read = _read(body)
    said = read.input if isinstance(read.input, str) else ""
    return ModelRequest(
        model=read.model or "",
        stream=read.stream_format == "sse",
        output_limit=0 if (read.model or "").startswith("tts-") else None,
        pieces=Usage(characters=len(said)),
        takes_limit=False,
    )


def countable_text(body: bytes) -> tuple[str, int]:
    """Return what is to be drawn or said (`WireFormat.countable_text`)."""
    request = read_object(body) or {}
    texts = [request.get(name) for name in ("prompt", "input", "instructions")]
    return "\n".join(text for text in texts if isinstance(text, str)), 0


class _Kinds(msgspec.Struct):
    audio_tokens: int | None = None
    image_tokens: int | None = None
    text_tokens: int | None = None
    cached_tokens: int | None = None


_NO_KINDS = _Kinds()


class _Counts(msgspec.Struct):
    type: str | None = None
    seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_token_details: _Kinds | None = None
    input_tokens_details: _Kinds | None = None
    output_tokens_details: _Kinds | None = None

    def inclusive(self, *, of_image: bool = False) -> Usage | None:
        """Return the counts: tokens, or seconds rounded up; None if neither is there.

        What comes `of_image` is image tokens, but for what is told to be text.
        """
        if self.input_tokens is not None and self.output_tokens is not None:
            into = self.input_tokens_details or self.input_token_details or _NO_KINDS
            text = (self.output_tokens_details or _NO_KINDS).text_tokens or 0
            return Usage(
                input_total=self.input_tokens,
                cached_read=into.cached_tokens or 0,
                output_total=self.output_tokens,
                modalities=modalities(
                    audio_input=into.audio_tokens,
                    image_input=into.image_tokens,
                    image_output=max(self.output_tokens - text, 0) if of_image else 0,
                ),
            )
        if self.seconds is None or not abs(self.seconds) < 10**9:
            return None
        return Usage(seconds=int(-(-self.seconds // 1)))


class MediaAnswer(msgspec.Struct):
    """`wire_format.Answer` of an image, a transcription, or one event of a stream."""

    type: str | None = None
    usage: _Counts | None = None
    error: Any = None
    data: list[Any] | None = None
    delta: Any = None
    model: str | None = None

    def __post_init__(self) -> None:
        """Tell an event that is an error by its type."""
        if self.type == "error":
            self.error = self.error or True

    def text(self) -> str:
        """Return a piece of a transcription; what a whole one says is billed as reported."""
        return self.delta if type(self.delta) is str else ""

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the usage so far: each image of a stream is reported by itself."""
        ends_image = bool(self.type and self.type.startswith("image"))
        images = len(self.data or ()) + ends_image
        usage = self.usage.inclusive(of_image=images > 0) if self.usage else None
        if usage is None:
            return None
        before = earlier if ends_image and earlier is not None else _NOTHING
        return Usage(
            input_total=_sum(before.input_total, usage.input_total),
            cached_read=_sum(before.cached_read, usage.cached_read),
            output_total=_sum(before.output_total, usage.output_total),
            seconds=usage.seconds,
            images=before.images + images,
            modalities=_summed(before.modalities, usage.modalities),
        )


_NOTHING = Usage()


def _summed(before: Modalities | None, after: Modalities | None) -> Modalities | None:
    if before is None or after is None:
        return before or after
    return Modalities(*map(_sum, astuple(before), astuple(after)))


def _sum(before: int, tokens: int) -> int:
    return before + tokens if min(before, tokens) >= 0 else -1


_decode_answer = msgspec.json.Decoder(MediaAnswer).decode


def read_answer(data: bytes) -> MediaAnswer | None:
    """Return an answer or event; None if it is none: sound, subtitles. Never raises."""
    try:
        return _decode_answer(data)
    except (ValueError, RecursionError):
        found = readable_members(data)
    if found is None:
        return None
    return MediaAnswer(
        type=converted(str, found.get("type")),
        usage=converted(_Counts, found.get("usage")),
        error=found.get("error"),
        data=converted(list[Any], found.get("data")),
        delta=found.get("delta"),
    )


OPENAI_IMAGES = WireFormat(
    read=read_images,
    clamped=clamped_members,
    countable_text=countable_text,
    read_answer=read_answer,
    may_be_only_text=has_no_usage,
    is_usage_only=never_usage_only,
    read_form=read_images_form,
    longest_event=_LONGEST_EVENT,
)
OPENAI_AUDIO = msgspec.structs.replace(OPENAI_IMAGES, read=read_audio, read_form=read_audio_form)
OPENAI_SPEECH = msgspec.structs.replace(OPENAI_IMAGES, read=read_speech, read_form=None)
