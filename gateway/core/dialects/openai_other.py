"""OpenAI's legacy Completions and Embeddings: `POST .../completions`, `POST .../embeddings`.

Facts (`docs/wire.md`): a completion is limited to 16 tokens unless the request says otherwise;
every prompt of a list is answered `n` times, and `best_of` candidates are generated and billed.
Usage is that of chat completions; an embedding has only prompt tokens.
"""

from typing import Any

import msgspec

from gateway.core.dialects import openai_chat
from gateway.core.dialects.openai_chat import nano_usd, usage_wish
from gateway.core.dialects.prompt_text import read_object, texts_in
from gateway.core.dialects.prompted_body import read_prompted_body
from gateway.core.dialects.stream_end import end_of_chat
from gateway.core.dialects.wire_format import (
    MOST_CHOICES,
    ModelRequest,
    WireFormat,
    check_sizes,
    clamped_members,
    has_no_usage,
    never_usage_only,
    read_body,
)
from gateway.core.usage import Usage

_COMPLETION_KEYS = (b"model", b"stream", b"stream_options", b"max_tokens", b"n", b"best_of")
_EMBEDDING_KEYS = (b"model",)
_USUAL_LIMIT = 16


class _Completion(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    prompt: Any = None


class _Embedding(msgspec.Struct):
    model: str | None = None


_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_embedding = msgspec.json.Decoder(_Embedding).decode


def read_completion(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return a completion request's facts (`WireFormat.read`)."""
    read = read_body(_decode_completion, body, _COMPLETION_KEYS)
    choices = max(1, read.n or 1, read.best_of or 1) * _prompts(read.prompt)
    check_sizes(read.model, choices, read.max_tokens or 0)
    limit = _USUAL_LIMIT if read.max_tokens is None else read.max_tokens
    return ModelRequest(
        model=read.model or "",
        stream=bool(read.stream),
        output_limit=limit if limit >= 0 else None,
        choices=choices,
        limit_keys=(b"max_tokens",),
        usage_wish=usage_wish(read.stream_options) if read.stream else None,
    )


def _prompts(prompt: object) -> int:
    """Return how many prompts there are: a list of token numbers is one."""
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int):
        return 1
    return min(len(prompt), MOST_CHOICES + 1)


def read_embedding(body: bytes, target: bytes = b"") -> ModelRequest:
    """Return an embedding request's facts: nothing is generated (`WireFormat.read`)."""
    read, media = read_prompted_body(_decode_embedding, body, _EMBEDDING_KEYS, "input")
    check_sizes(read.model, 1, 0)
    return ModelRequest(model=read.model or "", output_limit=0, media=media)


def prompt_text(body: bytes) -> tuple[str, int]:
    """Return the text of a completion's `prompt` (`WireFormat.countable_text`)."""
    return _input_text(body, "prompt")


def embedding_text(body: bytes) -> tuple[str, int]:
    """Return the text of an embedding's `input` (`WireFormat.countable_text`)."""
    return _input_text(body, "input")


def _input_text(body: bytes, member: str) -> tuple[str, int]:
    """Return the texts of a member, and how many tokens it names by number."""
    request = read_object(body)
    if request is None:
        return body.decode("utf-8", "replace"), 0
    value = request.get(member)
    items = value if isinstance(value, list) else [value]
    rows = [item if isinstance(item, list) else [item] for item in items]
    numbers = sum(isinstance(item, int) for row in rows for item in row)
    return "\n".join(text for row in rows for text in texts_in(_texts(row))), numbers


def _texts(row: list[Any]) -> list[Any]:
    return [item for item in row if not isinstance(item, int)]


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None
    cost: Any = None


class EmbeddingAnswer(msgspec.Struct):
    """`wire_format.Answer` of embeddings. The vectors are not read."""

    usage: _Counts | None = None
    model: str | None = None
    error: Any = None

    def text(self) -> str:
        """Return nothing: no text is generated."""
        return ""

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the prompt's tokens."""
        counts = self.usage
        if counts is None or counts.prompt_tokens is None:
            return None
        return Usage(input_total=counts.prompt_tokens, provider_nano_usd=nano_usd(counts.cost))


_decode_embedding_answer = msgspec.json.Decoder(EmbeddingAnswer).decode


def read_embedding_answer(data: bytes) -> EmbeddingAnswer | None:
    """Return an answer; None if it is none. Never raises."""
    try:
        return _decode_embedding_answer(data)
    except (ValueError, RecursionError):
        return None


OPENAI_COMPLETIONS = WireFormat(
    read=read_completion,
    clamped=clamped_members,
    countable_text=prompt_text,
    read_answer=openai_chat.read_answer,
    may_be_only_text=openai_chat.may_be_only_text,
    is_usage_only=openai_chat.is_usage_only,
    stream_end=end_of_chat,
    takes_comments=True,
)
OPENAI_EMBEDDINGS = WireFormat(
    read=read_embedding,
    clamped=clamped_members,
    countable_text=embedding_text,
    read_answer=read_embedding_answer,
    may_be_only_text=has_no_usage,
    is_usage_only=never_usage_only,
)
