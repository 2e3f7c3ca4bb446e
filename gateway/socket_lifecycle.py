"""The way of a WebSocket, top to bottom: every response on it is a call with a budget of its own.

`carry` opens the provider's socket, accepts the client's, and relays messages both ways until one
of them closes. A `response.create` is held until it is whole, read, reserved and decided, and then
goes on; each response is settled once, by the event that ends it: that is `socket_session`. How a
call is reserved and settled is in `metering`, as for HTTP. With reasons: `docs/websocket.md`.
"""

from msgspec import structs

from gateway.call import Call
from gateway.core.configuration import DataPlane
from gateway.core.decision import Decision, Outcome
from gateway.core.dialects.wire_format import ModelRequest
from gateway.core.errors import BadCall, CallError
from gateway.core.headers import request_headers
from gateway.core.identity import Dialect, ErrorShape, Route, deployments_of
from gateway.core.keys import without_keys
from gateway.frames import INTERNAL
from gateway.metering import Metering
from gateway.ports import (
    Answer,
    ClientEnd,
    Doors,
    OpenedSocket,
    Request,
    SocketUpstreams,
)
from gateway.socket_session import FAILED, Session, model_of
from gateway.trace import Trace, head_lines, record_of


class SocketLifecycle:
    """Carries WebSockets. One a worker."""

    def __init__(
        self, plane: DataPlane, metering: Metering, doors: Doors, upstreams: SocketUpstreams
    ) -> None:
        self._plane = plane
        self._metering = metering
        self._doors = doors
        self._upstreams = upstreams

    async def carry(self, request: Request, client: ClientEnd) -> None:
        """Carry a socket from its handshake until its last response is settled. Never raises."""
        planner = self._metering.planner
        trace = Trace(self._doors.new_call_id(), request, planner.rules.policies.policy_hash)
        trace.is_tracked = self._plane.tracking
        try:
            tags, route = await self._metering.callers.identify(trace, planner)
            trace.route = route = _socket_route(route)
            call = Call(
                trace.call_id,
                request,
                tags,
                route,
                _asked_of(route),
                key=trace.key,
                tenant=self._plane.tenant,
            )
            await self._metering.check_socket(trace, call, planner)
            opened = await self._open(trace, route)
            if isinstance(opened, Answer):
                self._answer(trace, opened, client)
            else:
                trace.decision = Decision(Outcome.ALLOW)
                session = Session(trace, client, opened.socket, self._plane, self._metering)
                await session.carry(self._doors, opened, head_lines(trace))
        except CallError as error:
            self._refuse(trace, error.code, error.message, client)
        except Exception as error:  # a socket's life ends here: say so, cut what is open, go on
            self._doors.recorder.event(
                "internal_error", "error", call_id=trace.call_id, error=repr(error)
            )
            self._refuse(trace, "internal_error", FAILED, client)

    async def _open(self, trace: Trace, route: Route) -> OpenedSocket | Answer:
        """Open the provider's socket with the client's headers; or return its refusal."""
        upstream = self._plane.upstreams[route.upstream]
        headers = request_headers(
            trace.request.headers, forward_tags=upstream.forward_tags, metered=True
        )
        if trace.key is not None:
            headers = without_keys(headers)
        target, headers = self._metering.routing.outgoing(route, headers)
        return await self._upstreams.open_socket(route.upstream, target, headers)

    def _refuse(self, trace: Trace, code: str, message: str, client: ClientEnd) -> None:
        """Answer a handshake in our own words; a socket that is open is closed instead."""
        trace.code = code
        shape = trace.route.error_shape if trace.route else ErrorShape.OPENAI_ANTHROPIC
        self._answer(trace, self._doors.wording.answer(code, message, shape, trace.call_id), client)

    def _answer(self, trace: Trace, answer: Answer, client: ClientEnd) -> None:
        """Answer a handshake with HTTP: nothing was opened that could cost anything."""
        trace.status = answer.status
        if client.is_open:
            client.close(INTERNAL, FAILED)
        else:
            client.refuse(answer, head_lines(trace))
        self._doors.recorder.call(record_of(trace, self._plane.tenant, self._doors.clock()))


def _asked_of(route: Route) -> ModelRequest | None:
    """Return what a handshake asks for; None if it names no model."""
    model = model_of(route.target)
    return ModelRequest(model) if model or deployments_of(route.target) else None


def _socket_route(route: Route) -> Route:
    """Return a route with its dialect over a WebSocket.

    Raises BadCall for one that has none: what is not metered here is not relayed.
    """
    path = route.target.partition(b"?")[0].rstrip(b"/")
    if path.endswith(b"/realtime"):
        return structs.replace(route, dialect=Dialect.OPENAI_REALTIME)
    if path.endswith(b"/responses"):
        return structs.replace(route, dialect=Dialect.OPENAI_RESPONSES)
    raise BadCall("unknown_route", "WebSockets are relayed for .../responses and .../realtime.")
