"""Chat Completions answers as OpenAI words them, from litellm's.

Its additions are left out, above all `usage.cost`: that is a price of its own, zero for a model
that it does not know, and would be taken for what the provider says that it charged.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"

_FRAME = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
_SAID = ("role", "content", "refusal", "reasoning_content", "thinking_blocks", "tool_calls")
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_INPUT_DETAILS = ("cached_tokens", "cache_write_tokens", "audio_tokens")
_OUTPUT_DETAILS = ("reasoning_tokens", "audio_tokens")


def chat_body(answer: Json) -> Json:
    """Return a whole answer."""
    body: Json = _frame_of(answer)
    body["choices"] = [
        {
            "index": choice.get("index", 0),
            "message": _message(choice.get("message") or {}),
            "logprobs": choice.get("logprobs"),
            "finish_reason": choice.get("finish_reason") or "stop",
        }
        for choice in answer.get("choices") or ()
    ]
    return {**body, "usage": usage} if (usage := usage_of(answer)) else body


def chat_events(chunk: Json, *, with_usage: bool) -> Iterator[bytes]:
    """Yield the events for one of litellm's chunks: what is said, and its usage in one of its own.

    litellm's chunk with the usage has an empty choice, OpenAI's has none.
    """
    choices = [
        {
            "index": choice.get("index", 0),
            "delta": delta,
            "logprobs": choice.get("logprobs"),
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in chunk.get("choices") or ()
        if (delta := _said(choice.get("delta") or {})) or choice.get("finish_reason")
    ]
    if choices:
        yield event({**_frame_of(chunk), "choices": choices})
    if with_usage and (usage := usage_of(chunk)):
        yield event({**_frame_of(chunk), "choices": [], "usage": usage})


def event(said: Json) -> bytes:
    """Return a server-sent event."""
    return b"data: %b\n\n" % msgspec.json.encode(said)


def usage_of(answer: Json) -> Json | None:
    """Return the counts that a provider reported, None if it did not.

    With its token counter off, litellm fills in zeros where there are none.
    """
    usage = answer.get("usage") or {}
    counts: Json = _counts(usage, _COUNTS)
    if not any(counts.values()):
        return None
    into, out = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    details = _counts(into or {}, _INPUT_DETAILS)
    written = (into or {}).get("cache_creation_tokens")
    if written and not details.get("cache_write_tokens"):
        details["cache_write_tokens"] = written
    counts["prompt_tokens_details"] = details
    counts["completion_tokens_details"] = _counts(out or {}, _OUTPUT_DETAILS)
    return counts


def _counts(found: Json, names: tuple[str, ...]) -> Json:
    return {name: found[name] for name in names if isinstance(found.get(name), int)}


def _frame_of(answer: Json) -> Json:
    return {name: answer[name] for name in _FRAME if answer.get(name) is not None}


def _said(delta: Json) -> Json:
    return {name: delta[name] for name in _SAID if delta.get(name) not in (None, [])}


def _message(message: Json) -> Json:
    return {"role": "assistant", "content": None, "refusal": None, **_said(message)}
