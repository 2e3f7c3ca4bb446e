"""The data plane's listener: accepts clients, bounds how long they may take, drains at the end."""

import asyncio
import socket
from contextlib import suppress

from gateway.core.configuration import DataPlane
from gateway.core.identity import ErrorShape
from gateway.ports import Answer, Clock, NewCallId, Recorder
from gateway.server.http1 import Carry, ClientConnection, OpenConnections
from gateway.server.refusals import Refusals

_SWEEP_S = 1.0


class DataServer:
    """Serves one inherited listening socket."""

    def __init__(
        self,
        plane: DataPlane,
        carry: Carry,
        refusals: Refusals,
        recorder: Recorder,
        clock: Clock,
        new_call_id: NewCallId,
    ) -> None:
        self._plane = plane
        self._carry = carry
        self._refusals = refusals
        self._recorder = recorder
        self._clock = clock
        self._new_call_id = new_call_id
        self._connections = OpenConnections()
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        """Return how many clients are connected."""
        return len(self._connections)

    def _connection(self) -> ClientConnection:
        return ClientConnection(
            self._carry,
            self._refuse,
            self._clock,
            self._connections,
            max_head_bytes=self._plane.max_head_bytes,
            max_body_bytes=self._plane.max_body_bytes,
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

    async def start(self, listener: socket.socket) -> None:
        """Accept clients from `listener`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=listener, backlog=1024)
        self._sweep = loop.call_later(_SWEEP_S, self._close_idle)

    def _close_idle(self) -> None:
        """Close clients that send no whole head in time, and those idle for too long."""
        now = self._clock()
        for connection in list(self._connections):
            if connection.is_busy:
                continue
            limit_ms = (
                self._plane.idle_timeout_ms
                if connection.is_between_requests
                else self._plane.header_timeout_ms
            )
            if (now - connection.last_active_at) * 1000 > limit_ms:
                connection.close()
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._close_idle)

    async def drain(self) -> None:
        """Accept no more, let open calls finish within `drain_ms`, then cut the rest."""
        if self._sweep is not None:
            self._sweep.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close_when_answered()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plane.drain_ms / 1000):
                await self._connections.none_left.wait()
        for connection in list(self._connections):
            connection.abort()
