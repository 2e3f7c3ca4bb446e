"""One open WebSocket: messages both ways, and the responses that run on it.

The provider's messages go on as they come; the client's are taken one by one, since one that
begins a response waits for its reserve. How a call is reserved and settled is in `metering`.
"""

import asyncio
import re
from collections import deque
from urllib.parse import parse_qs

from msgspec import structs

from gateway.call import Call
from gateway.core.configuration import DataPlane
from gateway.core.decision import Decision, Outcome
from gateway.core.dialects.wire_format import ModelRequest, edited_body
from gateway.core.errors import BadCall, CallError, UpstreamError
from gateway.core.socket_events import (
    CREATE,
    SOCKET_FORMATS,
    TRANSCRIBED,
    ClientEvent,
    error_event,
    read_client_event,
    read_server_event,
    session_models,
)
from gateway.frames import GOING_AWAY, INTERNAL, LOST, POLICY, sendable
from gateway.metering import Metering
from gateway.planner import Plan, Planner
from gateway.ports import (
    ClientEnd,
    Doors,
    OpenedSocket,
    Request,
    Socket,
)
from gateway.socket_run import Run, Runs
from gateway.trace import Trace, record_of

# Refusals of whatever could be asked on this socket, for they are about its handshake.
_HOLDS_FOR_ALL = frozenset(
    {"invalid_key", "invalid_tag", "forbidden_tag", "forbidden_upstream", "tags_required"}
)
_MOST_WAITING = 16  # messages of a client that wait for a reserve
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
FAILED = "The gateway failed."


