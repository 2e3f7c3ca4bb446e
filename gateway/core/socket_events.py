"""The events of a metered WebSocket, as far as a budget has to read them: JSON objects as text.

Sources: `docs/wire.md`, WebSocket mode of the Responses API and the Realtime API. A client's event
that cannot be read for sure is refused, for the provider could read another than was budgeted; one
of the provider's that cannot be read is relayed all the same.
"""

from typing import Any

import msgspec

from gateway.core.dialects.openai_realtime import OPENAI_REALTIME
from gateway.core.dialects.openai_responses import OPENAI_RESPONSES
from gateway.core.dialects.wire_format import WireFormat, read_body
from gateway.core.errors import BadCall
from gateway.core.identity import Dialect

CREATE = "response.create"
CREATED = "response.created"
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
TERMINAL = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.done"}
)

SOCKET_FORMATS: dict[Dialect, WireFormat] = {
    Dialect.OPENAI_RESPONSES: OPENAI_RESPONSES,
    Dialect.OPENAI_REALTIME: OPENAI_REALTIME,
}


class ClientEvent(msgspec.Struct, frozen=True):
    """A client's event. `stream_id` names the lane of a run, `event_id` the event itself."""

    type: str
    stream_id: Any = None
    event_id: Any = None


class _Identified(msgspec.Struct, frozen=True):
    id: str | None = None


class _Error(msgspec.Struct, frozen=True):
    event_id: Any = None


class ServerEvent(msgspec.Struct, frozen=True):
    """A provider's event, as far as it says of which response it speaks."""

    type: str
    stream_id: Any = None
    response_id: str | None = None
    response: _Identified | None = None
    error: _Error | None = None

    @property
    def of_response(self) -> str:
        """Return the id of the response that this speaks of; empty if it names none."""
        return self.response_id or (self.response.id if self.response else "") or ""


_decode_client = msgspec.json.Decoder(ClientEvent).decode
_decode_server = msgspec.json.Decoder(ServerEvent).decode
_decode_plain = msgspec.json.Decoder(dict[str, Any]).decode


def read_client_event(message: str | bytes) -> ClientEvent:
    """Return a client's event. Raises BadCall (`invalid_body`) for what is none for sure."""
    if isinstance(message, bytes):
        raise BadCall("invalid_body", "Events are JSON objects in text messages, not binary ones.")
    return read_body(_decode_client, message.encode(), (b"type", b"stream_id", b"event_id"))


def read_server_event(data: bytes) -> ServerEvent | None:
    """Return a provider's event; None if it cannot be read. Never raises."""
    try:
        return _decode_server(data)
    except (ValueError, RecursionError):
        return None


def session_models(data: bytes) -> tuple[str, str]:
    """Return a session's model and its transcription's, empty where it does not say."""
    try:
        session = _decode_plain(data).get("session")
    except (ValueError, RecursionError):
        return "", ""
    audio_in = _member(_member(session, "audio"), "input")
    transcription = _member(audio_in, "transcription") or _member(
        session, "input_audio_transcription"
    )
    models = _member(session, "model"), _member(transcription, "model")
    return tuple(name if isinstance(name, str) else "" for name in models)  # type: ignore[return-value]


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def error_event(answer_body: bytes, status: int, event: ClientEvent | None) -> str:
    """Return a refusal as an event, from the body of the HTTP answer that it would be.

    It has both shapes that clients read: `error.{type,code,message,param}`, as the APIs send it
    over a WebSocket, and the same members beside `type`, as a stream's `error` event has them.
    """
    said = _decode_plain(answer_body)
    error = said["error"]
    if event is not None and event.event_id is not None:
        error["event_id"] = event.event_id
    said |= {
        "event_id": f"event_{said['request_id']}",
        "status": status,
        "code": error.get("code"),
        "message": error.get("message"),
        "param": None,
        "sequence_number": 0,
        "headers": {"x-should-retry": "true" if status in _RETRYABLE else "false"},
    }
    if event is not None and event.stream_id is not None:
        said["stream_id"] = event.stream_id
    return msgspec.json.encode(said).decode()


_RETRYABLE = frozenset({429, 503})
