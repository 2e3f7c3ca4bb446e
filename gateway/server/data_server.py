"""The data plane's listener: accepts clients, sweeps out the slow, drains at the end."""

import asyncio
import socket
import ssl
from contextlib import suppress

from gateway.core.configuration import DataPlane
from gateway.core.identity import ErrorShape
from gateway.ports import Answer, Clock, NewCallId, Recorder
from gateway.server.http1 import Carry, ClientConnection
from gateway.server.limits import Guest, Shared
from gateway.server.listener import take_queued
from gateway.server.refusals import Refusals
from gateway.server.websocket import CarrySocket

_SWEEP_S = 1.0
_WATCH_S = 0.1
_BACKLOG = 1_024
_HANDSHAKE_S = 10.0
_LOOK_S = 0.02


class DataServer:
    """Serves one inherited listening socket, over TLS if there is a context for it."""

    def __init__(
        self,
        plane: DataPlane,
        carry: Carry,
        refusals: Refusals,
        recorder: Recorder,
        clock: Clock,
        new_call_id: NewCallId,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._carry_socket: CarrySocket | None = None
        self._tls = tls
        self._carry = carry
        self._refusals = refusals
        self._recorder = recorder
        self._clock = clock
        self._new_call_id = new_call_id
        self._drain_s = plane.drain_ms / 1000
        self._drain_idle_s = plane.drain_idle_ms / 1000
        self._shared = Shared(plane)
        self._watch = LoopWatch(self._shared, plane.max_loop_lag_ms / 1000, clock, recorder)
        self._server: asyncio.Server | None = None
        self._listener: socket.socket | None = None
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        """Return how many clients are connected."""
        return len(self._shared.guests)

    @property
    def body_bytes_in_flight(self) -> int:
        """Return how many bytes of request bodies are held."""
        return self._shared.room.used

    def _connection(self) -> ClientConnection:
        return ClientConnection(
            self._carry, self._refuse, self._clock, self._shared, self._carry_socket
        )

    def _refuse(self, code: str, message: str) -> tuple[Answer, str]:
        """Word the answer to a request that cannot be carried, with the lines of its head."""
        call_id = self._new_call_id()
        self._recorder.event("request_refused", "warning", call_id=call_id, code=code)
        answer = self._refusals.answer(code, message, ErrorShape.OPENAI_ANTHROPIC, call_id)
        lines = (
            f"x-tollgate-call-id: {call_id}\r\nx-tollgate-decision: refuse\r\n"
            "x-tollgate-task: -\r\nx-tollgate-phase: -\r\n"
        )
        return answer, lines

    def take_sockets(self, carry_socket: CarrySocket) -> None:
        """Have WebSockets carried; without that, a handshake is refused."""
        self._carry_socket = carry_socket

    async def start(self, listener: socket.socket) -> None:
        """Accept clients from `listener`."""
        loop = asyncio.get_running_loop()
        self._listener = listener
        self._server = await loop.create_server(
            self._connection,
            sock=listener,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=_HANDSHAKE_S if self._tls else None,
        )
        self._sweep = loop.call_later(_SWEEP_S, self._sweep_out)
        self._watch.start()

    def _sweep_out(self) -> None:
        """Hold all connections to their deadlines."""
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep_out)
        now, shared, event = self._clock(), self._shared, self._recorder.event
        for guest in list(shared.guests):
            guest.check_deadlines(now)
        if shared.connections_cut:
            event("clients_cut", "warning", number=shared.connections_cut)
            shared.connections_cut = 0
        if shared.connections_refused:
            event("connections_refused", "warning", number=shared.connections_refused)
            shared.connections_refused = 0

    async def drain(self) -> None:
        """Accept no more, let open calls finish within `drain_ms`, then cut the rest.

        A client may send a request in the moment in which its idle connection is closed; it could
        not know whether that was carried. So a connection is closed only behind an answer that said
        `connection: close`, or when it has been idle for `drain_idle_ms` since the drain began.
        """
        clock, idle_since = asyncio.get_running_loop().time, dict[Guest, float]()
        deadline = clock() + self._drain_s
        await self._stop_listening()
        while self.open_connections and (now := clock()) < deadline:
            self._end_idle(idle_since, now)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._shared.none_left.wait()
        for guest in list(self._shared.guests):
            guest.abort()
        self._watch.stop()
        if self._sweep is not None:
            self._sweep.cancel()

    async def _stop_listening(self) -> None:
        """Listen no longer; who waits in the queue is let in, for the close would reset them."""
        server, listener = self._server, self._listener
        if server is None or listener is None:
            return
        self._server = self._listener = None
        queued = take_queued(listener)
        server.close()
        await asyncio.gather(*map(self._let_in, queued))

    async def _let_in(self, client: socket.socket) -> None:
        connection = self._connection()
        connection.end_with_next_answer()
        with suppress(OSError):  # gone, or no TLS
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                client,
                ssl=self._tls,
                ssl_handshake_timeout=self._drain_idle_s if self._tls else None,
            )

    def _end_idle(self, idle_since: dict[Guest, float], now: float) -> None:
        """Let every client know that its next answer is the last; close what stays idle."""
        for guest in list(self._shared.guests):
            if not guest.end_with_next_answer():
                idle_since.pop(guest, None)
            elif now - idle_since.setdefault(guest, now) > self._drain_idle_s:
                guest.close()


class LoopWatch:
    """Tells that the loop is overloaded, by how late a timer is.

    Twice in a row, so that one long pause is not taken for overload.
    """

    def __init__(self, shared: Shared, most_s: float, clock: Clock, recorder: Recorder) -> None:
        self._shared = shared
        self._most_s = most_s
        self._clock = clock
        self._recorder = recorder
        self._due = 0.0
        self._was_late = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._due = self._clock() + _WATCH_S
        self._timer = asyncio.get_running_loop().call_later(_WATCH_S, self._look)

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        late_s = self._clock() - self._due
        is_late = late_s > self._most_s
        overloaded, self._was_late = is_late and self._was_late, is_late
        shared = self._shared
        if overloaded and not shared.is_overloaded:
            self._recorder.event("overload_began", "error", lag_ms=round(late_s * 1000))
        elif shared.is_overloaded and not overloaded:
            self._recorder.event("overload_ended", "warning")
        shared.is_overloaded = overloaded
        self.start()
