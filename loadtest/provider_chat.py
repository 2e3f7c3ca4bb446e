"""The bytes of chat completions, JSON and SSE. Values in, bytes out; what repeats is built once.

Every made-up answer has `SLOT` where its id belongs, so that the same bytes serve many calls.
"""

import functools
import json
from typing import Any, NamedTuple

from loadtest.provider_script import Script
from loadtest.provider_tokens import WORDS

SLOT = b"\0" * 24  # no JSON holds a raw NUL, so nothing that was said can look like it
_SLOT_TEXT = SLOT.decode()
_SLOT_ESCAPED = json.dumps(_SLOT_TEXT)[1:-1].encode()

CREATED_S = 1_767_225_600  # always the same second: answers are comparable byte by byte
LAST_CHUNK = b"0\r\n\r\n"
_KEPT_WHOLE_TOKENS = 256
_KEPT_FRAMES = 512


class ChatShape(NamedTuple):
    """What of a request decides how its answer looks."""

    model: str
    choices: int
    limit_tokens: int | None
    include_usage: bool


class Amounts(NamedTuple):
    """Tokens of one answer; completion and reasoning are those of a single choice."""

    prompt: int
    cached: int
    completion: int
    reasoning: int
    choices: int
    finish_reason: str

    @property
    def visible(self) -> int:
        """Tokens of one choice that the client gets to see."""
        return self.completion - self.reasoning


def measure(shape: ChatShape, script: Script, prompt_tokens: int) -> Amounts:
    """How many tokens the call costs, and why it ends."""
    limit = shape.limit_tokens
    completion = script.completion_tokens if limit is None else min(limit, script.completion_tokens)
    reason = "tool_calls" if script.tool_call else "stop"
    return Amounts(
        prompt=prompt_tokens,
        cached=min(script.cached_tokens, prompt_tokens),
        completion=completion,
        reasoning=min(script.reasoning_tokens, completion),
        choices=shape.choices,
        finish_reason="length" if completion < script.completion_tokens else reason,
    )


