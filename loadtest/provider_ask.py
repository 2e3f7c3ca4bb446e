"""What the fake provider reads of a request, and how a dialect's answer is begun from it."""

import email
import functools
from dataclasses import dataclass
from typing import Any

import msgspec

from loadtest.provider_answers import JSON, SSE, Call, json_answer, stream_answer
from loadtest.provider_chat import Amounts, ChatShape, encode, measure
from loadtest.provider_dialects import LINES, DialectStream, Framing, Said
from loadtest.provider_http import Steps
from loadtest.provider_tokens import count_chat, count_input

_KEPT_BODY_BYTES = 32_768


@dataclass(eq=False)
class Ask:
    """What the provider reads of a model request; everything else is ignored."""

    model: str = ""
    messages: list[dict[str, Any]] | None = None
    tools: Any = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    input: Any = None
    dimensions: int | None = None
    encoding_format: str | None = None
    system: Any = None
    max_output_tokens: int | None = None
    instructions: Any = None
    background: bool | None = None
    prompt: Any = None
    contents: list[dict[str, Any]] | None = None
    generationConfig: dict[str, Any] | None = None
    inferenceConfig: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    response_format: Any = None
    stream_format: str | None = None
    file_bytes: int = 0

    @functools.cached_property
    def chat_tokens(self) -> int:
        """Prompt tokens of a chat request."""
        return count_chat(self.messages or [], self.tools)

    @functools.cached_property
    def input_tokens(self) -> int:
        """Prompt tokens of an embedding request."""
        return count_input(self.input)

    @functools.cached_property
    def shape(self) -> ChatShape:
        """What decides how a chat answer looks."""
        ceilings = [c for c in (self.max_tokens, self.max_completion_tokens) if c is not None]
        options = self.stream_options or {}
        return ChatShape(
            model=self.model,
            choices=max(1, self.n or 1),
            limit_tokens=max(0, min(ceilings)) if ceilings else None,
            include_usage=bool(self.stream and options.get("include_usage")),
        )


def read_ask(body: bytes) -> Ask:
    """Decode a request's body; raises msgspec.DecodeError. Equal small bodies are decoded once."""
    return _read_kept(body) if len(body) <= _KEPT_BODY_BYTES else _read(body)


def read_form(body: bytes, content_type: bytes) -> Ask:
    """Read the form that some requests are: its fields, and how long its files are."""
    form = email.message_from_bytes(b"content-type: %b\r\n\r\n%b" % (content_type, body))
    fields: dict[str, str] = {}
    file_bytes = 0
    for part in form.walk():
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes):
            continue
        if part.get_filename() is not None:
            file_bytes += len(content)
        else:
            name = part.get_param("name", header="content-disposition")
            fields[str(name)] = content.decode("utf-8", "replace")
    return Ask(
        model=fields.get("model", ""),
        stream=fields.get("stream") == "true",
        prompt=fields.get("prompt"),
        response_format=fields.get("response_format"),
        file_bytes=file_bytes,
    )


_decoder = msgspec.json.Decoder(Ask)


def _read(body: bytes) -> Ask:
    return _decoder.decode(body)


_read_kept = functools.lru_cache(maxsize=1024)(_read)


def measured(call: Call, ask: Ask, counted: int, limit: int | None) -> Amounts:
    """Note in the journal what a call costs, and return it."""
    script, served = call.script, call.served
    prompt = counted if script.prompt_tokens is None else script.prompt_tokens
    shape = ChatShape(ask.model, choices=1, limit_tokens=limit, include_usage=False)
    amounts = measure(shape, script, prompt)
    served.prompt_tokens, served.cached_tokens = prompt, amounts.cached
    served.reasoning_tokens = amounts.reasoning
    return amounts


def said_as(call: Call, ask: Ask, said: Said, amounts: Amounts, framing: Framing) -> Steps:
    """Answer as the dialect does: whole, or streamed."""
    if ask.stream:
        stream = DialectStream(said, amounts, call.script, framing)
        return stream_answer(call, stream, _content_type(framing))
    call.served.completion_tokens = amounts.completion
    has_usage = call.script.fault != "missing_usage"
    return json_answer(call, call.fill(encode(said.body)), has_usage=has_usage)


def _content_type(framing: Framing) -> bytes:
    if framing.is_lines:
        return LINES
    return JSON if framing.is_array else SSE