class Session:
    """One open socket: messages both ways, and the responses that run on it."""

    def __init__(
        self,
        handshake: Trace,
        client: ClientEnd,
        provider: Socket,
        plane: DataPlane,
        metering: Metering,
    ) -> None:
        if handshake.route is None:
            raise ValueError("a session has a route")
        self._handshake = handshake
        self._route = handshake.route
        self._wire = SOCKET_FORMATS[self._route.dialect]
        self._client = client
        self._provider = provider
        self._plane = plane
        self._metering = metering
        self._runs = Runs(self._wire, self._begin_unasked)
        self._named = model_of(self._route.target)
        self._model = self._named
        self._transcription = ""
        self._inbox: deque[str | bytes] = deque()
        self._wake = asyncio.Event()
        self._over = False
        self._parting: tuple[int, str] | None = None
        self._leaving = False

    async def carry(self, doors: Doors, opened: OpenedSocket, lines: str) -> None:
        """Accept the client, relay until either end closes, then settle what was open."""
        self._doors = doors
        async with asyncio.TaskGroup() as self._calls:
            self._client.attach(_FromClient(self))
            self._client.accept(opened.headers, lines)
            self._provider.attach(_FromProvider(self))
            try:
                while (message := await self._next()) is not None:
                    await self._forward(message)
            finally:
                self._end(INTERNAL, FAILED)  # nothing, if it has ended

    # From the client ----------------------------------------------------------------------------

    async def _next(self) -> str | bytes | None:
        """Return the client's next message; None when the socket is over."""
        while not self._inbox and not self._over:
            self._wake.clear()
            await self._wake.wait()
        if self._over:
            return None
        message = self._inbox.popleft()
        if len(self._inbox) == _MOST_WAITING - 1:
            self._client.resume()
        return message

    def take(self, message: str | bytes) -> None:
        """Keep a message of the client until those before it have gone on."""
        self._inbox.append(message)
        self._wake.set()
        if len(self._inbox) >= _MOST_WAITING:
            self._client.pause()

    async def _forward(self, message: str | bytes) -> None:
        """Send a message on; one that begins a response only if its budget allows it."""
        if not self._plane.tracking:
            self._provider.send(message)
            return
        try:
            event = read_client_event(message)
        except BadCall as error:
            self._tell(self._new_trace(b""), error.code, error.message, None)
            return
        if event.type == CREATE:
            await self._create(event, str(message).encode())
        else:
            self._provider.send(message)

    async def _create(self, event: ClientEvent, body: bytes) -> None:
        """Plan, reserve, decide; then forward the event, or answer it with a refusal."""
        planner, trace = self._metering.planner, self._new_trace(body)
        try:
            if self._leaving:
                raise CallError("gateway_overloaded", "The gateway is shutting down.")
            asked = self._wire.read(body, self._route.target)
            model = asked.model or self._model
            call = self._call(trace, structs.replace(asked, model=model, stream=True))
            plan = await self._reserve(trace, call, planner)
            call, decision = trace.call or call, trace.decision  # perhaps with a cheaper model
            if plan is None or decision is None or self._over:
                return
            if decision.refuses:
                self._tell(trace, decision.code, decision.message, event)
                if not decision.retryable:
                    self._part(POLICY, f"{decision.code}: {decision.message}")
                return
            self._model = model
            run = trace.relay = Run(trace, event, self._doors.clock)
            run.sent = True
            self._runs.expect(run, event)
            self._calls.create_task(self._finish(run, call, plan, planner))
            edited = edited_body(
                self._wire, call.request.body, asked, ask_usage=False, clamp=decision.clamp
            )
            self._provider.send(edited.decode())
        except CallError as error:
            self._turn_away(trace, error, event)
        except Exception as error:
            self._failed(trace, error)
            self._tell(trace, "internal_error", FAILED, event)
        finally:
            if trace.relay is None:
                await self._metering.release_unsent(trace)
                self._record(trace)

    async def _reserve(self, trace: Trace, call: Call, planner: Planner) -> Plan | None:
        if call.asked is None:
            return None
        plan, receipt = await self._metering.reserve(trace, call, call.asked, planner)
        self._metering.decide(trace, plan, receipt)
        return plan

    def _new_trace(self, body: bytes) -> Trace:
        """Return the trace of a call on this socket: its task and route are the handshake's."""
        asked = self._handshake.request
        request = Request(asked.method, asked.target, asked.headers, body, self._doors.clock())
        rules = self._metering.planner.rules
        trace = Trace(self._doors.new_call_id(), request, rules.policies.policy_hash)
        trace.tags, trace.route = self._handshake.tags, self._route
        trace.key = self._handshake.key
        return trace

    def _call(self, trace: Trace, asked: ModelRequest) -> Call:
        call = trace.call = Call(
            trace.call_id,
            trace.request,
            trace.tags,
            self._route,
            asked,
            self._wire,
            trace.key,
            tenant=self._plane.tenant,
        )
        return call

    # From the provider --------------------------------------------------------------------------

    def relay(self, message: str | bytes) -> None:
        """Send a message of the provider on, and read a copy of it."""
        self._client.send(message)
        if not self._plane.tracking:
            return
        try:
            self._read(message.encode() if isinstance(message, str) else message)
        except Exception as error:  # metering never hurts the relay
            self._failed(self._handshake, error)

    def _read(self, data: bytes) -> None:
        event = read_server_event(data)
        if event is None:
            return
        if event.type.startswith("session."):
            model, transcription = session_models(data)
            self._model = self._asked_as(model) or self._model
            self._transcription = transcription or self._transcription
        elif event.type == TRANSCRIBED:
            run = self._begin_unasked(self._transcription)
            run.note(self._wire, data)
            run.end()
        else:
            self._runs.note(event, data)

    def _asked_as(self, model: str) -> str:
        """Return a session's model as the handshake named it, if this is a snapshot of that.

        Keys, policies and prices speak of the name that was asked for, as they do over HTTP.
        """
        name, _, dated = model.rpartition(f"{self._named}-")
        return self._named if self._named and not name and _DATE.fullmatch(dated) else model

    def _begin_unasked(self, model: str = "") -> Run:
        """Begin to meter what runs already: nothing that the provider bills goes by uncounted."""
        trace = self._new_trace(b"{}")
        run = trace.relay = Run(trace, None, self._doors.clock)
        run.sent = True
        asked = ModelRequest(model or self._model, stream=True, is_open=True, takes_limit=False)
        self._calls.create_task(self._carry_unasked(run, self._call(trace, asked), asked))
        return run

    async def _carry_unasked(self, run: Run, call: Call, asked: ModelRequest) -> None:
        """Reserve for a response that nobody asked for; one too many ends the socket."""
        planner, trace = self._metering.planner, run.trace
        try:
            await self._reserve(trace, call, planner)
        except CallError as error:
            self._end_unasked(trace, error.code, error.message)
        except Exception as error:
            self._failed(trace, error)
        plan, decision = trace.plan, trace.decision
        if plan is None:  # turned away before it was asked for: it is charged all the same
            call, plan = await self._metering.plan_charge(trace, call, asked, planner)
        if decision is None:
            trace.decision = Decision(Outcome.FLAG)
        elif decision.refuses:
            self._end_unasked(trace, decision.code, decision.message)
            # It is charged all the same, under an id that was not refused.
            trace.decision = structs.replace(decision, outcome=Outcome.FLAG)
            trace.call_id = self._doors.new_call_id()
            call = trace.call = structs.replace(call, call_id=trace.call_id)
            reserve = structs.replace(plan.reserve, call_id=trace.call_id)
            plan = trace.plan = structs.replace(plan, reserve=reserve)
        await self._finish(run, call, plan, planner)

    def _end_unasked(self, trace: Trace, code: str, message: str) -> None:
        self._tell(trace, code, message, None)
        self._end(POLICY, f"{code}: {message}")

    async def _finish(self, run: Run, call: Call, plan: Plan, planner: Planner) -> None:
        """Settle a response once it has ended, exactly once, whatever happened."""
        trace = run.trace
        self._metering.open(call.call_id, plan, run)
        try:
            await run.done
            trace.status = trace.status or run.status
            await self._metering.settle(trace, call, plan, run, planner)
        except Exception as error:
            self._failed(trace, error)
        finally:
            self._metering.end(call.call_id)
            self._record(trace)
            self._part_if_idle()

    # Refusals, and the end ----------------------------------------------------------------------

    def _tell(self, trace: Trace, code: str, message: str, event: ClientEvent | None) -> None:
        """Send an error event: the client reads it before any close."""
        answer = self._doors.wording.answer(
            code, message, self._route.error_shape, trace.call_id, task=trace.tags.task or ""
        )
        trace.code, trace.status = code, answer.status
        self._client.send(error_event(answer.body, answer.status, event))

    def _turn_away(self, trace: Trace, error: CallError, event: ClientEvent) -> None:
        """Answer a call that has come to no decision; close if no other could."""
        self._tell(trace, error.code, error.message, event)
        if error.code in _HOLDS_FOR_ALL:
            self._part(POLICY, f"{error.code}: {error.message}")

    def leave(self) -> None:
        """Shut down: begin nothing more, close when what is open has ended."""
        self._leaving = True
        self._part(GOING_AWAY, "The gateway is shutting down.")

    def _part(self, code: int, reason: str) -> None:
        """Close as soon as no response is open."""
        self._parting = self._parting or (code, reason)
        self._part_if_idle()

    def _part_if_idle(self) -> None:
        if self._parting is not None and not self._runs.open:
            self._end(*self._parting)

    def _end(self, code: int, reason: str) -> None:
        """Close both ends; responses that are open are charged by what was seen."""
        if not self._over:
            self._finish_socket()
            self._client.close(code, reason)
            self._provider.close(GOING_AWAY, "")
            self._runs.end_all(UpstreamError("upstream_broken", reason, sent=True))

    def client_closed(self, code: int, reason: str) -> None:
        """Pass the client's close on: on this API that stops what it has running."""
        if not self._over:
            self._finish_socket()
            self._provider.close(sendable(code), reason)
            self._runs.end_all(client_left=True)

    def provider_closed(self, code: int, reason: str) -> None:
        """Pass the provider's close on."""
        if not self._over:
            self._finish_socket()
            lost = code == LOST
            self._client.close(
                INTERNAL if lost else code, "The provider is gone." if lost else reason
            )
            self._runs.end_all(UpstreamError("upstream_broken", "the provider closed", sent=True))

    def _finish_socket(self) -> None:
        self._over = True
        self._wake.set()

    def hold(self, end: str, *, slow: bool) -> None:
        """Read no more from the other end while `end` does not read."""
        other = self._provider if end == "client" else self._client
        if slow:
            other.pause()
        elif end == "client" or len(self._inbox) < _MOST_WAITING:
            other.resume()

    def _failed(self, trace: Trace, error: Exception) -> None:
        self._doors.recorder.event(
            "internal_error", "error", call_id=trace.call_id, error=repr(error)
        )

    def _record(self, trace: Trace) -> None:
        self._doors.recorder.call(record_of(trace, self._plane.tenant, self._doors.clock()))


class _FromClient:
    """ports.SocketSink of the client's end."""

    def __init__(self, session: Session) -> None:
        self.on_message = session.take
        self.on_close = session.client_closed
        self.on_leaving = session.leave
        self._hold = session.hold

    def on_slow(self) -> None:
        self._hold("client", slow=True)

    def on_caught_up(self) -> None:
        self._hold("client", slow=False)


class _FromProvider:
    """ports.SocketSink of the provider's end."""

    def __init__(self, session: Session) -> None:
        self.on_message = session.relay
        self.on_close = session.provider_closed
        self._hold = session.hold

    def on_leaving(self) -> None:
        """Take no note: only clients are told to leave."""

    def on_slow(self) -> None:
        self._hold("provider", slow=True)

    def on_caught_up(self) -> None:
        self._hold("provider", slow=False)


def model_of(target: bytes) -> str:
    """Return the model that a handshake names: a realtime session has one."""
    query = target.partition(b"?")[2].decode("latin-1")
    return parse_qs(query).get("model", [""])[0][:256]
