"""The responses of one WebSocket, while they run: which event speaks of which, and what was seen.

A client may run responses side by side, each in a lane (`stream_id`); within a lane one follows the
other. Not every response was asked for by a `response.create`: a steered response has a successor,
and a realtime session answers when its user stops speaking.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from gateway.core.dialects.openai_realtime import OPENAI_REALTIME
from gateway.core.dialects.wire_format import WireFormat
from gateway.core.errors import UpstreamError
from gateway.core.meter import Observation
from gateway.core.socket_events import CREATED, TERMINAL, ClientEvent, ServerEvent
from gateway.ports import Clock
from gateway.trace import Trace

_OK = 200


class Run:
    """One response on its way: relay.Carried. `is_asked` tells that a client's event began it."""

    def __init__(self, trace: Trace, event: ClientEvent | None, clock: Clock) -> None:
        self.trace = trace
        self.event = event
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.id = ""
        self.sent = False
        self.status = 0
        self.error: UpstreamError | None = None
        self.complete = False
        self.client_left_early = False
        self.drain_cut = ""
        self.first_byte_at = 0.0
        self._clock = clock
        self._seen = Observation()

    @property
    def seen(self) -> Observation:
        """Return what was read so far."""
        return self._seen

    @property
    def is_stream(self) -> bool:
        """Return that it comes in events."""
        return True

    @property
    def answered(self) -> bool:
        """Return whether any event has come."""
        return self.status != 0

    def note(self, wire: WireFormat, data: bytes) -> None:
        """Read an event of the response."""
        if not self.status:
            self.status, self.first_byte_at = _OK, self._clock()
        answer = wire.read_answer(data)
        if answer is not None:
            self._seen.note(answer)

    def end(self, error: UpstreamError | None = None, *, client_left: bool = False) -> None:
        """End: complete, unless there is a reason why not."""
        if not self.done.done():
            self.error = error
            self.client_left_early = client_left
            self.complete = error is None and not client_left
            self.done.set_result(None)


class _Lane:
    def __init__(self) -> None:
        self.waiting: deque[Run] = deque()  # asked for, not begun
        self.current: Run | None = None


class Runs:
    """The open responses of a socket. `begin_unasked` makes one that no client asked for."""

    def __init__(self, wire: WireFormat, begin_unasked: Callable[[], Run]) -> None:
        self._wire = wire
        self._begin_unasked = begin_unasked
        self._lanes: dict[Any, _Lane] = {}
        self._by_id: dict[str, Run] = {}
        self.open: set[Run] = set()

    def expect(self, run: Run, event: ClientEvent) -> None:
        """Take note of a response that was asked for."""
        self.open.add(run)
        self._lane(event.stream_id).waiting.append(run)

    def note(self, event: ServerEvent, data: bytes) -> None:
        """Take in an event: begin, read on or end the response that it speaks of."""
        lane = self._lane(event.stream_id)
        run = self._run_of(event, lane)
        if run is None:
            return
        run.note(self._wire, data)
        if event.type in TERMINAL:
            self._end(run)
        elif event.type == "error" and run in lane.waiting:
            lane.waiting.remove(run)
            self._end(run)

    def end_all(self, error: UpstreamError | None = None, *, client_left: bool = False) -> None:
        """End whatever is open: one of the sockets is gone."""
        for run in list(self.open):
            self._end(run, error, client_left=client_left)

    def _lane(self, stream_id: Any) -> _Lane:
        return self._lanes.setdefault(repr(stream_id), _Lane())

    def _run_of(self, event: ServerEvent, lane: _Lane) -> Run | None:
        if event.type == CREATED:
            return self._begun(event.of_response, lane)
        if event.type == "error":
            return self._failing(event, lane)
        if not event.type.startswith("response."):
            return None
        run = self._by_id.get(event.of_response) or lane.current
        if run is None and event.type in TERMINAL:
            run = self._begun(event.of_response, lane)  # it ended before it began, in our eyes
        return run

    def _begun(self, response_id: str, lane: _Lane) -> Run:
        known = self._by_id.get(response_id)
        if known is not None:
            return known
        run = lane.waiting.popleft() if lane.waiting else self._begin_unasked()
        self.open.add(run)
        run.id = response_id
        if response_id:
            self._by_id[response_id] = run
        elif lane.current is not None:
            self._end(lane.current)
        lane.current = run
        return run

    def _failing(self, event: ServerEvent, lane: _Lane) -> Run | None:
        """Return the run that an error ends before it began, else the one that it speaks of.

        One that names no event speaks of the first that waits: only realtime errors name them.
        """
        named = event.error.event_id if event.error is not None else None
        for run in lane.waiting:
            if run.event is not None and run.event.event_id == named:
                return run
        names_events = self._wire is OPENAI_REALTIME
        if named is None and not names_events and lane.current is None and lane.waiting:
            return lane.waiting[0]
        return lane.current

    def _end(
        self, run: Run, error: UpstreamError | None = None, *, client_left: bool = False
    ) -> None:
        self.open.discard(run)
        self._by_id.pop(run.id, None)
        for name, lane in list(self._lanes.items()):
            if lane.current is run:
                lane.current = None
            if not lane.waiting and lane.current is None:
                del self._lanes[name]
        run.end(error, client_left=client_left)