def encode(value: Any) -> bytes:
    """Compact JSON, with the slot put in where a text says so."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode().replace(_SLOT_ESCAPED, SLOT)


def frame(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@functools.lru_cache(maxsize=256)
def chat_body(shape: ChatShape, script: Script, prompt_tokens: int) -> bytes:
    """The JSON of an answer that is not streamed."""
    amounts = measure(shape, script, prompt_tokens)
    text = "".join(piece(script, index) for index in range(amounts.visible))
    answer: dict[str, Any] = {
        "id": f"chatcmpl-{_SLOT_TEXT}",
        "object": "chat.completion",
        "created": CREATED_S,
        "model": shape.model,
        "choices": [
            {
                "index": choice,
                "message": _message(script, text, choice),
                "logprobs": None,
                "finish_reason": amounts.finish_reason,
            }
            for choice in range(amounts.choices)
        ],
        "usage": _usage(amounts, script),
        "service_tier": "default",
        "system_fingerprint": "fp_fake",
    }
    if script.fault == "missing_usage":
        del answer["usage"]
    return encode(answer)


class ChatStream:
    """The SSE of one answer, in HTTP chunks: `opening`, a frame for each token, `closing`.

    The tokens of several choices take turns. `closing` lacks `LAST_CHUNK`.
    """

    def __init__(self, shape: ChatShape, script: Script, prompt_tokens: int) -> None:
        """Build what does not depend on the pace of the stream."""
        self._shape = shape
        self._script = script
        self._frames: dict[tuple[int, str], bytes] = {}
        amounts = measure(shape, script, prompt_tokens)
        self.hidden_tokens = amounts.reasoning * amounts.choices
        self.tokens = amounts.visible * amounts.choices
        self.has_usage = shape.include_usage and script.fault != "missing_usage"
        self.opening = b"".join(self._opening(choice) for choice in range(amounts.choices))
        self.closing = self._closing(amounts)
        self.whole: bytes | None = None
        if self.tokens <= _KEPT_WHOLE_TOKENS:
            tokens = self.token_frames(0, self.tokens)
            self.whole = self.opening + tokens + self.closing + LAST_CHUNK

    def token_frames(self, start: int, stop: int) -> bytes:
        """The frames of a range of tokens."""
        return b"".join(self._token_frame(index) for index in range(start, stop))

    def error_frame(self, error: dict[str, Any]) -> bytes:
        """An event that ends the stream with an error, as providers send it."""
        return frame(self._event(encode(error)))

    def _opening(self, choice: int) -> bytes:
        delta: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if self._script.tool_call:
            call = {"index": 0, **_tool_call(choice, "")}
            delta = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}
        return self._delta_frame(choice, delta, None)

    def _token_frame(self, index: int) -> bytes:
        index, choice = divmod(index, self._shape.choices)
        text = piece(self._script, index)
        kept = self._frames.get((choice, text))
        if kept is not None:
            return kept
        delta: dict[str, Any] = {"content": text}
        if self._script.tool_call:
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        made = self._delta_frame(choice, delta, None)
        if len(self._frames) < _KEPT_FRAMES:
            self._frames[choice, text] = made
        return made

    def _closing(self, amounts: Amounts) -> bytes:
        ends = [self._delta_frame(i, {}, amounts.finish_reason) for i in range(amounts.choices)]
        if self.has_usage:
            ends.append(self._chunk_frame([], _usage(amounts, self._script)))
        return b"".join(ends) + frame(self._event(b"[DONE]"))

    def _delta_frame(self, choice: int, delta: dict[str, Any], reason: str | None) -> bytes:
        said = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._chunk_frame([said], None)

    def _chunk_frame(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> bytes:
        chunk: dict[str, Any] = {
            "id": f"chatcmpl-{_SLOT_TEXT}",
            "object": "chat.completion.chunk",
            "created": CREATED_S,
            "model": self._shape.model,
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
            "choices": choices,
        }
        if self._shape.include_usage:
            chunk["usage"] = usage
        return frame(self._event(encode(chunk)))

    def _event(self, data: bytes) -> bytes:
        return b"data: " + data + self._script.line_end.encode() * 2


@functools.lru_cache(maxsize=128)
def chat_stream(shape: ChatShape, script: Script, prompt_tokens: int) -> ChatStream:
    """The stream of an answer; equal calls share one."""
    return ChatStream(shape, script, prompt_tokens)


def _message(script: Script, text: str, choice: int) -> dict[str, Any]:
    if script.tool_call:
        calls = [_tool_call(choice, text)]
        return {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None}
    return {"role": "assistant", "content": text, "refusal": None, "annotations": []}


def _tool_call(choice: int, arguments: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": f"call_{choice}{_SLOT_TEXT}", "type": "function", "function": function}


def piece(script: Script, index: int) -> str:
    """The text of a choice's visible token, counted as if nothing limited the answer."""
    visible = max(1, script.completion_tokens - script.reasoning_tokens)
    if script.content is not None:
        text = script.content
        return text[index * len(text) // visible : (index + 1) * len(text) // visible]
    if script.tool_call:
        return _argument_piece(index, visible)
    return WORDS[index % len(WORDS)]


def _argument_piece(index: int, pieces: int) -> str:
    """A part of the arguments; all parts together are valid JSON, however many there are."""
    opening = '{"city":"' if index == 0 else ""
    word = WORDS[index % len(WORDS)] if 0 < index < pieces - 1 or pieces == 1 else ""
    return opening + word + ('"}' if index == pieces - 1 else "")


def _usage(amounts: Amounts, script: Script) -> dict[str, Any]:
    sent = amounts
    if script.fault == "zero_usage":
        sent = amounts._replace(prompt=0, cached=0, completion=0, reasoning=0)
    completion = sent.completion * sent.choices
    return {
        "prompt_tokens": sent.prompt,
        "completion_tokens": completion,
        "total_tokens": sent.prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sent.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sent.reasoning * sent.choices,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
