"""The fake provider over WebSockets: `/v1/responses` and `/v1/realtime`, played from the script.

It speaks for itself (RFC 6455 by wsproto), so that the gateway's own framing is not tested against
itself only in name. Every response has an entry in the provider's journal.
"""

import asyncio
import base64
import hashlib
import json
from typing import Any, Protocol

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from loadtest.provider_chat import SLOT, Amounts, ChatShape, encode, measure
from loadtest.provider_dialects import responses
from loadtest.provider_journal import Received, Served
from loadtest.provider_script import Script
from loadtest.provider_tokens import count_chat

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SOCKET_ROUTES = ("/v1/responses", "/v1/realtime")
Event = dict[str, Any]


class SocketService(Protocol):
    """What a socket needs from the provider."""

    def begin_run(self, path: str, event: Event, handshake: Received) -> tuple[Served, Script]:
        """Note a response in the journal; return its entry and its script."""

    def ended(self, served: Served) -> None:
        """Note that an entry is final."""


def handshake_answer(request: Received) -> bytes:
    """The head that accepts a handshake; the first subprotocol is taken."""
    key = request.header(b"sec-websocket-key") or b""
    token = base64.b64encode(hashlib.sha1(key + _GUID).digest())  # noqa: S324  # as RFC 6455 has it
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += b"Sec-WebSocket-Accept: %b\r\nx-request-id: req_socket\r\n" % token
    wanted = request.header(b"sec-websocket-protocol")
    if wanted:
        head += b"Sec-WebSocket-Protocol: %b\r\n" % wanted.split(b",")[0].strip()
    return head + b"\r\n"


class ProviderSocket:
    """One socket: events in, events out. Runs are tasks of their own, so that they interleave."""

    def __init__(
        self, service: SocketService, transport: asyncio.Transport, request: Received
    ) -> None:
        """Accept the handshake."""
        self._service = service
        self._transport = transport
        self._request = request
        self._frames = Connection(ConnectionType.SERVER)
        self._runs: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self.is_realtime = request.path.endswith("/realtime")
        self.messages: list[str | bytes] = []
        self._pieces: list[str | bytes] = []
        transport.write(handshake_answer(request))
        if self.is_realtime:
            self._say({"type": "session.created", "session": {"model": self._model({})}})

    # Frames...

    def data_received(self, data: bytes) -> None:
        """Take events."""
        self._frames.receive_data(data)
        for event in self._frames.events():
            if isinstance(event, TextMessage | BytesMessage):
                piece: str | bytes = (
                    event.data if isinstance(event.data, str) else bytes(event.data)
                )
                self._pieces.append(piece)
                if event.message_finished:
                    empty: str | bytes = "" if isinstance(piece, str) else b""
                    message = empty.join(self._pieces)  # type: ignore[arg-type]  # of one type
                    self._pieces = []
                    self.messages.append(message)
                    self._take(message)
            elif isinstance(event, Ping):
                self._transport.write(self._frames.send(event.response()))
            elif isinstance(event, CloseConnection):
                if self._frames.state is ConnectionState.REMOTE_CLOSING:
                    self._transport.write(self._frames.send(event.response()))
                self._transport.close()

    def lost(self) -> None:
        """Stop what is generated: the client is gone."""
        for run in list(self._runs):
            run.cancel()

    def _say(self, event: Event) -> None:
        if self._frames.state is ConnectionState.OPEN and not self._transport.is_closing():
            self._transport.write(self._frames.send(TextMessage(data=json.dumps(event))))

    # Events...

    def _take(self, message: str | bytes) -> None:
        try:
            event = json.loads(message)
        except ValueError:
            self._say({"type": "error", "error": {"message": "not JSON"}})
            return
        match event.get("type"):
            case "response.create":
                self._run(event)
            case "response.steer":  # the successor comes by itself
                self._run({"model": event.get("model", "gpt-5.6"), "input": "steered"})
            case "input_audio_buffer.commit":
                self._transcribe()
                self._run({})
            case "fake.close":
                self._close(event.get("code", 1000), event.get("reason", ""))
            case "fake.cut":
                self._transport.abort()
            case "fake.ping":
                self._transport.write(self._frames.send(Ping(payload=b"?")))
            case kind:
                self._say(_echo(kind, event))

    def _close(self, code: int, reason: str) -> None:
        self._transport.write(self._frames.send(CloseConnection(code=code, reason=reason)))

    def _run(self, event: Event) -> None:
        task = asyncio.get_running_loop().create_task(self._play(event))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)

    def _model(self, event: Event) -> str:
        query = self._request.target.partition("model=")[2].partition("&")[0]
        return event.get("model") or query or "gpt-realtime"

    async def _play(self, event: Event) -> None:
        served, script = self._service.begin_run(self._request.path, event, self._request)
        served.model, served.stream = self._model(event), True
        try:
            await self._play_run(event, served, script)
        except asyncio.CancelledError:
            served.aborted = True
            raise
        finally:
            self._service.ended(served)

    async def _play_run(self, event: Event, served: Served, script: Script) -> None:
        lane: Event = {"stream_id": event["stream_id"]} if "stream_id" in event else {}
        if script.broken.kind == "status":
            self._fail(event, served, script, lane)
            return
        served.status = 200
        self._numbers += 1
        ident = f"{served.number}x{self._numbers}"
        amounts = _measured(event, served, script)
        served.prompt_tokens, served.cached_tokens = amounts.prompt, amounts.cached
        served.reasoning_tokens = amounts.reasoning
        if self.is_realtime:
            opening, token, closing = _realtime_events(ident, amounts, script)
        else:
            said = responses(served.model, script, amounts)
            opening, token, closing = said.opening, said.token, said.closing
        served.completion_tokens = amounts.reasoning
        for each in opening:
            self._say_of(ident, {**each, **lane})
        stop = script.broken.number if script.broken.kind in ("cut", "hang") else None
        for number in range(amounts.visible):
            if number == stop:
                if script.broken.kind == "hang":
                    await asyncio.Event().wait()
                self._transport.abort()
                return
            await asyncio.sleep(script.chunk_delay_ms / 1000)
            served.completion_tokens += 1
            self._say_of(ident, {**token("word ", number + 1), **lane})
        served.completion_tokens = amounts.completion
        for each in closing:
            self._say_of(ident, {**each, **lane})
        served.usage_sent = script.fault != "missing_usage"
        served.finished = True

    def _fail(self, event: Event, served: Served, script: Script, lane: Event) -> None:
        served.status = script.broken.number or 500
        error = {"type": "invalid_request_error", "code": "bad", "message": "It failed."}
        if "event_id" in event:
            error["event_id"] = event["event_id"]
        self._say({"type": "error", "status": served.status, "error": error, **lane})

    def _say_of(self, ident: str, event: Event) -> None:
        if self._frames.state is ConnectionState.OPEN and not self._transport.is_closing():
            text = encode(event).replace(SLOT, ident.encode()).decode()
            self._transport.write(self._frames.send(TextMessage(data=text)))

    def _transcribe(self) -> None:
        served, _ = self._service.begin_run(self._request.path, {}, self._request)
        served.status, served.model = 200, "gpt-transcribe"
        served.prompt_tokens, served.completion_tokens = 11, 5
        served.usage_sent = served.finished = True
        usage = {"type": "tokens", "input_tokens": 11, "output_tokens": 5, "total_tokens": 16}
        kind = "conversation.item.input_audio_transcription.completed"
        said = {"event_id": "e", "item_id": "i", "content_index": 0, "transcript": "hello"}
        self._say({"type": kind, **said, "usage": usage})
        self._service.ended(served)


