"""The bytes of Amazon Bedrock's Converse and ConverseStream. Values in, bytes out.

A stream is no server-sent events but binary frames (`application/vnd.amazon.eventstream`): two
lengths and their CRC-32, headers, a JSON payload, a CRC-32 over it all. Shapes are those of
botocore's service model `bedrock-runtime`.
"""

import struct
import zlib
from typing import Any

from loadtest.provider_chat import Amounts, encode
from loadtest.provider_dialects import DialectStream, Event, Said, text_of
from loadtest.provider_script import Script

EVENT_STREAM = b"application/vnd.amazon.eventstream"
_STRING = 7  # the type of a header's value
_LENGTHS_BYTES = 12  # two lengths and their checksum
_TOOL_ID = "tooluse_weather"


def event_frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One frame of an event stream."""
    fields = b"".join(
        struct.pack(f"!B{len(name)}sBH", len(name), name.encode(), _STRING, len(value))
        + value.encode()
        for name, value in headers.items()
    )
    lengths = struct.pack("!II", _LENGTHS_BYTES + len(fields) + len(payload) + 4, len(fields))
    start = lengths + struct.pack("!I", zlib.crc32(lengths)) + fields + payload
    return start + struct.pack("!I", zlib.crc32(start))


class BedrockStream(DialectStream):
    """A stream of binary frames; an event is a mapping of one member, its type."""

    def _event(self, event: Event) -> bytes:
        ((kind, said),) = event.items()
        what = {":message-type": "event", ":event-type": kind}
        if kind.endswith("Exception"):
            what = {":message-type": "exception", ":exception-type": kind}
        return event_frame({**what, ":content-type": "application/json"}, encode(said))


def converse(script: Script, amounts: Amounts) -> Said:
    """An answer; input that was read from the cache is not part of `inputTokens`."""
    usage: Event = {
        "inputTokens": amounts.prompt - amounts.cached,
        "outputTokens": amounts.completion,
        "totalTokens": amounts.prompt + amounts.completion,
        "cacheReadInputTokens": amounts.cached,
        "cacheWriteInputTokens": 0,
    }
    shown, metrics = text_of(script, amounts), {"latencyMs": 12}
    content: Event = {"text": shown}
    begun: list[Event] = []
    member = "text"
    if script.tool_call:
        tool = {"toolUseId": _TOOL_ID, "name": "get_weather"}
        content = {"toolUse": {**tool, "input": {"city": shown[9:-2]}}}
        begun = [{"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": tool}}}]
        member = "toolUse"
    reason = "tool_use" if script.tool_call else "end_turn"
    reason = "max_tokens" if amounts.finish_reason == "length" else reason
    body: Event = {
        "output": {"message": {"role": "assistant", "content": [content]}},
        "stopReason": reason,
        "usage": usage,
        "metrics": metrics,
    }
    metadata: Event = {"usage": usage, "metrics": metrics}
    if script.fault == "missing_usage":
        del body["usage"], metadata["usage"]

    def token(text: str, number: int) -> Event:
        said: Any = {"input": text} if script.tool_call else text
        return {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {member: said}}}

    return Said(
        body,
        [{"messageStart": {"role": "assistant"}}, *begun],
        token,
        [
            {"contentBlockStop": {"contentBlockIndex": 0}},
            {"messageStop": {"stopReason": reason}},
            {"metadata": metadata},
        ],
        {"internalServerException": {"message": "It failed."}},
    )
