"""The bytes of the other dialects' answers: Anthropic Messages, OpenAI Responses and legacy
Completions, Gemini, Ollama. Values in, bytes out; shapes are those that the providers document.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from loadtest.provider_chat import CREATED_S, SLOT, Amounts, encode, frame, piece
from loadtest.provider_script import Script

LINES = b"application/x-ndjson"
_ID = SLOT.decode()
Event = dict[str, Any]


class Said(NamedTuple):
    """One answer as a dialect words it: whole as JSON, or as the events of a stream.

    `token(piece, number)` is the event of the number-th visible token, counted from one.
    """

    body: Event
    opening: list[Event]
    token: Callable[[str, int], Event]
    closing: list[Event]
    error: Event


class Framing(NamedTuple):
    """How events follow each other on the wire."""

    is_named: bool = False  # with an `event:` line that repeats the event's type
    is_array: bool = False  # one JSON array, no server-sent events
    is_lines: bool = False  # a line of JSON each
    done: bytes = b""


class DialectStream:
    """A stream in HTTP chunks: `opening`, a frame a token, `closing` without the last chunk."""

    def __init__(self, said: Said, amounts: Amounts, script: Script, framing: Framing) -> None:
        """Build what does not depend on the pace of the stream."""
        self._said, self._script, self._framing = said, script, framing
        self.hidden_tokens = amounts.reasoning * amounts.choices
        self.tokens = amounts.visible * amounts.choices
        self.has_usage = script.fault != "missing_usage"
        self.whole: bytes | None = None
        self.opening = self._frames(said.opening, b"[" if framing.is_array else b"")
        ending = b"]" if framing.is_array else framing.done
        closing = self._frames(said.closing, self._between if self.tokens else b"")
        self.closing = closing + (frame(ending) if ending else b"")

    @property
    def _between(self) -> bytes:
        return b",\r\n" if self._framing.is_array else b""

    def token_frames(self, start: int, stop: int) -> bytes:
        """The frames of a range of tokens."""
        said = [self._said.token(piece(self._script, i), i + 1) for i in range(start, stop)]
        first = b"" if self._framing.is_array and not start else self._between
        return self._frames(said, first)

    def error_frame(self, error: Event) -> bytes:
        """An event that ends the stream with an error, as the provider sends it."""
        return self._frames([self._said.error], self._between)

    def _frames(self, events: list[Event], first: bytes) -> bytes:
        data = first + self._between.join(map(self._event, events))
        return frame(data) if data else b""

    def _event(self, event: Event) -> bytes:
        if self._framing.is_array:
            return encode(event)
        if self._framing.is_lines:
            return encode(event) + b"\n"
        end = self._script.line_end.encode()
        name = b"event: %b%b" % (event["type"].encode(), end) if self._framing.is_named else b""
        return b"%bdata: %b%b" % (name, encode(event), end * 2)


def text_of(script: Script, amounts: Amounts) -> str:
    """All visible text of an answer, or the arguments of its tool call."""
    return "".join(piece(script, index) for index in range(amounts.visible))


def anthropic(model: str, script: Script, amounts: Amounts) -> Said:
    """A message."""
    usage: Event = {
        "input_tokens": amounts.prompt - amounts.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": amounts.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": amounts.completion,
        "output_tokens_details": {"thinking_tokens": amounts.reasoning},
        "service_tier": "standard",
    }
    shown = text_of(script, amounts)
    block: Event = {"type": "text", "text": ""}
    content: Event = {"type": "text", "text": shown}
    if script.tool_call:
        block = {"type": "tool_use", "id": f"toolu_{_ID}", "name": "get_weather", "input": {}}
        content = {**block, "input": {"city": shown[9:-2]}}
    reason = "tool_use" if script.tool_call else "end_turn"
    body: Event = {
        "id": f"msg_{_ID}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [content],
        "stop_reason": "max_tokens" if amounts.finish_reason == "length" else reason,
        "stop_sequence": None,
        "usage": usage,
    }
    begun = {**body, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    ended: Event = {"output_tokens": amounts.completion}
    if amounts.reasoning:
        ended["output_tokens_details"] = usage["output_tokens_details"]
    delta = {"stop_reason": body["stop_reason"], "stop_sequence": None}
    said = Said(
        body,
        [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "ping"},
        ],
        _anthropic_token(script),
        [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": ended},
            {"type": "message_stop"},
        ],
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    )
    if script.fault == "missing_usage":
        del body["usage"], begun["usage"], said.closing[1]["usage"]
    return said


def _anthropic_token(script: Script) -> Callable[[str, int], Event]:
    kind, member = ("text_delta", "text")
    if script.tool_call:
        kind, member = ("input_json_delta", "partial_json")

    def token(text: str, number: int) -> Event:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, member: text}}

    return token


def responses(model: str, script: Script, amounts: Amounts, *, background: bool = False) -> Said:
    """A response; one in the background is only queued."""
    usage = {
        "input_tokens": amounts.prompt,
        "input_tokens_details": {"cached_tokens": amounts.cached, "cache_write_tokens": 0},
        "output_tokens": amounts.completion,
        "output_tokens_details": {"reasoning_tokens": amounts.reasoning},
        "total_tokens": amounts.prompt + amounts.completion,
    }
    part = {"type": "output_text", "text": text_of(script, amounts), "annotations": []}
    item: Event = {"id": f"msg_{_ID}", "type": "message", "status": "completed"}
    item |= {"role": "assistant", "content": [part]}
    if script.tool_call:
        item = {"id": f"fc_{_ID}", "type": "function_call", "status": "completed"}
        item |= {"call_id": f"call_{_ID}", "name": "get_weather", "arguments": part["text"]}
    cut = amounts.finish_reason == "length"
    status = "incomplete" if cut else "completed"
    body: Event = {
        "id": f"resp_{_ID}",
        "object": "response",
        "created_at": CREATED_S,
        "status": "queued" if background else status,
        "background": background,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [] if background else [item],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None if background or script.fault == "missing_usage" else usage,
    }
    begun = {**body, "status": "in_progress", "output": [], "usage": None}
    return Said(
        body,
        [
            {"type": "response.created", "sequence_number": 0, "response": begun},
            {
                "type": "response.output_item.added",
                "sequence_number": 1,
                "output_index": 0,
                "item": _begun_item(item),
            },
        ],
        _responses_token(script),
        [
            {
                "type": "response.output_item.done",
                "sequence_number": amounts.visible + 2,
                "output_index": 0,
                "item": item,
            },
            {
                "type": f"response.{status}",
                "sequence_number": amounts.visible + 3,
                "response": body,
            },
        ],
        {"type": "error", "sequence_number": 1, "code": "server_error", "message": "It failed."},
    )


def _begun_item(item: Event) -> Event:
    begun: Event = {"content": []} if "content" in item else {"arguments": ""}
    return {**item, "status": "in_progress", **begun}


def _responses_token(script: Script) -> Callable[[str, int], Event]:
    kind = "function_call_arguments" if script.tool_call else "output_text"

    def token(text: str, number: int) -> Event:
        event: Event = {"type": f"response.{kind}.delta", "sequence_number": number + 1}
        event |= {"item_id": f"msg_{_ID}", "output_index": 0, "delta": text}
        return event if script.tool_call else {**event, "content_index": 0, "logprobs": []}

    return token


def gemini(model: str, script: Script, amounts: Amounts) -> Said:
    """An answer; every chunk of a stream reports what was used so far."""

    def chunk(parts: list[Event], candidates: int, reason: str | None) -> Event:
        candidate: Event = {"content": {"role": "model", "parts": parts}, "index": 0}
        if reason:
            candidate["finishReason"] = reason
        usage = {
            "promptTokenCount": amounts.prompt,
            "candidatesTokenCount": candidates,
            "totalTokenCount": amounts.prompt + candidates + amounts.reasoning,
            "cachedContentTokenCount": amounts.cached,
            "thoughtsTokenCount": amounts.reasoning,
        }
        said: Event = {"candidates": [candidate], "modelVersion": model, "responseId": _ID}
        return said if script.fault == "missing_usage" else {**said, "usageMetadata": usage}

    def token(text: str, number: int) -> Event:
        return chunk([{"text": text}], number, None)

    shown = text_of(script, amounts)
    parts: list[Event] = [{"text": shown}]
    if script.tool_call:
        parts = [{"functionCall": {"name": "get_weather", "args": {"city": shown[9:-2]}}}]
    reason = "MAX_TOKENS" if amounts.finish_reason == "length" else "STOP"
    return Said(
        chunk(parts, amounts.visible, reason),
        [],
        token,
        [chunk([{"text": ""}], amounts.visible, reason)],
        {"error": {"code": 500, "message": "It failed.", "status": "INTERNAL"}},
    )


def completion(model: str, script: Script, amounts: Amounts, *, include_usage: bool) -> Said:
    """A legacy completion."""
    usage = {
        "prompt_tokens": amounts.prompt,
        "completion_tokens": amounts.completion,
        "total_tokens": amounts.prompt + amounts.completion,
        "prompt_tokens_details": {"cached_tokens": amounts.cached},
        "completion_tokens_details": {"reasoning_tokens": amounts.reasoning},
    }
    frame_of: Event = {"id": f"cmpl-{_ID}", "object": "text_completion", "created": CREATED_S}
    frame_of["model"] = model

    def token(text: str, number: int) -> Event:
        return {**frame_of, "choices": [_choice(text, None)]}

    last = {**frame_of, "choices": [_choice("", amounts.finish_reason)]}
    closing = [last, {**frame_of, "choices": [], "usage": usage}] if include_usage else [last]
    body = {**frame_of, "choices": [_choice(text_of(script, amounts), amounts.finish_reason)]}
    if script.fault != "missing_usage":
        body["usage"] = usage
    return Said(body, [], token, closing, {"error": {"message": "It failed.", "type": "server"}})


def ollama(model: str, script: Script, amounts: Amounts, *, is_chat: bool) -> Said:
    """An answer of Ollama's own API; what is done reports counts."""

    def line(text: str, **more: Any) -> Event:
        said: Event = {"model": model, "created_at": "2026-01-01T00:00:00Z"}
        if is_chat:
            said["message"] = {"role": "assistant", "content": text}
        else:
            said["response"] = text
        return {**said, "done": False, **more}

    def token(text: str, number: int) -> Event:
        return line(text)

    ended: Event = {"done": True, "done_reason": amounts.finish_reason}
    ended |= {"total_duration": 9, "load_duration": 1}
    if script.fault != "missing_usage":
        ended |= {"prompt_eval_count": amounts.prompt, "prompt_eval_duration": 3}
        ended |= {"eval_count": amounts.completion, "eval_duration": 5}
    whole, last = line(text_of(script, amounts), **ended), line("", **ended)
    return Said(whole, [], token, [last], {"error": "It failed."})


def _choice(text: str, reason: str | None) -> Event:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