def _echo(kind: str, event: Event) -> Event:
    if kind == "session.update":
        return {"type": "session.updated", "session": event["session"]}
    return {"type": "echo", "of": kind, "event": event}


def _measured(event: Event, served: Served, script: Script) -> Amounts:
    wanted = event.get("response") or event
    limit = wanted.get("max_output_tokens")
    prompt = script.prompt_tokens
    if prompt is None:
        prompt = count_chat([{"content": json.dumps(event.get("input", ""))}], None)
    shape = ChatShape(
        served.model,
        choices=1,
        limit_tokens=limit if isinstance(limit, int) else None,
        include_usage=False,
    )
    return measure(shape, script, prompt)


def _realtime_events(
    ident: str, amounts: Amounts, script: Script
) -> tuple[list[Event], Any, list[Event]]:
    usage: Event = {
        "input_tokens": amounts.prompt,
        "output_tokens": amounts.completion,
        "total_tokens": amounts.prompt + amounts.completion,
        "input_token_details": {"cached_tokens": amounts.cached},
        "output_token_details": {"text_tokens": amounts.completion},
    }
    named = {"object": "realtime.response", "id": f"resp_{ident}", "output": []}
    created: Event = {"type": "response.created", "event_id": "e1"}
    created |= {"response": {**named, "status": "in_progress"}}
    done: Event = {"type": "response.done", "event_id": "e2"}
    done["response"] = {
        **named,
        "status": "completed",
        "usage": None if script.fault == "missing_usage" else usage,
    }

    def token(text: str, number: int) -> Event:
        event: Event = {"type": "response.output_text.delta", "event_id": f"d{number}"}
        event |= {"response_id": f"resp_{ident}", "item_id": "i", "delta": text}
        return {**event, "output_index": 0, "content_index": 0}

    return [created], token, [done]
